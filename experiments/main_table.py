"""Prints the paper's comparison: published numbers beside ours, and what has not been run.

    python -m experiments.main_table                                    (make main-table)
    python -m experiments.main_table folder=results/main_table_official (make main-table OFFICIAL=1)

Reads what `experiment=main_table` or `main_table_official` left in its folder, and asks no network.
The table is also written there, as table.md and table.csv.
"""

from __future__ import annotations

from experiments.config import check_command_line

check_command_line("main_table", __name__)  # before the seconds that the other imports take

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import huggingface_hub
from omegaconf import DictConfig, OmegaConf

from analysis.main_table import (
    EMBEDDED,
    OURS,
    Row,
    adjust,
    cell_rows,
    csv_frame,
    markdown,
    missing_rows,
    notes,
    reasons_of,
    source_names,
    terminal_table,
)
from analysis.summary import BASELINE
from experiments.config import CONF, entry_point
from experiments.evaluate import UNAVAILABLE
from experiments.evaluation import make_console
from experiments.logging import Run, reported
from focus.benchmarks.hub import AbstractHubBenchmark
from focus.benchmarks.registry import BENCHMARKS
from focus.records import read_records

EXPERIMENT = CONF / "experiment" / "main_table.yaml"
DEMOS = (Path("results/demo"), Path("docs/demo"))
RUN_IT = "make main-table RUN=1"


@dataclass(frozen=True)
class Found:
    """What a results folder says about one cell."""

    benchmark: str
    model: str
    rows: list[Row]


@entry_point("main_table")
@reported
def main(config: DictConfig, run: Run) -> None:
    """Prints the table and writes it beside the records."""
    folder = Path(config.folder)
    rows = main_rows(folder)
    embedded, source = embedded_rows(DEMOS)
    console = make_console()
    protocol = "official" if folder.name.endswith("official") else "strict"
    title = f"published and ours under the {protocol} protocol, in percent"
    console.print(terminal_table(rows, title=title))
    for reason in reasons_of(rows):
        console.print(f"- {reason}", soft_wrap=True, markup=False)
    if embedded:
        console.print(terminal_table(embedded, title=f"embedded models ({source})"))
    for note in notes():
        console.print(f"- {note}", soft_wrap=True, markup=False)
    for number, source in enumerate(source_names(), start=1):
        console.print(f"({number}) {source}", soft_wrap=True, markup=False)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.md").write_text(markdown(rows, embedded, source), encoding="utf-8")
    frame = csv_frame([*rows, *embedded])
    frame.to_csv(folder / "table.csv", index=False)
    console.print(f"table: {folder / 'table.md'}, {folder / 'table.csv'}")
    run.table("table", frame)
    run.records(folder / "table.csv")


def main_rows(folder: Path) -> list[Row]:
    """Rows of every cell of the grid, then of other cells in the folder."""
    found = [cell for path in sorted(folder.glob("*/")) if (cell := read_cell(path))]
    rows: list[Row] = []
    places = {(benchmark, model): option for benchmark, (model, option) in grid()}
    for (benchmark, model), option in places.items():
        own = [cell for cell in found if (cell.benchmark, cell.model) == (benchmark, model)]
        finished = [cell for cell in own if cell.rows[0]["status"] == "run"]
        for cell in finished or own[:1]:
            rows += cell.rows
        if not own:
            status, reason = what_is_missing(benchmark, option)
            rows += missing_rows(benchmark, model, status, reason)
    for cell in found:
        if (cell.benchmark, cell.model) not in places:
            rows += cell.rows
    adjust(rows)
    return rows


def grid() -> list[tuple[str, tuple[str, str]]]:
    """Benchmarks, each with every model: its name in records and its option in conf/model."""
    params = OmegaConf.load(EXPERIMENT).hydra.sweeper.params
    options = params.model.split(",")
    models = [(str(_model(option).name), option) for option in options]
    return list(itertools.product(params.benchmark.split(","), models))


def read_cell(folder: Path) -> Found | None:
    """What a folder holds: results, a note of what was missing, a run not finished, or nothing."""
    run, note = folder / "run.json", folder / UNAVAILABLE
    files = sorted(folder.glob("records*.jsonl"))  # several where shards are not merged yet
    records = [
        record
        for path in files
        for record in read_records(path)
        if record["decoding"] in (BASELINE, OURS)
    ]
    ids = [{r["id"] for r in records if r["decoding"] == name} for name in (BASELINE, OURS)]
    ended = (
        files == [folder / "records.jsonl"]
        and run.is_file()
        and "sessions" in json.loads(run.read_text(encoding="utf-8"))
    )
    if ended and records and ids[0] == ids[1]:
        return _found(cell_rows(records), folder)
    if note.is_file():
        said = json.loads(note.read_text(encoding="utf-8"))
        status = f"not run: {said['missing']} not here"
        return _found(
            missing_rows(said["benchmark"], said["model"], status, said["reason"]), folder
        )
    if not records:
        return None
    benchmark, model = records[0]["benchmark"], records[0]["model"]
    reason = f"{len(records)} answers so far; {RUN_IT} goes on"
    return _found(missing_rows(benchmark, model, "not finished", reason), folder)


def _found(rows: list[Row], folder: Path) -> Found:
    located = [{**row, "folder": folder.name} for row in rows]
    return Found(located[0]["benchmark"], located[0]["model"], located)


def what_is_missing(benchmark: str, option: str) -> tuple[str, str]:
    """Why a cell that was never tried cannot be run here, by the local cache of the hub."""
    model = _model(option)
    if not Path(model.source).is_dir() and not isinstance(
        huggingface_hub.try_to_load_from_cache(
            model.source, "config.json", revision=model.revision
        ),
        str,
    ):
        return "not run: weights not here", (
            f"{model.source} is not in the local cache; with a network, {RUN_IT} gets it"
        )
    kind = BENCHMARKS[benchmark]
    if issubclass(kind, AbstractHubBenchmark):
        source = kind.source
        try:
            huggingface_hub.snapshot_download(
                source.repo, repo_type="dataset", revision=source.revision, local_files_only=True
            )
        except (OSError, ValueError):
            return "not run: data not here", (
                f"{source.repo} is not in the local cache; with a network, {RUN_IT} gets it"
                + (f" once its conditions are accepted at {source.card}" if source.gated else "")
            )
    return "not run", f"weights and data are here: {RUN_IT}"


def embedded_rows(folders: Sequence[Path]) -> tuple[list[Row], str]:
    """Rows of the embedded models from the first folder with a finished demo, and its name."""
    for folder in folders:
        if (folder / "summary.json").is_file() and (folder / "records.jsonl").is_file():
            records = list(read_records(folder / "records.jsonl"))
            rows: list[Row] = []
            models = dict.fromkeys(record["model"] for record in records)
            for benchmark, model in itertools.product(EMBEDDED, models):
                own = [r for r in records if (r["benchmark"], r["model"]) == (benchmark, model)]
                rows += cell_rows(own) if own else []
            adjust(rows)
            return rows, str(folder)
    return [], ""


def _model(option: str) -> DictConfig:
    return cast(DictConfig, OmegaConf.load(CONF / "model" / f"{option}.yaml"))


if __name__ == "__main__":
    main()
