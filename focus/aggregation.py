"""Pooling the branches: ``[branch, ..., vocab] -> [..., vocab]``.

FOCUS (arXiv 2508.13744) sums the logits of the branches; the others are alternatives to compare.
Two tensors go in besides the reference: `values`, which are pooled, and `branches`, the logits as
the model gave them, from which weights are derived. They are the same unless `focus.contrast` has
subtracted the reference: it does so per branch *before* pooling, and a weight must say how sure the
model was, not how sure the contrast made it.

Adding a constant to a branch's logits does not change its distribution, nor any result here:
``max`` and ``logsumexp`` compare branches with each other, hence normalise them first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from focus.errors import InvalidValueError, UnknownNameError

AggregationFunction = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""(values [branch, ..., vocab], branches [branch, ..., vocab], reference [..., vocab] or None)."""


@dataclass(frozen=True)
class Aggregation:
    """One way to pool the branches.

    Attributes:
        name: Key in `AGGREGATIONS`.
        function: Maps (values, branches, reference) to the pooled logits.
        needs_reference: Whether it cannot do without the reference, even at alpha = 0.
    """

    name: str
    function: AggregationFunction
    needs_reference: bool


_registry: dict[str, Aggregation] = {}
AGGREGATIONS: Mapping[str, Aggregation] = MappingProxyType(_registry)
"""All aggregations by name; ``sum`` is the published one."""


def _aggregation(
    name: str, *, needs_reference: bool = False
) -> Callable[[AggregationFunction], AggregationFunction]:
    def register(function: AggregationFunction) -> AggregationFunction:
        _registry[name] = Aggregation(name, function, needs_reference)
        return function

    return register


def aggregate(
    branches: Tensor,
    reference: Tensor | None = None,
    *,
    aggregation: str = "sum",
    values: Tensor | None = None,
) -> Tensor:
    """Pools the branches; half precision is computed and returned in float32.

    Args:
        branches: Logits ``[branch, ..., vocab]``; -inf marks an impossible token.
        reference: Logits of the reference ``[..., vocab]``; needed by ``divergence`` only.
        aggregation: Key of `AGGREGATIONS`.
        values: What is pooled, shaped like `branches`; `branches` themselves when None.

    Returns:
        Logits ``[..., vocab]``. With a single branch, its distribution is unchanged.

    Raises:
        UnknownNameError: If there is no such aggregation.
        InvalidValueError: If shapes do not fit, or the reference is needed but missing.

    >>> aggregate(torch.tensor([[1.0, 2.0], [3.0, 0.0]]))
    tensor([4., 2.])
    """
    if aggregation not in AGGREGATIONS:
        raise UnknownNameError("aggregation", aggregation, AGGREGATIONS)
    chosen = AGGREGATIONS[aggregation]
    check_shapes(branches, reference)
    if chosen.needs_reference and reference is None:
        raise InvalidValueError("reference", None, f"given for aggregation {aggregation!r}")
    if values is not None and values.shape != branches.shape:
        raise InvalidValueError("values.shape", tuple(values.shape), f"{tuple(branches.shape)}")
    branches = at_least_float32(branches)
    values = branches if values is None else at_least_float32(values)
    reference = None if reference is None else at_least_float32(reference)
    return chosen.function(values, branches, reference)


def divergence(branches: Tensor, reference: Tensor) -> Tensor:
    """KL(p_k || p_ref) over the whole vocabulary: how far its images have moved a branch.

    Args:
        branches: Logits ``[branch, ..., vocab]``.
        reference: Logits of the noise-only reference ``[..., vocab]``.

    Returns:
        ``[branch, ...]``, in nats, at least 0.
    """
    branches, reference = at_least_float32(branches), at_least_float32(reference)
    log_p, log_q = branches.log_softmax(dim=-1), reference.log_softmax(dim=-1)
    p = log_p.exp()
    nats = torch.where(p > 0, p * (log_p - log_q), 0.0).sum(dim=-1)
    # A token that only the reference rules out makes the divergence infinite: the largest float
    # keeps a softmax over branches defined, and branches that are tied at it share the weight.
    return nats.clamp(min=0, max=torch.finfo(nats.dtype).max)


def check_shapes(branches: Tensor, reference: Tensor | None) -> None:
    """Raises `InvalidValueError` unless branches are [branch, ..., vocab] and reference fits."""
    if branches.ndim < 2 or 0 in branches.shape:
        raise InvalidValueError("branches.shape", tuple(branches.shape), "[branch, ..., vocab]")
    if reference is not None and reference.shape != branches.shape[1:]:
        raise InvalidValueError(
            "reference.shape",
            tuple(reference.shape),
            f"{tuple(branches.shape[1:])}, that of one branch",
        )


def at_least_float32(logits: Tensor) -> Tensor:
    """Half-precision logits as float32: bfloat16 has 8 bits, too few to add several of them."""
    return logits if logits.dtype == torch.float64 else logits.float()


@_aggregation("sum")
def _sum(values: Tensor, branches: Tensor, reference: Tensor | None) -> Tensor:
    """As published. N branches that agree act like one at temperature T / N."""
    return values.sum(dim=0)


@_aggregation("mean")
def _mean(values: Tensor, branches: Tensor, reference: Tensor | None) -> Tensor:
    """The greedy choice of ``sum``, at the temperature of a single branch."""
    return values.mean(dim=0)


@_aggregation("max")
def _max(values: Tensor, branches: Tensor, reference: Tensor | None) -> Tensor:
    """Largest log-probability that any branch gives a token: one branch suffices to propose it."""
    return values.log_softmax(dim=-1).amax(dim=0)


@_aggregation("logsumexp")
def _logsumexp(values: Tensor, branches: Tensor, reference: Tensor | None) -> Tensor:
    """Mixture: log of the mean over branches of the probability of a token."""
    return values.log_softmax(dim=-1).logsumexp(dim=0) - torch.log(
        torch.tensor(float(len(values)), dtype=values.dtype, device=values.device)
    )


@_aggregation("product")
def _product(values: Tensor, branches: Tensor, reference: Tensor | None) -> Tensor:
    """Product of experts: sum of log-probabilities; ``sum`` up to a constant, as a control."""
    return values.log_softmax(dim=-1).sum(dim=0)


@_aggregation("entropy")
def _entropy(values: Tensor, branches: Tensor, reference: Tensor | None) -> Tensor:
    """Confident branches count more: weights proportional to exp(-H_k), summing to N.

    H_k is the entropy of branch k in nats, so exp(-H_k) is one over its effective number of
    candidate tokens. The alternative 1 - H / log V is nearly flat for a vocabulary of 150,000
    (log V = 11.9) and depends on padding entries that no text uses.
    """
    return _weighted_sum(values, -_entropy_of(branches))


@_aggregation("divergence", needs_reference=True)
def _divergence(values: Tensor, branches: Tensor, reference: Tensor | None) -> Tensor:
    """Branches that their image moved most count more: weights softmax_k(KL_k), summing to N.

    KL_k = KL(softmax(l_k) || softmax(l_ref)) in nats over the whole vocabulary. The authors' code
    holds an unused function with weights of this form, over the union of the top-k tokens.
    """
    assert reference is not None  # `aggregate` has checked it
    return _weighted_sum(values, divergence(branches, reference))


def _entropy_of(logits: Tensor) -> Tensor:
    log_p = logits.log_softmax(dim=-1)
    return -torch.where(log_p.isneginf(), 0.0, log_p.exp() * log_p).sum(dim=-1)


def _weighted_sum(values: Tensor, scores: Tensor) -> Tensor:
    """Sum of `values` weighted with N softmax(scores) over branches; scores [branch, ...]."""
    weights = (len(values) * scores.softmax(dim=0)).unsqueeze(-1)
    # A branch of weight zero has no say, so its -inf must not turn into 0 * -inf = NaN.
    return torch.where(weights > 0, weights * values, 0.0).sum(dim=0)
