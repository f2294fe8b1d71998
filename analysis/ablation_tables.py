"""Tables of the ablations, as text for a document, and frames that figures are drawn from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.ablations import (
    PLAIN,
    Record,
    adaptive_curve,
    by_label,
    of_kind,
    values_of,
)
from analysis.answers import VOCABULARY


def proportion(row: pd.Series) -> str:
    """Value, and its paired difference to plain decoding with interval.

    >>> proportion(pd.Series({"value": 0.5, "delta": np.nan}))
    '0.500'
    """
    text = f"{row['value']:.3f}"
    if pd.isna(row.get("delta")):
        return text
    return f"{text} ({row['delta']:+.3f} [{row['delta_low']:+.3f}, {row['delta_high']:+.3f}])"


def pivot_markdown(frame: pd.DataFrame, index: Sequence[str]) -> str:
    """Settings down, models across; in each cell accuracy (difference to plain [95%]).

    Args:
        frame: from `analysis.ablations.answers_frame`.
        index: columns that name a line of the table; those of one value are left out. The column
            n is the least number of questions of a cell.
    """
    index = [name for name in index if frame[name].nunique(dropna=False) > 1] or [index[-1]]
    text = frame.assign(cell=frame.apply(proportion, axis=1))
    keys = {name: text[name].map(_setting) for name in index}
    text = text.assign(**keys)
    table = text.pivot_table(index=index, columns="model", values="cell", aggfunc="first",
                             sort=False)  # fmt: skip
    table.insert(0, "n", text.groupby(index, sort=False)["n"].min())
    return table.fillna("-").reset_index().to_markdown(index=False, disable_numparse=True)


def _setting(value: Any) -> str:
    return "" if pd.isna(value) else f"{value:g}" if isinstance(value, float) else str(value)


def label_frame(
    records: Iterable[Record], column: str, *, reading: str = VOCABULARY
) -> pd.DataFrame:
    """Accuracy by a label of the questions, worlds put together.

    Args:
        records: of one experiment.
        column: of the ``questions`` records: ``target`` (place, counted from 1), ``domain`` or
            ``answer``.
        reading: of the answers.

    Returns:
        Columns model, kind, num_images, rule, label, value, ci_low, ci_high, n.
    """
    records = list(records)
    known = {r["questions"]: r[column] for r in of_kind(records, "questions")}
    groups: dict[tuple[Any, ...], tuple[list[int], list[Any]]] = {}
    for line in of_kind(records, "answers"):
        if line["reading"] != reading or "marks" not in line:
            continue
        key = tuple(line[name] for name in ("model", "kind", "num_images", "rule"))
        values, labels = groups.setdefault(key, ([], []))
        for value, label in zip(values_of(line), known[line["questions"]], strict=True):
            if label is not None:
                values.append(int(value))
                labels.append(label + 1 if column == "target" else label)
    parts = []
    for key, (values, labels) in groups.items():
        if not values:
            continue
        marks = "".join("+" if value else "-" for value in values)
        part = by_label({"marks": marks}, labels)
        names = ("model", "kind", "num_images", "rule")
        parts.append(part.assign(**dict(zip(names, key, strict=True))))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def adaptive_frame(records: Iterable[Record], *, reading: str = VOCABULARY) -> pd.DataFrame:
    """Accuracy-cost curves of adaptive FOCUS, worlds put together.

    Returns:
        Columns of `analysis.ablations.adaptive_curve`, model and kind (with the number of images).
    """
    lines: dict[tuple[Any, ...], Record] = {
        (line["model"], line["questions"], line["rule"]): line
        for line in of_kind(records, "answers")
        if line["reading"] == reading and "marks" in line
    }
    groups: dict[tuple[str, str, int], list[tuple[np.ndarray, ...]]] = {}
    for (model, questions, rule), line in lines.items():
        if rule != "adaptive_focus":
            continue
        plain, focus = (lines[model, questions, name] for name in (PLAIN, "sum"))
        key = (model, f"{line['kind']}, {line['num_images']} images", line["num_images"])
        groups.setdefault(key, []).append(
            (np.array(line["margins"]), values_of(plain), values_of(focus))
        )
    curves = []
    for (model, kind, number), parts in groups.items():
        margins, plain_values, focus_values = (np.concatenate(x) for x in zip(*parts, strict=True))
        curve = adaptive_curve(margins, plain_values, focus_values, num_branches=number)
        curves.append(curve.assign(model=model, kind=kind))
    return pd.concat(curves, ignore_index=True) if curves else pd.DataFrame()


def rows_frame(records: Iterable[Record]) -> pd.DataFrame:
    """What rows say, one line per cell and role."""
    return pd.DataFrame(of_kind(records, "rows"))


def seed_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Spread of the accuracy over noise seeds, beside the interval over questions.

    Args:
        frame: from `analysis.ablations.answers_frame`, with several seeds.

    Returns:
        Columns model, kind, sharing, reading, seeds, mean, sd (over seeds), half_width (mean half
        width of the 95% interval over questions).
    """
    noisy = frame[frame["rule"] != PLAIN]
    width = (noisy["ci_high"] - noisy["ci_low"]) / 2
    groups = noisy.assign(width=width).groupby(["model", "kind", "sharing", "reading"], sort=False)
    return groups.agg(
        seeds=("seed", "nunique"),
        mean=("value", "mean"),
        sd=("value", "std"),
        half_width=("width", "mean"),
    ).reset_index()
