"""Bootstrap intervals for thousands of cells: the same as `analysis.statistics`, in a millisecond.

Resampling n units one by one only ever counts how often each distinct unit is drawn, and marks make
few distinct units (a question adds -1, 0 or 1 to a difference). So the counts are drawn at once,
from a multinomial: the same distribution, not the same random numbers. A test holds the two
together.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from analysis.statistics import wilson_interval
from focus.errors import InvalidValueError
from focus.randomness import generator

RESAMPLES = 10_000


def mean_interval(
    values: np.ndarray,
    clusters: Sequence[Hashable] | None = None,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean over questions, resampling clusters.

    Args:
        values: one per question, few of them distinct.
        clusters: one label per question; None where questions are independent.
        bounds: least and largest value that a question can have.
        level: of the interval.
        seed: key of the resampling.

    Returns:
        ``bounds`` without questions; never of zero width (as in `analysis.statistics`).
    """
    if clusters is not None and len(clusters) != len(values):
        raise InvalidValueError("len(clusters)", len(clusters), f"{len(values)}, one per question")
    if len(values) == 0:
        return bounds
    if clusters is None:
        sums, sizes = values.astype(float), np.ones(len(values))
    else:
        index: dict[Hashable, int] = {}
        rows = [index.setdefault(label, len(index)) for label in clusters]
        sums, sizes = np.bincount(rows, weights=values), np.bincount(rows).astype(float)
    means = sums / sizes
    if np.ptp(means) < 1e-12:
        unseen, mean = wilson_interval(0, len(sums), level)[1], float(means[0])
        low, high = bounds
        return mean - (mean - low) * unseen, mean + (high - mean) * unseen
    # Rounded, so that sums that differ in their last bit count as one kind of unit.
    kinds, counts = np.unique(np.stack([sums.round(9), sizes]), axis=1, return_counts=True)
    draws = generator(seed, "multinomial bootstrap").multinomial(
        len(sums), counts / len(sums), size=RESAMPLES
    )
    tail = (1 - level) / 2
    low, high = np.quantile((draws @ kinds[0]) / (draws @ kinds[1]), [tail, 1 - tail])
    return float(low), float(high)
