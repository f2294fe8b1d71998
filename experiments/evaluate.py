"""Evaluates one strategy on one benchmark, next to plain decoding on the same questions.

    python -m experiments.evaluate decoding=focus decoding.alpha=0.3 decoding.noise.name=gaussian \\
        benchmark=indexed benchmark.world=digits model=internvl_abstaining

Records, summary and configuration go to a folder of their own for every configuration; running the
same command again finishes what is missing and computes nothing twice.
"""

from __future__ import annotations

from experiments.config import check_command_line

check_command_line("config", __name__)  # before the seconds that the other imports take

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from analysis.figures import accuracy_figure, save_figure
from analysis.summary import BASELINE
from analysis.tables import length_note, power_note, summary_table
from experiments.cell_reports import report_cells
from experiments.config import CONF, build, build_settings, entry_point, plain
from experiments.evaluation import (
    evaluate_cell,
    make_console,
    progress_bars,
    set_threads,
    write_summary,
)
from experiments.logging import Run, reported
from experiments.tuning import Choice, choice_path, note, read_choice, to_dev
from focus.benchmarks import AbstractBenchmark
from focus.decoding import AbstractDecoding
from focus.environment import environment, session_facts
from focus.errors import CheckpointUnavailableError, DatasetUnavailableError, UnknownNameError
from focus.evaluation import Cell, variants
from focus.models import VisionLanguageModel
from focus.records import Record, RecordFile, Shard, digest, identity

UNAVAILABLE = "unavailable.json"
#: Folder of the plain runs, which all strategies on the same questions share.
PLAIN = "plain"
#: Why a model could not be loaded: the jobs of a multirun share a process and need not try again.
_missing_weights: dict[str, str] = {}
#: The last model, by its settings: the jobs of a sweep load it once. Only one, for its memory.
_loaded: dict[str, VisionLanguageModel] = {}


@entry_point("config")
@reported
def main(config: DictConfig, run: Run) -> None:
    """Runs the cell that the configuration describes."""
    set_threads(config.threads)
    started = time.perf_counter()
    shard = Shard.parse(config.shard)
    choices, console = HydraConfig.get().runtime.choices, make_console()
    if config.tune:
        to_dev(config.benchmark)
    benchmark = build(config.benchmark)
    tuned = choice_path(
        config.tuned or config.tune or "", choices["model"], benchmark.name, benchmark.protocol
    )
    if config.tuned and "alpha" in config.decoding:
        console.print(use_choice(config.decoding, read_choice(tuned), tuned), soft_wrap=True)
    decoding = build(config.decoding)
    settings = build_settings(config.settings, benchmark.max_new_tokens)
    baseline = config.decoding if decoding.name == BASELINE else plain_decoding(config.baseline)
    determining = {
        key: plain(config)[key] for key in ("model", "benchmark", "decoding", "settings")
    }
    make_engine = build(config.engine)
    if not make_engine.func.needs_weights:  # the same questions, but numbers of other kernels
        determining["engine"] = {"name": choices["engine"], "model": config.engine.model}
    suffix = f"{choices['decoding']}-{digest(identity(determining))[:8]}"
    root = Path(config.results)
    try:
        vlm = load(config.model, benchmark, weights=make_engine.func.needs_weights)
    except (CheckpointUnavailableError, DatasetUnavailableError) as error:
        if not config.skip_unavailable:
            raise
        model = config.model.get("name", choices["model"])
        folder = root / f"{benchmark.name}-{model}-{suffix}"
        missing = note_unavailable(folder, benchmark.name, model, error)
        console.print(f"{folder.name}: not run, {missing} not here: {error}", soft_wrap=True)
        return
    engine = make_engine(vlm)
    facts: Record = {
        "image_backend": vlm.backend,
        "budget": vlm.budget,
        "generation": settings.resolved(vlm.model.generation_config),
    }

    def cells(strategy: AbstractDecoding) -> list[Cell]:
        cell = Cell(engine, benchmark, strategy, settings, strategy.name)
        return variants(cell, orders=config.orders, noise_seeds=config.noise_seeds)

    asked = {key: config[key] for key in ("limit", "orders", "noise_seeds")}
    opening: dict[str, Any] = {"shard": shard, "retry_failed": config.retry_failed}
    plain_cells = [] if baseline is None else cells(build(baseline))
    own_cells = [] if decoding.name == BASELINE else cells(decoding)
    with progress_bars(console, run) as progress:
        known: list[Record] = []
        if plain_cells:
            shared = {**determining, "decoding": plain(cast(DictConfig, baseline))}
            folder = root / PLAIN / f"{benchmark.name}-{vlm.name}-{digest(identity(shared))[:8]}"
            with RecordFile(folder, shared, wait=True, **opening) as records:
                for cell in plain_cells:
                    evaluate_cell(cell, records, progress, limit=config.limit)
                known = list(records.records)
                records.finish(facts, asked=asked)
        folder = root / f"{benchmark.name}-{vlm.name}-{suffix}"
        with RecordFile(folder, determining, **opening) as records:
            (records.folder / UNAVAILABLE).unlink(missing_ok=True)
            take_over(known, plain_cells, records, limit=config.limit)
            for cell in own_cells:
                evaluate_cell(cell, records, progress, limit=config.limit)
            facts |= engine.facts()
            facts |= session_facts(started)
            complete = records.finish(facts, asked=asked)
    if not complete:
        console.print(f"shard {shard} is done; others are not: {records.folder}", soft_wrap=True)
        return
    rows = write_summary(records.folder, records.records)
    console.print(summary_table(rows, title=f"{choices['decoding']} on {benchmark.name}"))
    if config.tune:
        origin = {"seed": config.seed, "commit": environment()["commit"]}
        made = note(tuned, config.decoding.alpha, decoding.name, rows, origin)
        best = f"alpha {made['alpha']} has the highest {made['metric']} on dev so far: {tuned}"
        console.print(best, soft_wrap=True)
    for remark in (power_note(rows), length_note(rows), f"records: {records.folder}"):
        if remark:
            console.print(remark, soft_wrap=True)
    figure = records.folder / "accuracy.png"
    save_figure(accuracy_figure(rows, ["accuracy"]), figure)
    report_cells(run, [*plain_cells[:1], *own_cells[:1]], records.records, rows)
    run.figures({"accuracy": figure})
    run.records(records.folder)


def take_over(
    known: Sequence[Record], cells: Sequence[Cell], records: RecordFile, *, limit: int | None
) -> None:
    """Copies the plain answers to a run's questions, in the order in which it would ask them."""
    for cell in cells:
        for record in known:
            mine = records.shard is None or record["index"] in records.shard
            asked = mine and (limit is None or record["index"] < limit)
            if asked and cell.labels.items() <= record.items() and record not in records:
                records.append({**record, "config": records.config_hash})


def use_choice(decoding: DictConfig, choice: Choice | None, path: Path) -> str:
    """Sets the contrast weight that was chosen on dev, and says which it is and why."""
    if choice is None:
        return f"alpha {decoding.alpha} as configured: none was chosen on dev ({path} is not there)"
    decoding.alpha = choice["alpha"]
    best = choice["curve"][str(choice["alpha"])]
    return (
        f"alpha {choice['alpha']}, chosen on dev by {choice['metric']} {best['value']:.3f} "
        f"(n = {best['n']}; {path})"
    )


def plain_decoding(option: str | None) -> DictConfig | None:
    """Configuration of the plain decoding that a strategy is compared with; None for none.

    Raises:
        UnknownNameError: no plain decoding of that name in conf/decoding.
    """
    if option is None:
        return None
    options = sorted(path.stem for path in (CONF / "decoding").glob(f"{BASELINE}*.yaml"))
    if option not in options:
        raise UnknownNameError("baseline", option, [*options, "null"])
    return cast(DictConfig, OmegaConf.load(CONF / "decoding" / f"{option}.yaml"))


def load(
    model: DictConfig, benchmark: AbstractBenchmark, *, weights: bool = True
) -> VisionLanguageModel:
    """The model, once it is known that there are questions for it; see `Checkpoint.load`.

    Raises:
        CheckpointUnavailableError, DatasetUnavailableError: one of them cannot be had here.
    """
    key = digest([plain(model), weights])
    if key in _missing_weights:
        raise CheckpointUnavailableError(_missing_weights[key])
    if key not in _loaded:
        _loaded.clear()  # before the next one takes its memory
        try:
            _loaded[key] = build(model).load(weights=weights)
        except CheckpointUnavailableError as error:
            _missing_weights[key] = str(error)
            raise
    len(benchmark)  # reads the data set
    return _loaded[key]


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
