"""Intervals and tests for thousands of cells: those of `analysis.statistics`, in a millisecond.

Resampling n units one by one only ever counts how often each distinct unit is drawn, and marks make
few distinct units (a question adds -1, 0 or 1 to a difference). So the counts are drawn at once,
from a multinomial: the same distribution, not the same random numbers. A test holds the two
together.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache

import numpy as np
import pandas as pd
import scipy.stats

from analysis.statistics import wilson_interval
from focus.errors import InvalidValueError
from focus.randomness import generator

RESAMPLES = 10_000
#: Expected scores are nearly all distinct: fewer resamples then, but never less than a thousand.
MOST_COUNTS = 1_000_000


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
    sums, sizes = _cluster_sums(values, clusters)
    means = sums / sizes
    if np.ptp(means) < 1e-12:
        unseen, mean = wilson_interval(0, len(sums), level)[1], float(means[0])
        low, high = bounds
        return mean - (mean - low) * unseen, mean + (high - mean) * unseen
    # Rounded, so that sums that differ in their last bit count as one kind of unit.
    kinds, counts = np.unique(np.stack([sums.round(9), sizes]), axis=1, return_counts=True)
    return _interval(tuple(kinds[0]), tuple(kinds[1]), tuple(counts.tolist()), level, seed)


@lru_cache(maxsize=100_000)
def _interval(
    sums: tuple[float, ...], sizes: tuple[float, ...], counts: tuple[int, ...], level: float,
    seed: int,
) -> tuple[float, float]:  # fmt: skip
    """Interval of the mean of units of a few kinds; most of thousands of cells are alike in these.

    Args:
        sums, sizes: of each kind of unit.
        counts: units of each kind.
        level, seed: see `mean_interval`.
    """
    draws = generator(seed, "multinomial bootstrap").multinomial(
        sum(counts),
        np.array(counts) / sum(counts),
        size=min(RESAMPLES, max(1000, MOST_COUNTS // len(counts))),
    )
    tail = (1 - level) / 2
    means = (draws @ np.array(sums)) / (draws @ np.array(sizes))
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def sign_flip(values: np.ndarray, clusters: Sequence[Hashable] | None = None) -> float | None:
    """Exact two-sided p-value of a mean difference of zero, by flipping signs of whole clusters.

    The distribution over all flips is a convolution of one pair of points per unit, which is short
    where differences are whole numbers: right minus wrong. McNemar's exact test is the case of
    differences of one. Sampled flips could not go below one by their number, and Holm's adjustment
    over many cells needs less than that.

    Args:
        values: differences, one per question.
        clusters: one label per question; None where questions are independent.

    Returns:
        None where differences are no whole numbers.
    """
    sums, _ = _cluster_sums(values, clusters)
    sizes = np.abs(sums).round().astype(int)
    if not np.allclose(np.abs(sums), sizes, atol=1e-9):
        return None
    kinds, counts = np.unique(sizes[sizes > 0], return_counts=True)
    return _flipped(tuple(kinds.tolist()), tuple(counts.tolist()), abs(round(float(sums.sum()))))


@lru_cache(maxsize=100_000)
def _flipped(sizes: tuple[int, ...], counts: tuple[int, ...], total: int) -> float:
    """Probability that flipped signs lead at least as far from zero as `total`."""
    distribution = np.ones(1)  # of the sum of the flipped signs, from the least in steps of 1
    for size, count in zip(sizes, counts, strict=True):
        part = np.zeros(2 * size * count + 1)
        part[:: 2 * size] = scipy.stats.binom.pmf(np.arange(count + 1), count, 0.5)
        distribution = np.convolve(distribution, part)
    distance = np.abs(np.arange(len(distribution)) - len(distribution) // 2)
    return min(1.0, float(distribution[distance >= total].sum()))


def t_test(values: np.ndarray, clusters: Sequence[Hashable] | None = None) -> float:
    """Two-sided p-value of a mean difference of zero, by a t-test over the sums of clusters.

    For expected scores, whose differences have no steps that `sign_flip` could count. Hundreds of
    them: their sum is as good as normal.

    Args:
        values: differences, one per question.
        clusters: one label per question; None where questions are independent.

    Returns:
        1 where there is no difference anywhere, or a single cluster.
    """
    sums, _ = _cluster_sums(values, clusters)
    if len(sums) < 2 or not np.any(sums):
        return 1.0
    if np.ptp(sums) < 1e-12:  # no spread to test against; this many flips are as one-sided
        return float(2 * 0.5 ** len(sums))
    return float(scipy.stats.ttest_1samp(sums, 0).pvalue)


def difference_row(
    values: np.ndarray,
    other: np.ndarray,
    clusters: Sequence[Hashable] | None = None,
    *,
    bounded: bool = True,
    tested: bool = True,
) -> dict[str, float]:
    """Paired difference of the same units, with its 95% interval and p-value.

    Args:
        values: of the first, in [0, 1].
        other: of the second.
        clusters: one label per unit; None where they are independent.
        bounded: with the interval.
        tested: with the p-value, which takes seconds where clusters of many sizes are many.

    Returns:
        Keys delta and, where wanted, delta_low and delta_high, and p_value.
    """
    difference = values - other
    row = {"delta": float(difference.mean())}
    if bounded:
        low, high = mean_interval(difference, clusters, bounds=(-1.0, 1.0))
        row |= {"delta_low": low, "delta_high": high}
    if tested:
        p_value = sign_flip(difference, clusters)
        if p_value is None:  # expected scores: too many distinct differences for the exact test
            p_value = t_test(difference, clusters)
        row["p_value"] = p_value
    return row


def _cluster_sums(
    values: np.ndarray, clusters: Sequence[Hashable] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the values and number of questions of each cluster."""
    if clusters is None:
        return values.astype(float), np.ones(len(values))
    rows, _ = pd.factorize(pd.Series(clusters, dtype=object))
    return np.bincount(rows, weights=values), np.bincount(rows).astype(float)
