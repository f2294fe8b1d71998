"""What evaluations tell a logger of their cells."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pandas as pd

from analysis.summary import CELL
from experiments.logging import Run, samples
from focus.benchmarks import AbstractBenchmark, Example
from focus.evaluation import ITEM_ERRORS, Cell
from focus.records import Record

#: Columns of a summary that are told.
SUMMARISED = [
    *("metric", "value", "ci_low", "ci_high", "n", "delta", "delta_low", "delta_high", "p_value")
]


def report_cells(
    run: Run, cells: Sequence[Cell], records: Sequence[Record], rows: Sequence[dict[str, Any]]
) -> None:
    """Reports numbers of cells, also by category, and a few questions of each.

    Args:
        run: what they are reported to.
        cells: plain ones, since rows of a summary name no order and no seed.
        records: of these cells and of others.
        rows: of their summary.
    """
    mine = [r for r in records if any(cell.labels.items() <= r.items() for cell in cells)]
    named = {tuple(cell.labels[key] for key in CELL) for cell in cells}
    table = pd.DataFrame([row for row in rows if tuple(row[key] for key in CELL) in named])
    run.table("cells", table.reindex(columns=[*CELL, *SUMMARISED]))
    categories = pd.DataFrame(mine).groupby([*CELL, "category"])["correct"].agg(["mean", "size"])
    names = {"mean": "accuracy", "size": "n"}
    run.table("categories", categories.reset_index().rename(columns=names))
    benchmarks = {cell.benchmark.name: cell.benchmark for cell in cells}
    asked = [example for each in benchmarks.values() for example in first_examples(each)]
    run.table("samples", samples(asked, mine, [*CELL, "text", "choice_answer", "correct"]))


def first_examples(benchmark: AbstractBenchmark, number: int = 8) -> list[Example]:
    """The first questions that can be read."""
    found = []
    for index in range(min(number, len(benchmark))):
        with suppress(*ITEM_ERRORS):
            found.append(benchmark[index])
    return found
