"""Where the answers are right: accuracy by task, by number of images, and the mean over tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from analysis.summary import CELL, independent_mean


def breakdown(records: Iterable[Mapping[str, Any]], *, level: float = 0.95) -> list[dict[str, Any]]:
    """Accuracy of every strategy on each part of its benchmark.

    Args:
        records: of the first order and noise seed; others are left out.
        level: of the intervals: Wilson's, or over questions for graded scores.

    Returns:
        Rows with keys benchmark, model, decoding, by (``task``: the row of the benchmark's own
        table, or the category; ``num_images``), part, value, ci_low, ci_high, n. One more row per
        cell and kind, with part ``mean``, is the unweighted mean over its parts, as some
        benchmarks report it (no interval).
    """
    frame = pd.DataFrame([record for record in records if not record.get("order")])
    if "seed" in frame:
        frame = frame[frame["seed"].fillna(0) == 0]
    frame["task"] = [
        (metadata or {}).get("task") or category
        for metadata, category in zip(frame["metadata"], frame["category"], strict=True)
    ]
    rows: list[dict[str, Any]] = []
    for by in ("task", "num_images"):
        for labels, cell in frame.groupby(CELL, sort=False):
            named = dict(zip(CELL, labels, strict=True))
            parts = [
                {**named, "by": by, "part": str(part), **independent_mean(scores, level)}
                for part, scores in cell.groupby(by)["score"]
            ]
            mean = sum(row["value"] for row in parts) / len(parts)
            whole = {"value": mean, "ci_low": None, "ci_high": None, "n": len(cell)}
            rows += [*parts, {**named, "by": by, "part": "mean", **whole}]
    return rows
