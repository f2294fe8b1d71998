"""The published formula, the plausibility cut-off, and what must not become NaN."""

from __future__ import annotations

import math

import pytest
import torch

from focus.aggregation import AGGREGATIONS, aggregate
from focus.contrast import combine, contrast, plausible, validate_alpha, validate_beta
from focus.errors import InvalidValueError, UnknownNameError

ALL = list(AGGREGATIONS)
INF = math.inf


def random_logits(*shape, seed=0):
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_worked_example():
    """Two branches, three tokens: (2 + 0, 1 + 3, 0 + 1) - 2 * 0.5 * (1, 2, -1)."""
    branches = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0]])
    reference = torch.tensor([1.0, 2.0, -1.0])
    made = combine(branches, reference, alpha=0.5)
    torch.testing.assert_close(made, torch.tensor([1.0, 2.0, 2.0]))
    mean = combine(branches, reference, alpha=0.5, aggregation="mean")
    torch.testing.assert_close(mean, torch.tensor([0.5, 1.0, 1.0]))
    # max: log-softmax of (1.5, 0, 0.5) and (-0.5, 2, 1.5), the larger of each column
    first, second = (
        torch.tensor([math.exp(x) for x in c]) for c in ((1.5, 0, 0.5), (-0.5, 2, 1.5))
    )
    best = torch.maximum(first / first.sum(), second / second.sum()).log()
    torch.testing.assert_close(combine(branches, reference, alpha=0.5, aggregation="max"), best)


def test_the_published_formula():
    """Rows as in the authors' batch, the reference first: sum of images - alpha * N * noise."""
    rows = random_logits(4, 2, 11)
    published = rows[1:].sum(dim=0) - 0.3 * 3 * rows[0]
    torch.testing.assert_close(combine(rows[1:], rows[0], alpha=0.3), published)


@pytest.mark.parametrize("name", ["sum", "mean", "entropy", "divergence"])
def test_one_branch_without_contrast_is_plain_decoding(name):
    logits = random_logits(1, 11)
    made = combine(logits, random_logits(11, seed=1), alpha=0, aggregation=name)
    assert torch.equal(made, logits[0])


@pytest.mark.parametrize("name", ["max", "logsumexp", "product"])
def test_one_branch_without_contrast_is_plain_decoding_up_to_a_constant(name):
    logits = random_logits(1, 11)
    made = combine(logits, None, alpha=0, aggregation=name)
    torch.testing.assert_close(made, logits[0].log_softmax(dim=-1))


@pytest.mark.parametrize("name", ALL)
def test_contrast_moves_the_distribution(name):
    branches, reference = random_logits(3, 11), random_logits(11, seed=1)
    off = combine(branches, reference, alpha=0.0, aggregation=name).softmax(dim=-1)
    on = combine(branches, reference, alpha=0.3, aggregation=name).softmax(dim=-1)
    assert (on - off).abs().max() > 0.01
    without = aggregate(branches, reference, aggregation=name).softmax(dim=-1)
    torch.testing.assert_close(off, without)


@pytest.mark.parametrize("name", ["max", "logsumexp", "entropy"])
def test_contrast_comes_before_pooling_where_that_matters(name):
    """Pooling first and subtracting then is another method; for the linear ones it is the same."""
    branches, reference = random_logits(3, 11), random_logits(11, seed=1)
    made = combine(branches, reference, alpha=0.8, aggregation=name)
    by_hand = aggregate(branches, reference, aggregation=name, values=branches - 0.8 * reference)
    torch.testing.assert_close(made, by_hand)
    if name != "entropy":
        after = aggregate(branches, reference, aggregation=name) - 0.8 * reference
        assert not torch.allclose(made.softmax(-1), after.softmax(-1), atol=1e-3)


def test_agreeing_branches_act_like_a_temperature():
    """N branches equal to the reference: temperature 1 / (N (1 - alpha))."""
    logits = random_logits(11)
    made = combine(logits.expand(4, 11), logits, alpha=0.25)
    torch.testing.assert_close(made, logits * 4 * 0.75)


def test_the_cut_off_stops_an_implausible_token():
    """Plain contrast picks a token 8 nats below the best, only since the reference is at -20."""
    branch, reference = torch.tensor([[5.0, 4.9, -3.0]]), torch.tensor([5.0, 4.9, -20.0])
    plain = combine(branch, reference, alpha=1.0)
    torch.testing.assert_close(plain, torch.tensor([0.0, 0.0, 17.0]))
    cut = combine(branch, reference, alpha=1.0, beta=0.1)  # cut-off 5 + log 0.1 = 2.697
    torch.testing.assert_close(cut, torch.tensor([0.0, 0.0, -INF]))


def test_the_cut_off_is_a_share_of_the_top_probability():
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    logits = probabilities.log() + 3.0
    for beta, kept in [(0, 4), (0.09, 4), (0.11, 3), (0.29, 3), (0.31, 2), (0.61, 1), (1, 1)]:
        assert plausible(logits, beta=beta).tolist() == [True] * kept + [False] * (4 - kept)


def test_the_cut_off_looks_at_pooled_logits_without_contrast():
    """Token 1 lies 1 nat below in both branches: 2 nats in the sum, 1 in the mean."""
    branches, reference = torch.tensor([[2.0, 1.0], [2.0, 1.0]]), torch.tensor([9.0, 0.0])
    beta = math.exp(-1.5)
    summed = combine(branches, reference, alpha=1.0, beta=beta)
    mean = combine(branches, reference, alpha=1.0, beta=beta, aggregation="mean")
    assert summed.tolist() == [-14.0, -INF]
    assert mean.tolist() == [-7.0, 1.0]


@pytest.mark.parametrize("name", ALL)
def test_the_cut_off_only_masks(name):
    branches, reference = random_logits(3, 2, 50), random_logits(2, 50, seed=1)
    whole = combine(branches, reference, alpha=0.5, aggregation=name)
    cut = combine(branches, reference, alpha=0.5, beta=0.2, aggregation=name)
    kept = cut.isfinite()
    assert torch.equal(cut[kept], whole[kept])
    assert 2 <= kept.sum() < 100
    best = aggregate(branches, reference, aggregation=name).argmax(dim=-1, keepdim=True)
    assert kept.gather(-1, best).all()


@pytest.mark.parametrize("name", ALL)
def test_impossible_tokens_stay_impossible_and_nothing_is_nan(name):
    branches, reference = random_logits(2, 6), random_logits(6, seed=1)
    branches[:, 0] = reference[0] = -INF  # padding of the vocabulary: impossible everywhere
    reference[1] = -INF
    for alpha in (0.0, 0.5):
        made = combine(branches, reference, alpha=alpha, beta=0.0, aggregation=name)
        assert made[0] == -INF
        assert made[1:].isfinite().all()


def test_a_token_impossible_for_the_reference_alone():
    """It counts as the reference's least likely other token, not as infinitely surprising."""
    made = contrast(torch.zeros(1, 3), torch.tensor([1.0, -4.0, -INF]), alpha=0.5)
    torch.testing.assert_close(made, torch.tensor([[-0.5, 2.0, 2.0]]))
    silent = contrast(torch.zeros(1, 2), torch.full((2,), -INF), alpha=0.5)
    assert torch.equal(silent, torch.zeros(1, 2))


def test_half_precision_and_inputs_untouched():
    branches, reference = random_logits(3, 11).bfloat16(), random_logits(11, seed=1).bfloat16()
    before = branches.clone(), reference.clone()
    made = combine(branches, reference, alpha=0.3, beta=0.1)
    assert made.dtype == torch.float32
    exact = combine(branches.double(), reference.double(), alpha=0.3, beta=0.1)
    torch.testing.assert_close(made.double(), exact, rtol=1e-5, atol=1e-5)
    assert torch.equal(branches, before[0])
    assert torch.equal(reference, before[1])


@pytest.mark.parametrize("value", [-0.1, 10.1, math.nan, INF, True, "0.3", None])
def test_alpha_out_of_range(value):
    with pytest.raises(InvalidValueError, match=r"^alpha=.* must be "):
        validate_alpha(value)
    with pytest.raises(InvalidValueError):
        combine(torch.zeros(1, 3), torch.zeros(3), alpha=value)


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, INF, False, "0.3", None])
def test_beta_out_of_range(value):
    with pytest.raises(InvalidValueError, match=r"^beta=.* must be "):
        validate_beta(value)
    with pytest.raises(InvalidValueError):
        combine(torch.zeros(1, 3), torch.zeros(3), alpha=0.3, beta=value)


def test_ends_of_the_ranges_are_accepted():
    for value in (0, 0.0, 0.3, 10, 10.0):
        validate_alpha(value)
    for value in (0, 0.0, 0.1, 1, 1.0):
        validate_beta(value)


def test_bad_calls():
    with pytest.raises(InvalidValueError, match="reference=None"):
        combine(torch.zeros(2, 3), None, alpha=0.3)
    with pytest.raises(InvalidValueError, match=r"reference\.shape"):
        combine(torch.zeros(2, 1, 3), torch.zeros(3), alpha=0.3)  # would broadcast silently
    with pytest.raises(UnknownNameError, match="aggregation"):
        combine(torch.zeros(2, 3), torch.zeros(3), alpha=0.3, aggregation="median")
