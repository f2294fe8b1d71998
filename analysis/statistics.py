"""Intervals and tests for accuracies and for paired differences between decoding strategies.

Thin on purpose: the numbers come from SciPy and statsmodels; what is ours are the choices.

* Two strategies are compared on the same items, never as two independent accuracies: the paired
  interval is much narrower (Miller 2024, arXiv 2411.00640).
* Items that share images, or are swaps of each other, form a cluster. Whole clusters are resampled
  and flipped, since such items are right or wrong together.
* A bootstrap of values that are all alike has zero width, as if we were certain. Instead we let a
  share u of the cases have any other score, u being the Wilson upper limit for 0 of n: how frequent
  something may be that n cases never showed.

Intervals here are about the choice of items. The spread over noise seeds is another thing.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from focus.errors import InvalidValueError
from focus.randomness import generator

Scores = Sequence[float] | Sequence[bool] | np.ndarray
"""One score in [0, 1] per item; True or 1 is right."""
Clusters = Sequence[Hashable]
"""One label per item; equal labels share a cluster."""


@dataclass(frozen=True)
class PairedDifference:
    """Mean difference of two strategies on the same items.

    Attributes:
        delta: Mean of the first minus mean of the second, in [-1, 1]; 0 without items.
        low: Lower end of the interval.
        high: Upper end of the interval.
        p_value: Two-sided, of the hypothesis that the two do not differ; 1 without items.
        n: Items.
        clusters: Independent units: clusters, or items where there are none.
        test: ``mcnemar`` (exact) or ``sign-flip`` (permutation of whole units).
        level: Of the interval, such as 0.95.
    """

    delta: float
    low: float
    high: float
    p_value: float
    n: int
    clusters: int
    test: str
    level: float


def wilson_interval(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a rate (Wilson 1927), for independent items.

    Never of zero width, not even when all or none are right; ``(0, 1)`` without items.

    Raises:
        InvalidValueError: If not ``0 <= successes <= n``, or `level` is not within (0, 1).
    """
    _check_level(level)
    if n < 0:
        raise InvalidValueError("n", n, ">= 0")
    if not 0 <= successes <= n:
        raise InvalidValueError("successes", successes, f"in 0..{n}")
    if n == 0:
        return 0.0, 1.0
    low, high = proportion_confint(successes, n, alpha=1 - level, method="wilson")
    # At the ends the limit is exact on paper, but not in floats.
    return (0.0 if successes == 0 else float(low)), (1.0 if successes == n else float(high))


def clustered_interval(
    scores: Scores,
    clusters: Clusters,
    level: float = 0.95,
    *,
    seed: int = 0,
    resamples: int = 10_000,
) -> tuple[float, float]:
    """Bootstrap interval of a mean score, resampling clusters; ``(0, 1)`` without items.

    A percentile bootstrap; with fewer than some twenty clusters it is too narrow.

    Args:
        scores: One score in [0, 1] per item.
        clusters: One label per item.
        level: Of the interval.
        seed: Key of the resampling; equal seeds give equal intervals.
        resamples: Bootstrap samples.

    Raises:
        InvalidValueError: If a score is outside [0, 1] or the lengths differ.
    """
    _check_level(level)
    values = _scores("scores", scores)
    sums, counts = _by_cluster(values, clusters)
    return _bootstrap(sums, counts, (0.0, 1.0), level, seed, resamples)


def paired_difference(
    a: Scores,
    b: Scores,
    clusters: Clusters | None = None,
    level: float = 0.95,
    *,
    seed: int = 0,
    resamples: int = 10_000,
) -> PairedDifference:
    """Compares two strategies on the same items, in the same order.

    The interval is a percentile bootstrap over clusters, or items (not BCa, which is undefined
    where only few items differ), too narrow with fewer than some twenty of them. The test is exact
    McNemar for right-or-wrong scores of independent items; otherwise the signs of whole units'
    differences are flipped, exactly if all flips fit into `resamples`.

    Args:
        a: Scores in [0, 1] of the first strategy, one per item.
        b: Scores of the second, for the same items.
        clusters: One label per item, None when items are independent.
        level: Of the interval.
        seed: Key of the resampling; equal seeds give equal results.
        resamples: Bootstrap samples, and the most sign flips.

    Raises:
        InvalidValueError: If a score is outside [0, 1] or the lengths differ.
    """
    _check_level(level)
    first, second = _scores("a", a), _scores("b", b)
    if len(first) != len(second):
        raise InvalidValueError("len(b)", len(second), f"{len(first)}, that of a")
    difference = first - second
    sums, counts = _by_cluster(difference, range(len(first)) if clusters is None else clusters)
    binary = np.isin(first, (0, 1)).all() and np.isin(second, (0, 1)).all()
    if clusters is None and binary:
        test, p_value = "mcnemar", _mcnemar(first, second)
    else:
        test, p_value = "sign-flip", _sign_flip(sums, seed, resamples)
    low, high = _bootstrap(sums, counts, (-1.0, 1.0), level, seed, resamples)
    delta = float(difference.mean()) if len(difference) else 0.0
    return PairedDifference(delta, low, high, p_value, len(first), len(sums), test, level)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (Holm 1979): compare each with the error rate of the family.

    By hand, since that of statsmodels collects garbage at every call: half a second each where
    records fill the memory.

    Raises:
        InvalidValueError: If a p-value is not within [0, 1].
    """
    for p_value in p_values:
        if not 0 <= p_value <= 1:
            raise InvalidValueError("p_value", p_value, "in [0, 1]")
    values = np.asarray(p_values, dtype=float)
    order = np.argsort(values)
    steps = values[order] * np.arange(len(values), 0, -1)
    found = np.empty_like(values)
    found[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return [float(p) for p in found]


def detectable_difference(
    n: int, discordant_rate: float, power: float = 0.8, level: float = 0.95
) -> float:
    """Smallest true difference that a paired comparison of `n` independent items would show.

    A smaller one exists unseen more often than 1 - power. From Connor (1987, Biometrics 43:207)
    for McNemar's test, solved for the difference d at discordant rate r:
    ``d sqrt(n) = z_level sqrt(r) + z_power sqrt(r - d^2)``. A normal approximation: the exact test
    needs slightly more. With clusters, put their number for `n` to be on the safe side.

    Args:
        n: Items.
        discordant_rate: Share of items that only one of the two gets right, in [0, 1].
        power: Chance of a significant result, in [0.5, 1).
        level: One minus the two-sided error rate.

    Returns:
        A difference in (0, 1]; 1 when none can be shown, since d cannot exceed r.

    Raises:
        InvalidValueError: If an argument is out of range.

    >>> round(detectable_difference(1000, 0.2), 4)
    0.0396
    """
    _check_level(level)
    if n < 0:
        raise InvalidValueError("n", n, ">= 0")
    if not 0 <= discordant_rate <= 1:
        raise InvalidValueError("discordant_rate", discordant_rate, "in [0, 1]")
    if not 0.5 <= power < 1:
        raise InvalidValueError("power", power, "in [0.5, 1)")
    if n == 0 or discordant_rate == 0:
        return 1.0
    z_level = scipy.stats.norm.ppf(0.5 + level / 2)
    z_power = scipy.stats.norm.ppf(power)
    # Squared, the equation is quadratic in d; its larger root keeps the sign of z_power.
    spread = z_level * math.sqrt(discordant_rate * n)
    curvature = n + z_power**2
    constant = (z_level**2 - z_power**2) * discordant_rate
    inside = spread**2 - curvature * constant
    difference = (spread + math.sqrt(inside)) / curvature if inside >= 0 else 1.0
    return float(difference) if difference <= discordant_rate else 1.0


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise InvalidValueError("level", level, "within (0, 1)")


def _scores(name: str, scores: Scores) -> np.ndarray:
    values = np.asarray(scores, dtype=float)
    if values.ndim != 1:
        raise InvalidValueError(f"{name}.shape", values.shape, "[items]")
    wrong = values[~((values >= 0) & (values <= 1))]  # NaN too
    if len(wrong):
        raise InvalidValueError(name, float(wrong[0]), "scores in [0, 1]")
    return values


def _by_cluster(values: np.ndarray, clusters: Clusters | range) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the values and number of items of each cluster, in order of first appearance."""
    if len(clusters) != len(values):
        raise InvalidValueError("len(clusters)", len(clusters), f"{len(values)}, one per item")
    index: dict[Hashable, int] = {}
    rows = np.array([index.setdefault(label, len(index)) for label in clusters], dtype=int)
    return (
        np.bincount(rows, weights=values, minlength=len(index)),
        np.bincount(rows, minlength=len(index)),
    )


def _bootstrap(
    sums: np.ndarray,
    counts: np.ndarray,
    bounds: tuple[float, float],
    level: float,
    seed: int,
    resamples: int,
) -> tuple[float, float]:
    if len(sums) == 0:
        return bounds
    means = sums / counts
    if np.ptp(means) < 1e-12:
        share = wilson_interval(0, len(sums), level)[1]
        mean = float(means[0])
        low, high = bounds
        return mean - (mean - low) * share, mean + (high - mean) * share

    def mean_over_items(sums: np.ndarray, counts: np.ndarray, axis: int) -> Any:
        return sums.sum(axis=axis) / counts.sum(axis=axis)

    interval = scipy.stats.bootstrap(
        (sums, counts),
        mean_over_items,
        paired=True,
        vectorized=True,
        confidence_level=level,
        n_resamples=resamples,
        batch=max(1, 2**22 // len(sums)),  # bounds memory, not the result
        method="percentile",
        rng=generator(seed, "bootstrap"),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def _mcnemar(a: np.ndarray, b: np.ndarray) -> float:
    only_a, only_b = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    if only_a + only_b == 0:
        return 1.0
    return float(mcnemar([[0, only_a], [only_b, 0]], exact=True).pvalue)


def _sign_flip(sums: np.ndarray, seed: int, resamples: int) -> float:
    # Units without a difference flip to themselves; leaving them out makes exact tests affordable.
    moved = sums[np.abs(sums) > 1e-12]
    if len(moved) == 0:
        return 1.0
    if len(moved) == 1:  # SciPy asks for two; both signs are equally likely, so any p is 1
        return 1.0
    result = scipy.stats.permutation_test(
        (moved,),
        lambda flipped, axis: flipped.sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, 2**22 // len(moved)),
        rng=generator(seed, "sign-flip"),
    )
    return float(result.pvalue)
