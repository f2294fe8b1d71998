"""Routing of branches on cases that can be checked by hand; no model."""

from __future__ import annotations

import math

import pytest
import torch

from focus.contrast import combine
from focus.errors import InvalidValueError
from focus.routing import agreement, route, routing_weights

# Words: the answers of two images, and "unknown".
FIRST, SECOND, UNKNOWN = 0, 1, 2
BLIND = [0.05, 0.05, 0.9]
SEES_FIRST, SEES_SECOND = [0.9, 0.05, 0.05], [0.05, 0.9, 0.05]


def logits(*rows: list[float]) -> torch.Tensor:
    """Logits of one or several distributions, each shifted, as a model's are."""
    found = torch.tensor(rows, dtype=torch.float64).log()
    found = found + torch.arange(len(rows), dtype=torch.float64)[:, None]
    return found[0] if len(rows) == 1 else found


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


BRANCHES, REFERENCE, PLAIN = random(3, 5, 7, seed=0), random(5, 7, seed=1), random(5, 7, seed=2)


def test_weights_and_mixture_by_hand():
    branches, reference, plain = logits([0.5, 0.5], [0.9, 0.1]), logits([0.5, 0.5]), [0.8, 0.2]
    moved = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    scores = [0.5 * math.exp(0.0), (0.9 * 0.8 + 0.1 * 0.2) * math.exp(moved)]
    weights = [score / sum(scores) for score in scores]
    found = routing_weights(branches, reference, logits(plain))
    assert found.tolist() == pytest.approx(weights)
    first = weights[0] * 0.5 + weights[1] * 0.9
    mixed = route(branches, reference, logits(plain), alpha=0.0).softmax(-1)
    assert mixed.tolist() == pytest.approx([first, 1 - first])


def test_contrast_is_taken_within_each_branch():
    """With alpha = 1 a branch that says what the reference says is uniform."""
    branches = logits([0.2, 0.8], [0.2, 0.8])
    mixed = route(branches, logits([0.2, 0.8]), logits([0.5, 0.5]), alpha=1.0).softmax(-1)
    assert mixed.tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("others", [1, 3, 7])
def test_votes_to_abstain_do_not_add_up(others):
    """Off-target branches abstain; plain decoding leans to a wrong image."""
    branches = logits(SEES_FIRST, *[BLIND] * others)
    plain = logits([0.4, 0.55, 0.05])
    mixed = route(branches, logits(BLIND), plain, alpha=0.0)
    assert mixed.argmax() == FIRST
    # Control: the published sum is outvoted.
    summed = combine(branches, logits(BLIND), alpha=0.0)
    assert summed.argmax() == (UNKNOWN if others > 1 else FIRST)
    assert mixed.softmax(-1)[FIRST] > 0.6


@pytest.mark.parametrize("asked", [FIRST, SECOND])
def test_plain_decoding_breaks_the_tie_of_branches_that_answer_from_their_own_image(asked):
    branches = logits(SEES_FIRST, SEES_SECOND)
    plain = logits([0.55, 0.4, 0.05] if asked == FIRST else [0.4, 0.55, 0.05])
    summed = combine(branches, logits(BLIND), alpha=0.3)
    assert float(summed[FIRST] - summed[SECOND]) == pytest.approx(0.0, abs=1e-9)  # control: a tie
    assert route(branches, logits(BLIND), plain, alpha=0.3).argmax() == asked


def test_weights_are_a_distribution_over_branches():
    weights = routing_weights(BRANCHES, REFERENCE, PLAIN)
    assert weights.shape == (3, 5)
    torch.testing.assert_close(weights.sum(0), torch.ones(5))
    assert float(weights.min()) > 0
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(routing_weights(BRANCHES[order], REFERENCE, PLAIN), weights[order])


def test_every_sequence_is_routed_by_itself():
    whole = route(BRANCHES, REFERENCE, PLAIN, alpha=0.4)
    part = route(BRANCHES[:, 3], REFERENCE[3], PLAIN[3], alpha=0.4)
    torch.testing.assert_close(whole[3], part)


def test_one_branch_is_the_published_sum():
    one = route(BRANCHES[:1], REFERENCE, PLAIN, alpha=0.4).softmax(-1)
    summed = combine(BRANCHES[:1], REFERENCE, alpha=0.4).softmax(-1)
    torch.testing.assert_close(one, summed)


def test_branches_that_see_what_plain_decoding_sees_give_its_logits():
    same = torch.stack([PLAIN, PLAIN + 4])
    torch.testing.assert_close(route(same, REFERENCE, PLAIN, alpha=0.0), PLAIN)


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_impossible_tokens_leave_numbers(alpha):
    """A token ruled out by some rows, or by all; a plain row that agrees with no branch."""
    branches, reference, plain = BRANCHES.clone(), REFERENCE.clone(), PLAIN.clone()
    branches[:, :, 0] = reference[:, 0] = plain[:, 0] = -math.inf
    branches[0, :, 1] = reference[:, 2] = -math.inf
    branches[:, 4, 3:] = -math.inf
    plain[4, :3] = -math.inf
    mixed = route(branches, reference, plain, alpha=alpha)
    assert not mixed.isnan().any()
    assert mixed[:, 0].isneginf().all()
    assert mixed[:4, 1:].isfinite().all()
    assert mixed[4, 1:3].isfinite().all()


def test_half_precision_is_computed_in_float32():
    half = [t.bfloat16() for t in (BRANCHES, REFERENCE, PLAIN)]
    mixed = route(*half, alpha=0.4)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, route(*(t.float() for t in half), alpha=0.4))


def test_shapes_and_weights_out_of_range_are_refused():
    with pytest.raises(InvalidValueError, match=r"reference.shape=\(4, 7\)"):
        route(BRANCHES, REFERENCE[:4], PLAIN, alpha=0.4)
    for function in (
        lambda plain: agreement(BRANCHES, plain),
        lambda plain: route(BRANCHES, REFERENCE, plain, alpha=0.4),
    ):
        with pytest.raises(InvalidValueError, match=r"plain.shape=\(5, 6\)"):
            function(PLAIN[:, :6])
    with pytest.raises(InvalidValueError, match="alpha"):
        route(BRANCHES, REFERENCE, PLAIN, alpha=-0.1)
