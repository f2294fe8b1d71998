"""Candidate rules against the published sum, cell by cell: is one of them better everywhere?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from analysis.ablations import PLAIN, Record, of_kind
from analysis.comparisons import compare
from analysis.statistics import holm
from focus.marks import TEXT

PUBLISHED = "sum"
#: They know the asked image: upper bounds of isolation, no methods.
BOUNDS = ("oracle", "single_image")
NO_CANDIDATES = (PUBLISHED, PLAIN, *BOUNDS)
CELL = ("model", "world", "kind", "num_images")
#: Error rate of the family of all cells of a split.
LEVEL = 0.05
SPLITS = ("dev", "test")


def rule_cells(
    records: Iterable[Record],
    *,
    by: Sequence[str] = CELL,
    reading: str = TEXT,
    bounded: bool = False,
) -> pd.DataFrame:
    """Every candidate minus the sum in every cell.

    Args:
        records: of the experiment.
        by: settings that cells are apart by; all others are put together.
        reading: of the answers.
        bounded: with intervals, which of thousands of cells take a minute.

    Returns:
        Columns of `analysis.comparisons.compare` with split and rule; p_holm is over all rules and
        cells of a split; ``outcome`` is won, tied or lost.
    """
    records = list(records)
    parts = []
    for split in SPLITS:
        candidates = [rule for rule in _rules(records, split) if rule not in NO_CANDIDATES]
        cells = _against(records, split, candidates, ("rule", *by), reading, bounded=bounded)
        if len(cells):
            cells = cells.assign(split=split, p_holm=holm(cells["p_value"].tolist()))
            parts.append(cells.assign(outcome=_outcomes(cells)))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def judge(
    records: Iterable[Record], *, reading: str = TEXT, cells: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Cells won, tied and lost against the sum, and the mean difference, per split and rule.

    Args:
        records: of the experiment.
        reading: of the answers.
        cells: of `rule_cells` in that reading, where they are known.

    Returns:
        Columns split, rule, cells, won, tied, lost, and delta, delta_low, delta_high over all
        questions (pairs of minimal pairs) of all models, whose answers to one question are one
        unit: the interval is over questions, for these models.
    """
    records = list(records)
    cells = rule_cells(records, reading=reading) if cells is None else cells
    if cells.empty:
        return cells
    wholes = {
        split: _against(
            records, split, [*part["rule"].unique()], ("rule",), reading, tested=False
        ).set_index("rule")
        for split, part in cells.groupby("split")
    }
    rows = []
    for (split, rule), part in cells.groupby(["split", "rule"], sort=False):
        whole = wholes[split].loc[rule]
        rows.append(
            {
                "split": split,
                "rule": rule,
                "cells": len(part),
                **count(part["outcome"]),
                **{name: whole[name] for name in ("delta", "delta_low", "delta_high")},
            }
        )
    return pd.DataFrame(rows)


#: What the rules of the regimes are compared with, and which rules: one at most has to be settled.
REGIMES = (
    ("sum", PLAIN),
    ("max", PLAIN),
    ("routed", PLAIN),
    ("max", "sum"),
    ("routed", "sum"),
    ("max", "routed"),
)


def regimes(
    records: Iterable[Record],
    kinds: Mapping[str, str],
    *,
    split: str = "test",
    reading: str = TEXT,
) -> pd.DataFrame:
    """The published sum, the maximum, routed FOCUS and plain decoding against each other.

    Args:
        records: of the experiment.
        kinds: by model.
        split: of the questions.
        reading: of the answers.

    Returns:
        One row for each comparison of `REGIMES` and kind of model: columns rule, base, kind, cells,
        won, tied, lost (after Holm's adjustment over all cells of the comparison) and delta, the
        mean difference over cells.
    """
    records, rows = list(records), []
    for rule, base in REGIMES:
        cells = against(records, rule, base, split=split, reading=reading)
        if cells.empty:
            continue
        for kind, part in cells.groupby(cells["model"].map(kinds)):
            row = {"rule": rule, "base": base, "kind": kind, "cells": len(part)}
            rows.append(row | count(part["outcome"]) | {"delta": part["delta"].mean()})
    return pd.DataFrame(rows)


def against(
    records: Iterable[Record], rule: str, base: str, *, split: str = "test", reading: str
) -> pd.DataFrame:
    """One rule minus another in every cell, won, tied or lost after Holm's adjustment over all."""
    other = {"rule": base} if base == PLAIN else {"rule": base, "split": split}
    first = {"rule": rule, "split": split}
    cells = compare(records, first, other, by=CELL, reading=reading, bounded=False)
    if cells.empty:
        return cells
    cells = cells.assign(p_holm=holm(cells["p_value"].tolist()))
    return cells.assign(outcome=_outcomes(cells))


def count(outcomes: pd.Series) -> dict[str, int]:
    """How many cells have each outcome."""
    return {name: int((outcomes == name).sum()) for name in ("won", "tied", "lost")}


def _against(
    records: list[Record],
    split: str,
    rules: list[str],
    by: tuple[str, ...],
    reading: str,
    *,
    bounded: bool = True,
    tested: bool = True,
) -> pd.DataFrame:
    return compare(
        records, {"rule": rules, "split": split}, {"rule": PUBLISHED, "split": split},
        by=by, reading=reading, bounded=bounded, tested=tested,
    )  # fmt: skip


def _rules(records: list[Record], split: str) -> list[str]:
    lines = of_kind(records, "answers")
    return list(dict.fromkeys(line["rule"] for line in lines if line["split"] == split))


def _outcomes(cells: pd.DataFrame) -> list[str]:
    return [
        "tied" if p >= LEVEL else "won" if delta > 0 else "lost"
        for p, delta in zip(cells["p_holm"], cells["delta"], strict=True)
    ]
