"""Routing: which branch was asked? A mixture of the branches, weighted by two witnesses.

Ours, no part of the paper. With p_k the distribution of branch k, p_ref that of the noise-only
reference and p_plain that of plain decoding, all from logits as the model gave them,

    KL_k = KL(p_k || p_ref)                 what the image of branch k has changed, in nats
    a_k  = sum_v p_k(v) p_plain(v)          how often branch k and plain decoding say the same
    w_k  = a_k exp(KL_k) / sum_j a_j exp(KL_j)
    p*   = sum_k w_k softmax(l_k - alpha l_ref)

Each witness alone fails in one of two regimes. A branch that cannot see the asked image and
abstains says what the reference says (KL near 0), so divergence finds the right one; but one that
answers from its own image instead has moved as far as any. Plain decoding has read the question
beside all images and may prefer the asked one, but cannot tell an abstention from an answer that it
overlooked. And a mixture needs one branch that knows, where the published sum needs all others to
be indifferent: votes for "unknown" do not add up.
"""

from __future__ import annotations

import torch
from torch import Tensor

from focus.aggregation import at_least_float32, check_shapes, divergence
from focus.contrast import contrast
from focus.errors import InvalidValueError


def agreement(branches: Tensor, plain: Tensor) -> Tensor:
    """a_k, the probability that a branch and plain decoding draw the same token.

    Args:
        branches: Logits ``[branch, ..., vocab]``.
        plain: Logits ``[..., vocab]``.

    Returns:
        ``[branch, ...]``, in [0, 1].

    >>> sure = torch.tensor([20.0, 0.0])
    >>> agreement(torch.stack([sure, -sure, 0 * sure]), sure)
    tensor([1.0000e+00, 4.1223e-09, 5.0000e-01])
    """
    _check_plain(branches, plain)
    branches, plain = at_least_float32(branches), at_least_float32(plain)
    return (branches.softmax(dim=-1) * plain.softmax(dim=-1)).sum(dim=-1)


def routing_weights(branches: Tensor, reference: Tensor, plain: Tensor) -> Tensor:
    """w_k, see the head of this file.

    Args:
        branches: Logits ``[branch, ..., vocab]``.
        reference, plain: Logits ``[..., vocab]``.

    Returns:
        ``[branch, ...]``, in [0, 1], summing to 1 over branches.

    Raises:
        InvalidValueError: Shapes differ.
    """
    check_shapes(branches, reference)
    witnessed = agreement(branches, plain)
    # A branch that plain decoding rules out altogether has no say, unless all are.
    smallest = torch.finfo(witnessed.dtype).tiny
    scores = divergence(branches, reference) + witnessed.clamp(min=smallest).log()
    return scores.softmax(dim=0)


def route(branches: Tensor, reference: Tensor, plain: Tensor, *, alpha: float) -> Tensor:
    """Logits of the mixture p*, see the head of this file.

    Args:
        branches: Logits ``[branch, ..., vocab]``, same prompt and prefix.
        reference: Logits of the noise-only reference ``[..., vocab]``.
        plain: Logits with all images clean ``[..., vocab]``.
        alpha: Contrast weight in [0, 10] within each branch; 0 mixes the branches as they are.

    Returns:
        ``[..., vocab]``, at least float32: log p*, plus the log-partition of `plain`, which makes
        them equal to `plain` where all branches are.

    Raises:
        InvalidValueError: Shapes differ, or `alpha` is out of range.

    >>> blue, unknown = torch.tensor([2.0, 0.0, 0.0]), torch.tensor([0.0, 0.0, 3.0])
    >>> leaky = torch.tensor([1.0, 1.5, 0.0])
    >>> branches = torch.stack([blue, unknown, unknown])
    >>> route(branches, unknown, leaky, alpha=0.0).argmax(), branches.sum(0).argmax()
    (tensor(0), tensor(2))
    """
    weights = routing_weights(branches, reference, plain)
    contrasted = contrast(branches, reference, alpha=alpha).log_softmax(dim=-1)
    mixture = (contrasted + weights.log().unsqueeze(-1)).logsumexp(dim=0)
    return mixture + at_least_float32(plain).logsumexp(dim=-1, keepdim=True)


def _check_plain(branches: Tensor, plain: Tensor) -> None:
    if plain.shape != branches.shape[1:]:
        raise InvalidValueError(
            "plain.shape", tuple(plain.shape), f"{tuple(branches.shape[1:])}, that of one branch"
        )
