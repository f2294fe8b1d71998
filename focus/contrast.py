"""From the logits of the branches and the reference to the logits a token is chosen from.

FOCUS (arXiv 2508.13744): ``l* = sum_k (l_k - alpha * l_ref)``. The reference says what the model
would answer with no image to see; subtracting it removes the language prior. It is subtracted from
every branch *before* they are pooled, which matters where pooling is not linear
(`focus.aggregation`).

With N branches that agree with each other and with the reference, the published sum scales logits
by N (1 - alpha), so it samples as at temperature T / (N (1 - alpha)). Greedy decoding is immune.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from focus.aggregation import AGGREGATIONS, aggregate, at_least_float32, check_shapes
from focus.checks import Share, check
from focus.errors import InvalidValueError, UnknownNameError

MAX_ALPHA = 10.0
"""Largest contrast weight accepted.

Published values are 0.03 to 0.5 (FOCUS) and 1 (VCD). Ten leaves room for ablations and still
catches a percentage passed for a fraction.
"""
ContrastWeight = Annotated[float, Field(ge=0, le=MAX_ALPHA)]


def validate_alpha(alpha: object) -> None:
    """Raises `InvalidValueError` unless `alpha` is a number in [0, 10]; 0 switches contrast off."""
    check("alpha", alpha, ContrastWeight)


def validate_beta(beta: object) -> None:
    """Raises `InvalidValueError` unless `beta` is a number in [0, 1]; 0 switches it off."""
    check("beta", beta, Share)


def contrast(branches: Tensor, reference: Tensor | None, *, alpha: float) -> Tensor:
    """``l_k - alpha * l_ref`` for every branch k.

    A token impossible (-inf) for a branch stays so. One impossible for the reference alone would
    become infinitely likely; it counts as the reference's least likely other token instead.

    Args:
        branches: Logits ``[branch, ..., vocab]``.
        reference: Logits ``[..., vocab]``; may be None at alpha = 0.
        alpha: Contrast weight in [0, 10]; 0 returns the branches.

    Returns:
        ``[branch, ..., vocab]``, at least float32.

    Raises:
        InvalidValueError: If `alpha` is out of range, shapes differ or the reference is missing.
    """
    validate_alpha(alpha)
    check_shapes(branches, reference)
    branches = at_least_float32(branches)
    if alpha == 0:  # not only faster: 0 * -inf is NaN
        return branches
    if reference is None:
        raise InvalidValueError("reference", None, "given unless alpha=0")
    reference = at_least_float32(reference)
    impossible = reference.isneginf()
    least = reference.masked_fill(impossible, math.inf).amin(dim=-1, keepdim=True)
    # Where the reference rules everything out it says nothing: the fill is 0.
    floor = torch.where(least.isposinf(), 0.0, least)
    return branches - alpha * torch.where(impossible, floor, reference)


def plausible(aggregated: Tensor, *, beta: float) -> Tensor:
    """Mask of the tokens that may be chosen: ``aggregated >= log(beta) + max(aggregated)``.

    VCD's adaptive plausibility constraint (arXiv 2311.16922), here on the pooled logits before
    contrast; the published FOCUS has none.
    With ``sum`` the gaps between tokens grow with the number of branches, so the same beta cuts
    more; with ``mean`` it does not.

    Args:
        aggregated: Logits ``[..., vocab]`` pooled without contrast.
        beta: Share of the top token's probability in [0, 1]; 0 keeps all, 1 only the top.

    Raises:
        InvalidValueError: If `beta` is out of range.
    """
    validate_beta(beta)
    if beta == 0:
        return torch.ones_like(aggregated, dtype=torch.bool)
    return aggregated >= math.log(beta) + aggregated.amax(dim=-1, keepdim=True)


def check_aggregation(aggregation: str) -> None:
    """Raises `UnknownNameError` if there is no such aggregation."""
    if aggregation not in AGGREGATIONS:
        raise UnknownNameError("aggregation", aggregation, AGGREGATIONS)


def combine(
    branches: Tensor,
    reference: Tensor | None,
    *,
    alpha: float,
    beta: float = 0.0,
    aggregation: str = "sum",
) -> Tensor:
    """Logits of the next token: ``agg_k(l_k - alpha * l_ref)`` within the plausible tokens.

    Args:
        branches: Logits of the branches ``[branch, ..., vocab]``, same prompt and prefix.
        reference: Logits of the noise-only reference ``[..., vocab]``; may be None where nothing
            needs it.
        alpha: Contrast weight in [0, 10]; 0 ignores the reference.
        beta: Plausibility cut-off in [0, 1]; 0 keeps all tokens. Others become -inf.
        aggregation: Key of `focus.aggregation.AGGREGATIONS`; ``sum`` is published.

    Returns:
        ``[..., vocab]``, at least float32.

    Raises:
        UnknownNameError: If there is no such aggregation.
        InvalidValueError: If a setting is out of range, shapes differ or the reference is missing.

    >>> branches = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    >>> combine(branches, torch.tensor([1.0, 1.0, 1.0]), alpha=0.5)
    tensor([ 1.,  1., -1.])
    """
    validate_beta(beta)
    contrasted = contrast(branches, reference, alpha=alpha)
    combined = aggregate(branches, reference, aggregation=aggregation, values=contrasted)
    if beta == 0:
        return combined
    uncontrasted = aggregate(branches, reference, aggregation=aggregation)
    return combined.masked_fill(~plausible(uncontrasted, beta=beta), -math.inf)
