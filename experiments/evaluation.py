"""Running a cell of `focus.evaluation` over its questions: one record each, resumable."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from analysis.breakdown import breakdown
from analysis.summary import summarise
from experiments.logging import ReportedProgress, Run
from focus.benchmarks import Example
from focus.errors import FocusError, InvalidValueError, TooManyFailuresError
from focus.evaluation import ITEM_ERRORS, Cell, answered, failed_answer, identity_fields
from focus.records import Record, RecordFile

#: Share of questions that may fail; a run is given up when more have, of `FEWEST` at the least.
MOST_FAILED, FEWEST = 0.05, 20


def evaluate_cell(
    cell: Cell, records: RecordFile, progress: Progress, *, limit: int | None
) -> None:
    """Answers every question that has no record yet and appends its record.

    A question that cannot be processed is recorded with its error and counts as wrong.

    Raises:
        TooManyFailuresError: more than 5% of the questions failed; all records are kept.
        RecordsConflictError: a question is no longer what it was when it was recorded.
        InvalidValueError: the benchmark has no question.
    """
    if not len(cell.benchmark):
        raise InvalidValueError("benchmark", cell.benchmark.name, "one with questions in this part")
    total = len(cell.benchmark) if limit is None else min(limit, len(cell.benchmark))
    labels = {**cell.labels, "config": records.config_hash}
    mine = [index for index in range(total) if records.shard is None or index in records.shard]
    task = progress.add_task(cell.title, total=len(mine))
    earlier = {  # of sessions before this one; a second call is no way past the limit
        record["index"]: record["error"]
        for record in records.records
        if record.get("error") and cell.labels.items() <= record.items()
    }
    failures: list[str] = []
    done = 0
    for start in range(0, len(mine), cell.engine.batch):
        part = mine[start : start + cell.engine.batch]
        answers = records_of(cell, part, labels, records)
        for index in part:
            done += 1
            record = answers.get(index)
            if record is not None:
                records.append(record)
            error = earlier.get(index) if record is None else record["error"]
            failures += [error] if error else []
            if len(failures) > MOST_FAILED * max(done, FEWEST):
                raise TooManyFailuresError(_failures(cell, failures, done))
        progress.advance(task, len(part))
    if len(failures) > MOST_FAILED * len(mine):
        raise TooManyFailuresError(_failures(cell, failures, len(mine)))


def records_of(
    cell: Cell, indices: Sequence[int], labels: Mapping[str, Any], records: RecordFile
) -> dict[int, Record]:
    """Records of the questions at `indices`, asked together; those with nothing (left) to ask
    are left out."""
    found: dict[int, Record] = {}
    examples: dict[int, Example] = {}
    for index in indices:
        try:
            example = cell.benchmark[index]
        except ITEM_ERRORS as caught:
            own = {**labels, "id": f"#{index}"}
            if own not in records:
                found[index] = {**own, "index": index, **failed_answer(None, caught)}
            continue
        turned = cell.order and len(example.permutation) <= cell.order  # full circle
        asked = {"id": example.id, "index": index, "answer": example.answer}
        if not turned and {**labels, **asked, **identity_fields(example)} not in records:
            examples[index] = example
    answers = answered(cell, list(examples.values()))
    for (index, example), answer in zip(examples.items(), answers, strict=True):
        own = {**labels, "id": example.id, "index": index}
        told = failed_answer(example, answer) if isinstance(answer, FocusError) else answer
        found[index] = {**own, **told}
    return found


def _failures(cell: Cell, errors: Sequence[str], asked: int) -> str:
    kinds = Counter(error.partition(":")[0] for error in errors)
    counted = ", ".join(f"{count} x {kind}" for kind, count in kinds.most_common())
    return (
        f"{len(errors)} of {asked} questions of {cell.title} could not be processed ({counted}), "
        f"more than {MOST_FAILED:.0%}; the first: {errors[0]} (all are in the records; "
        "retry_failed=true asks these questions again)"
    )


def set_threads(threads: int | None) -> None:
    """Number of threads that PyTorch computes with; None leaves its own choice.

    Raises:
        InvalidValueError: not a positive integer.
    """
    if threads is None:
        return
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InvalidValueError("threads", threads, "a positive integer, or null")
    torch.set_num_threads(threads)


def write_summary(folder: Path, records: list[Record], **extra: Any) -> list[dict[str, Any]]:
    """Writes `summary.json` and returns its rows."""
    rows = summarise(records)
    extra = {"breakdown": breakdown(records), **extra}
    text = json.dumps({"rows": rows, **extra}, indent=2, ensure_ascii=False)
    (folder / "summary.json").write_text(text + "\n", encoding="utf-8")
    return rows


class RateColumn(ProgressColumn):
    """Questions per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s")


@contextmanager
def progress_bars(console: Console, run: Run | None = None) -> Iterator[Progress]:
    """One bar per cell, with rate and remaining time; reported to a run as well."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        RateColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with ReportedProgress(run or Run(), *columns, console=console, refresh_per_second=4) as bars:
        yield bars


def make_console() -> Console:
    """Console that does not fold wide tables where there is no terminal to fit into."""
    width = max(160, shutil.get_terminal_size().columns)
    console = Console()
    return console if console.is_terminal else Console(width=width)
