"""Each aggregation against numbers worked out by hand, and the promises they share."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

from focus.aggregation import AGGREGATIONS, aggregate
from focus.errors import InvalidValueError, UnknownNameError

ALL = list(AGGREGATIONS)
# Rows are branches; probabilities, so that results can be checked in one's head.
PROBABILITIES = torch.tensor([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]], dtype=torch.float64)
BRANCHES = PROBABILITIES.log()
REFERENCE = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64).log()


def random_logits(*shape, seed=0, scale=3.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def distribution(logits):
    return logits.softmax(dim=-1)


def test_the_names():
    assert sorted(ALL) == sorted(
        ["sum", "mean", "max", "logsumexp", "product", "entropy", "divergence"]
    )
    assert all(AGGREGATIONS[name].name == name for name in ALL)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sum", [math.log(0.175), math.log(0.05), math.log(0.05)]),
        ("mean", [math.log(0.175) / 2, math.log(0.05) / 2, math.log(0.05) / 2]),
        ("product", [math.log(0.175), math.log(0.05), math.log(0.05)]),
        ("max", [math.log(0.7), math.log(0.25), math.log(0.5)]),
        ("logsumexp", [math.log(0.475), math.log(0.225), math.log(0.3)]),
    ],
)
def test_worked_example(name, expected):
    made = aggregate(BRANCHES, REFERENCE, aggregation=name)
    torch.testing.assert_close(made, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("name", ["entropy", "divergence"])
def test_worked_weights(name):
    """H = 0.8018, 1.0397 nats; KL to the reference = 0.0993, 0.1733 nats."""
    first, second = PROBABILITIES.numpy()
    if name == "entropy":
        scores = [math.exp(-scipy.stats.entropy(p)) for p in (first, second)]
        assert scores[0] > scores[1]
    else:
        scores = [math.exp(scipy.stats.entropy(p, [0.5, 0.25, 0.25])) for p in (first, second)]
        assert scores[0] < scores[1]
    weights = 2 * np.array(scores) / sum(scores)
    made = aggregate(BRANCHES, REFERENCE, aggregation=name)
    np.testing.assert_allclose(made, weights[0] * np.log(first) + weights[1] * np.log(second))


@pytest.mark.parametrize("name", ALL)
class TestEveryAggregation:
    def test_one_branch_keeps_its_distribution(self, name):
        logits = random_logits(1, 11)
        made = aggregate(logits, random_logits(11, seed=1), aggregation=name)
        torch.testing.assert_close(distribution(made), distribution(logits[0]))

    def test_the_order_of_the_branches_does_not_matter(self, name):
        logits, reference = random_logits(4, 11), random_logits(11, seed=1)
        made = aggregate(logits, reference, aggregation=name)
        shuffled = aggregate(logits[[2, 0, 3, 1]], reference, aggregation=name)
        torch.testing.assert_close(made, shuffled)

    def test_constants_added_to_a_branch_do_not_matter(self, name):
        logits, reference = random_logits(3, 11), random_logits(11, seed=1)
        shifted = logits + torch.tensor([5.0, -20.0, 0.0])[:, None]
        torch.testing.assert_close(
            distribution(aggregate(logits, reference, aggregation=name)),
            distribution(aggregate(shifted, reference + 7, aggregation=name)),
        )

    def test_middle_dimensions_are_independent(self, name):
        logits, reference = random_logits(3, 2, 5, 11), random_logits(2, 5, 11, seed=1)
        made = aggregate(logits, reference, aggregation=name)
        assert made.shape == (2, 5, 11)
        one = aggregate(logits[:, 1, 3], reference[1, 3], aggregation=name)
        torch.testing.assert_close(made[1, 3], one)

    def test_half_precision_is_computed_in_float32(self, name):
        logits = random_logits(3, 11).bfloat16()
        reference = random_logits(11, seed=1).bfloat16()
        made = aggregate(logits, reference, aggregation=name)
        assert made.dtype == torch.float32
        exact = aggregate(logits.double(), reference.double(), aggregation=name)
        torch.testing.assert_close(made.double(), exact, rtol=1e-5, atol=1e-5)

    def test_impossible_tokens_do_not_make_nan(self, name):
        logits, reference = random_logits(3, 11), random_logits(11, seed=1)
        logits[:, 0] = -math.inf
        logits[1, 4] = -math.inf
        reference[[0, 7]] = -math.inf
        made = aggregate(logits, reference, aggregation=name)
        assert not made.isnan().any()
        assert made[0] == -math.inf
        assert made[[1, 2, 3, 5, 6, 7, 8, 9, 10]].isfinite().all()
        if name in ("max", "logsumexp"):  # one branch suffices to keep a token possible
            assert made[4].isfinite()

    def test_large_logits_do_not_overflow(self, name):
        logits = random_logits(3, 11, scale=1e4)
        made = aggregate(logits, random_logits(11, seed=1, scale=1e4), aggregation=name)
        assert made.isfinite().all()

    def test_differs_from_the_sum_somewhere(self, name):
        """Control: an alias of the sum would pass everything else."""
        logits, reference = random_logits(3, 11), random_logits(11, seed=1)
        made = distribution(aggregate(logits, reference, aggregation=name))
        summed = distribution(aggregate(logits, reference, aggregation="sum"))
        assert torch.allclose(made, summed, atol=1e-5) == (name in ("sum", "product"))


def test_sum_and_mean_choose_the_same_token_at_other_temperatures():
    logits, temperature = random_logits(4, 50, 11), 0.7
    summed, mean = aggregate(logits), aggregate(logits, aggregation="mean")
    assert torch.equal(summed.argmax(-1), mean.argmax(-1))
    torch.testing.assert_close(
        distribution(summed / temperature), distribution(mean / (temperature / 4))
    )
    assert not torch.allclose(distribution(summed), distribution(mean), atol=0.01)


@pytest.mark.parametrize("name", ["entropy", "divergence"])
def test_equal_branches_are_weighted_like_the_sum(name):
    logits = random_logits(1, 11).expand(3, 11)
    made = aggregate(logits, random_logits(11, seed=1), aggregation=name)
    torch.testing.assert_close(made, logits.sum(dim=0))


def test_logsumexp_is_a_distribution():
    made = aggregate(random_logits(3, 11), aggregation="logsumexp")
    assert made.exp().sum() == pytest.approx(1.0, abs=1e-5)


def test_weights_ignore_the_values_that_are_pooled():
    """The values carry the contrast; how sure a branch is must be read from its own logits."""
    values = torch.tensor([[100.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
    made = aggregate(BRANCHES, REFERENCE, aggregation="entropy", values=values)
    confidence = scipy.special.softmax([-scipy.stats.entropy(p) for p in PROBABILITIES.numpy()])
    np.testing.assert_allclose(made, [200 * confidence[0], 2 * confidence[1], 0.0])


def test_two_infinite_divergences_share_the_weight():
    branches = torch.tensor([[0.0, 0.0, 0.0], [3.0, 1.0, 0.0], [1.0, 1.0, -math.inf]])
    reference = torch.tensor([0.0, 0.0, -math.inf])
    made = aggregate(branches, reference, aggregation="divergence")
    torch.testing.assert_close(made, 1.5 * (branches[0] + branches[1]))


def test_bad_calls():
    logits = random_logits(3, 11)
    with pytest.raises(UnknownNameError, match=r"unknown aggregation 'max_'.*did you mean 'max'"):
        aggregate(logits, aggregation="max_")
    with pytest.raises(InvalidValueError, match=r"reference=None.*divergence"):
        aggregate(logits, aggregation="divergence")
    for bad in (torch.zeros(11), torch.zeros(0, 11), torch.zeros(3, 0)):
        with pytest.raises(InvalidValueError, match=r"branches\.shape"):
            aggregate(bad)
    with pytest.raises(InvalidValueError, match=r"reference\.shape=\(10,\).*\(11,\)"):
        aggregate(logits, torch.zeros(10))
    with pytest.raises(InvalidValueError, match=r"values\.shape"):
        aggregate(logits, values=torch.zeros(2, 11))
