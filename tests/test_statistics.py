"""Against closed forms, the degenerate cases, and coverage on simulated data."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.multitest import multipletests

from analysis.statistics import (
    clustered_interval,
    detectable_difference,
    holm,
    paired_difference,
    wilson_interval,
)
from focus.errors import InvalidValueError


def simulated_pair(n, *, rng, gain=0.05, discordant=0.2):
    """Right-or-wrong scores with a true difference of `gain` (a minus b)."""
    kind = rng.random(n)
    both = rng.random(n) < 0.5
    only_a = kind < (discordant + gain) / 2
    only_b = (~only_a) & (kind < discordant)
    return only_a | (both & ~only_b), only_b | (both & ~only_a)


def test_wilson_closed_form():
    z, n, p = 1.959964, 40, 0.3
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    assert wilson_interval(12, 40) == pytest.approx((centre - half, centre + half), abs=1e-6)
    narrow = wilson_interval(12, 40, level=0.8)
    test = scipy.stats.binomtest(12, 40)  # SciPy's own Wilson interval
    assert narrow == pytest.approx(tuple(test.proportion_ci(0.8, "wilson")))


def test_wilson_at_the_ends():
    z = 1.959964
    upper = z**2 / (10 + z**2)
    assert wilson_interval(0, 10) == pytest.approx((0.0, upper), abs=1e-6)
    assert wilson_interval(10, 10) == pytest.approx((1 - upper, 1.0), abs=1e-6)
    assert (wilson_interval(0, 10)[0], wilson_interval(10, 10)[1]) == (0.0, 1.0)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_wilson_coverage():
    rng = np.random.default_rng(0)
    for n, rate in [(50, 0.3), (200, 0.9)]:
        intervals = [wilson_interval(k, n) for k in range(n + 1)]
        drawn = rng.binomial(n, rate, size=2000)
        covered = np.mean([intervals[k][0] <= rate <= intervals[k][1] for k in drawn])
        assert 0.93 <= covered <= 0.97


@pytest.mark.parametrize(("only_a", "only_b"), [(1, 0), (5, 5), (10, 2), (2, 10), (30, 12)])
def test_mcnemar_is_a_sign_test_on_the_items_that_differ(only_a, only_b):
    a = [1] * only_a + [0] * only_b + [1, 0] * 20
    b = [0] * only_a + [1] * only_b + [1, 0] * 20
    made = paired_difference(a, b)
    expected = scipy.stats.binomtest(only_a, only_a + only_b).pvalue
    assert made.p_value == pytest.approx(expected)
    assert made.delta == pytest.approx((only_a - only_b) / len(a))
    assert (made.test, made.n, made.clusters) == ("mcnemar", len(a), len(a))
    assert made.low <= made.delta <= made.high


def test_bootstrap_agrees_with_the_normal_interval():
    a, b = simulated_pair(4000, rng=np.random.default_rng(1))
    made = paired_difference(a, b)
    difference = a.astype(float) - b
    half = 1.96 * difference.std() / math.sqrt(4000)
    assert (made.low, made.high) == pytest.approx(
        (difference.mean() - half, difference.mean() + half), abs=0.08 * half
    )


def test_clusters_widen_the_interval_as_the_clustered_error_says():
    """Four copies of each item: n is 2000, but the information is that of 500."""
    a, b = simulated_pair(500, rng=np.random.default_rng(2))
    copies = [np.repeat(x, 4) for x in (a, b)]
    labels = [f"set-{i // 4}" for i in range(2000)]
    alone, naive = paired_difference(a, b), paired_difference(*copies)
    clustered = paired_difference(*copies, clusters=labels)
    assert (clustered.n, clustered.clusters, clustered.test) == (2000, 500, "sign-flip")
    assert clustered.delta == pytest.approx(alone.delta)
    width = clustered.high - clustered.low
    assert width == pytest.approx(alone.high - alone.low, rel=0.05)
    assert width == pytest.approx(2 * (naive.high - naive.low), rel=0.1)
    assert clustered.p_value == pytest.approx(alone.p_value, abs=0.03)
    assert naive.p_value < alone.p_value / 2  # control: ignoring clusters overstates


def test_unequal_clusters_weigh_by_their_items():
    """The mean over items, not over clusters: (1 + 1 + 1 + 0) / 4."""
    made = paired_difference([1, 1, 1, 0], [0, 0, 0, 0], clusters=["x", "x", "x", "y"])
    assert made.delta == 0.75
    assert (made.low, made.high) == (0.0, 1.0)
    labels = [i // 9 if i < 360 else i for i in range(400)]  # 40 of nine items, 40 of one
    low, high = clustered_interval([1] * 360 + [0] * 40, labels)
    assert 0.85 < low < 0.9 < high < 0.95  # the mean over clusters would be 0.5


def test_sign_flip_is_exact_for_few_units():
    """Differences 1, 2, 3, 4 in sum: only all-plus and all-minus are as extreme, p = 2 / 2**4."""
    sizes = [1, 2, 3, 4]
    labels = np.repeat(range(4), sizes)
    made = paired_difference(np.ones(10), np.zeros(10), clusters=list(labels))
    assert made.p_value == pytest.approx(2 / 16)


def test_scores_that_are_not_right_or_wrong():
    made = paired_difference([0.5, 0.75, 1.0, 0.0], [0.25, 0.25, 0.0, 0.0])
    assert (made.test, made.delta) == ("sign-flip", 0.4375)
    assert made.p_value == pytest.approx(2 / 2**3)  # the item without difference flips to itself


def test_equal_seeds_give_equal_results():
    a, b = np.random.default_rng(3).random((2, 100))
    labels = [i // 3 for i in range(100)]
    one = paired_difference(a, b, labels, seed=1)
    assert one == paired_difference(a, b, labels, seed=1)
    assert one != paired_difference(a, b, labels, seed=2)


def test_swapping_the_strategies_mirrors_the_result():
    a, b = simulated_pair(300, rng=np.random.default_rng(4))
    one, other = paired_difference(a, b), paired_difference(b, a)
    assert one.p_value == other.p_value
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=0.005)


@pytest.mark.parametrize("clustered", [False, True])
def test_degenerate_pairs_are_honest(clustered):
    def compare(a, b):
        labels = list(range(len(a))) if clustered else None
        return paired_difference(a, b, labels)

    nothing = compare([], [])
    assert (nothing.delta, nothing.low, nothing.high, nothing.p_value) == (0.0, -1.0, 1.0, 1.0)
    assert nothing.n == 0
    share = wilson_interval(0, 50)[1]
    same = compare([1] * 50, [1] * 50)
    assert (same.delta, same.low, same.high, same.p_value) == (0.0, -share, share, 1.0)
    opposite = compare([1] * 50, [0] * 50)
    assert (opposite.delta, opposite.low, opposite.high) == (1.0, 1 - 2 * share, 1.0)
    assert opposite.p_value < 1e-3
    single = compare([1], [0])
    assert single.p_value == 1.0
    assert single.low < 0 < single.high
    few = compare([1, 0], [0, 0])
    assert (few.p_value, few.low, few.high) == (1.0, 0.0, 1.0)


def test_clustered_interval():
    rng = np.random.default_rng(5)
    items = rng.random(400) < 0.7
    alone = clustered_interval(items, range(400))
    assert alone == pytest.approx(wilson_interval(int(items.sum()), 400), abs=0.01)
    low, high = clustered_interval(np.repeat(items, 4), np.repeat(range(400), 4).tolist())
    assert high - low == pytest.approx(alone[1] - alone[0], rel=0.05)  # copies add nothing
    assert clustered_interval([], []) == (0.0, 1.0)
    right = clustered_interval([1] * 40, [i // 4 for i in range(40)])
    assert right == pytest.approx(wilson_interval(10, 10))


def test_holm_worked_example():
    """Sorted 0.01, 0.02, 0.04 times 3, 2, 1, made monotone."""
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_is_that_of_statsmodels():
    p_values = np.random.default_rng(8).random(50).round(2) ** 3  # some of them equal
    expected = multipletests(p_values, method="holm")[1]
    assert holm(list(p_values)) == expected.tolist()


def test_detectable_difference_solves_its_equation():
    for n, rate, power in [(100, 0.3, 0.8), (1000, 0.2, 0.8), (5000, 0.1, 0.95), (50, 1.0, 0.5)]:
        d = detectable_difference(n, rate, power)
        z = scipy.stats.norm.ppf([0.975, power])
        assert 0 < d <= rate
        right = z[0] * math.sqrt(rate) + z[1] * math.sqrt(rate - d**2)
        assert d * math.sqrt(n) == pytest.approx(right)


def test_detectable_difference_has_the_promised_power():
    """Exact McNemar is a little conservative, hence a little less power than asked for."""
    n, rate = 1000, 0.2
    gain = detectable_difference(n, rate)
    rng = np.random.default_rng(6)
    tables = rng.multinomial(n, [(rate + gain) / 2, (rate - gain) / 2, 1 - rate], size=1000)
    p = [scipy.stats.binomtest(int(x), int(x + y)).pvalue for x, y, _ in tables]
    assert 0.74 <= np.mean(np.array(p) < 0.05) <= 0.83


def test_detectable_difference_where_nothing_can_be_shown():
    for n, rate in [(0, 0.2), (100, 0.0), (10, 0.1), (1, 1.0)]:
        assert detectable_difference(n, rate) == 1.0
    values = [detectable_difference(n, 0.3) for n in (50, 100, 1000, 10_000)]
    assert values == sorted(values, reverse=True)


def test_bad_calls():
    for successes, n in [(-1, 5), (6, 5), (0, -1)]:
        with pytest.raises(InvalidValueError):
            wilson_interval(successes, n)
    for level in (0, 1, 95, math.nan):
        with pytest.raises(InvalidValueError, match="level"):
            wilson_interval(1, 2, level)
        with pytest.raises(InvalidValueError, match="level"):
            paired_difference([1], [1], level=level)
    with pytest.raises(InvalidValueError, match=r"len\(b\)=1"):
        paired_difference([1, 0], [1])
    with pytest.raises(InvalidValueError, match=r"len\(clusters\)=1"):
        paired_difference([1, 0], [1, 0], ["x"])
    for bad in (math.nan, 1.5, -0.1):
        with pytest.raises(InvalidValueError, match=r"\[0, 1\]"):
            paired_difference([1, bad], [1, 1])
        with pytest.raises(InvalidValueError, match=r"\[0, 1\]"):
            holm([bad])
    with pytest.raises(InvalidValueError, match="shape"):
        clustered_interval([[1.0]], [0])
    for arguments in ((-1, 0.2), (10, 1.2), (10, 0.2, 0.4), (10, 0.2, 1.0)):
        with pytest.raises(InvalidValueError):
            detectable_difference(*arguments)


@pytest.mark.slow
def test_paired_bootstrap_coverage():
    """2,000 data sets of 150 items with a true difference of 0.05."""
    rng = np.random.default_rng(7)
    covered = []
    for seed in range(2000):
        made = paired_difference(*simulated_pair(150, rng=rng), seed=seed, resamples=1000)
        covered.append(made.low <= 0.05 <= made.high)
    assert 0.93 <= np.mean(covered) <= 0.97


@pytest.mark.slow
def test_clustered_bootstrap_coverage():
    """2,000 data sets of 80 clusters of 3 items that mostly agree; ignoring clusters fails."""
    rng = np.random.default_rng(8)
    clustered, naive = [], []
    labels = [i // 3 for i in range(240)]
    for seed in range(2000):
        shared = np.repeat(rng.random(80) < 0.6, 3)
        items = np.where(rng.random(240) < 0.8, shared, rng.random(240) < 0.6)
        low, high = clustered_interval(items, labels, seed=seed, resamples=1000)
        clustered.append(low <= 0.6 <= high)
        low, high = wilson_interval(int(items.sum()), 240)
        naive.append(low <= 0.6 <= high)
    assert 0.93 <= np.mean(clustered) <= 0.97
    assert np.mean(naive) < 0.85
