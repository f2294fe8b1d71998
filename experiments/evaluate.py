"""Evaluates one strategy on one benchmark, next to plain decoding on the same questions.

    python -m experiments.evaluate decoding=focus decoding.alpha=0.3 decoding/noise=gaussian \\
        benchmark=scenes_indexed model=internvl_abstaining

Records, summary and configuration go to a folder of their own for every configuration; running the
same command again finishes what is missing and computes nothing twice.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from analysis.figures import accuracy_figure, save_figure
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
from focus.benchmarks import AbstractBenchmark
from focus.decoding import Vanilla
from focus.errors import CheckpointUnavailableError, DatasetUnavailableError
from focus.models import VisionLanguageModel
from focus.records import RecordFile, digest, peak_memory

UNAVAILABLE = "unavailable.json"
#: Why a model could not be loaded: the jobs of a multirun share a process, and without a network
#: every attempt takes half a minute.
_missing_weights: dict[str, str] = {}


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
    console = make_console()
    suffix = f"{choice}-{digest(determining)[:8]}"
    try:
        vlm = load(config.model, benchmark)
    except (CheckpointUnavailableError, DatasetUnavailableError) as error:
        if not config.skip_unavailable:
            raise
        model = config.model.get("name", hydra.runtime.choices["model"])
        folder = Path(config.results) / f"{benchmark.name}-{model}-{suffix}"
        missing = note_unavailable(folder, benchmark.name, model, error)
        console.print(f"{folder.name}: not run, {missing} not here: {error}", soft_wrap=True)
        return
    name = f"{benchmark.name}-{vlm.name}-{suffix}"
    cells = [Cell(vlm, benchmark, decoding, settings, decoding.name)]
    if config.baseline and decoding.name != BASELINE:
        cells.insert(0, Cell(vlm, benchmark, Vanilla(), settings, BASELINE))
    with RecordFile(Path(config.results) / name, determining) as records:
        (records.folder / UNAVAILABLE).unlink(missing_ok=True)
        with progress_bars(console) as progress:
            for cell in cells:
                for each in variants(cell, orders=config.orders, noise_seeds=config.noise_seeds):
                    evaluate_cell(each, records, progress, limit=config.limit)
        rows = write_summary(records.folder, records.records)
        seconds = round(time.perf_counter() - started, 1)
        records.finish(seconds=seconds, image_backend=vlm.backend, **peak_memory())
    console.print(summary_table(rows, title=f"{choice} on {benchmark.name}"))
    console.print(power_note(rows), soft_wrap=True)
    console.print(f"records: {records.folder}", soft_wrap=True)
    figure = records.folder / "accuracy.png"
    save_figure(accuracy_figure(rows, ["accuracy"]), figure)
    report_cells(
        logger,
        cells,
        records.records,
        rows,
        experiment=hydra.runtime.choices["experiment"] or "evaluate",
        config=plain(config),
        overrides=" ".join(hydra.overrides.task),
        figures=[str(figure)],
    )


def load(model: DictConfig, benchmark: AbstractBenchmark) -> VisionLanguageModel:
    """The model, once it is known that there are questions for it.

    Raises:
        CheckpointUnavailableError, DatasetUnavailableError: one of them cannot be had here.
    """
    key = digest(plain(model))
    if key in _missing_weights:
        raise CheckpointUnavailableError(_missing_weights[key])
    try:
        vlm: VisionLanguageModel = build(model).load()
    except CheckpointUnavailableError as error:
        _missing_weights[key] = str(error)
        raise
    len(benchmark)  # reads the data set
    return vlm


def note_unavailable(folder: Path, benchmark: str, model: str, error: Exception) -> str:
    """Writes why a cell was left out, and returns what is missing: weights or data."""
    missing = "weights" if isinstance(error, CheckpointUnavailableError) else "data"
    note: dict[str, Any] = {"benchmark": benchmark, "model": model, "missing": missing}
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**note, "reason": str(error)}, indent=2, ensure_ascii=False)
    (folder / UNAVAILABLE).write_text(text + "\n", encoding="utf-8")
    return missing


if __name__ == "__main__":
    main()
