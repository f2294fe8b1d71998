"""Evaluates one strategy on one benchmark, next to plain decoding on the same questions.

    python -m experiments.evaluate decoding=focus decoding.alpha=0.3 decoding/noise=gaussian \\
        benchmark=shapes_indexed model=shapes_abstaining

Records, summary and configuration go to a folder of their own for every configuration; running the
same command again finishes what is missing and computes nothing twice.
"""

from __future__ import annotations

import time
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from analysis.tables import BASELINE, power_note, summary_table
from experiments.config import build, entry_point, plain
from experiments.evaluation import (
    Cell,
    evaluate_cell,
    make_console,
    progress_bars,
    report_cells,
    set_threads,
    variants,
    write_summary,
)
from focus.decoding import Vanilla
from focus.records import RecordFile, digest, peak_memory


@entry_point("config")
def main(config: DictConfig) -> None:
    """Runs the cell that the configuration describes."""
    set_threads(config.threads)
    started = time.perf_counter()
    determining = {
        key: plain(config)[key] for key in ("model", "benchmark", "decoding", "settings")
    }
    benchmark, decoding = build(config.benchmark), build(config.decoding)
    settings, logger = build(config.settings), build(config.logger)
    hydra = HydraConfig.get()
    choice = hydra.runtime.choices["decoding"]
    vlm = build(config.model).load()
    name = f"{benchmark.name}-{vlm.name}-{choice}-{digest(determining)[:8]}"
    cells = [Cell(vlm, benchmark, decoding, settings, decoding.name)]
    if config.baseline and decoding.name != BASELINE:
        cells.insert(0, Cell(vlm, benchmark, Vanilla(), settings, BASELINE))
    console = make_console()
    with RecordFile(Path(config.results) / name, determining) as records:
        with progress_bars(console) as progress:
            for cell in cells:
                for each in variants(cell, orders=config.orders, noise_seeds=config.noise_seeds):
                    evaluate_cell(each, records, progress, limit=config.limit)
        rows = write_summary(records.folder, records.records)
        records.finish(seconds=round(time.perf_counter() - started, 1), **peak_memory())
    console.print(summary_table(rows, title=f"{choice} on {benchmark.name}"))
    console.print(power_note(rows), soft_wrap=True)
    console.print(f"records: {records.folder}", soft_wrap=True)
    report_cells(
        logger,
        cells,
        records.records,
        rows,
        experiment=hydra.runtime.choices["experiment"] or "evaluate",
        config=plain(config),
        overrides=" ".join(hydra.overrides.task),
    )


if __name__ == "__main__":
    main()
