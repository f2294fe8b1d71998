"""Ways to choose an answer from the rows of FOCUS: its aggregations, and candidates of ours.

A rule is a function of first-token logits alone. Those that `focus.aggregation` knows are its own
(`focus.contrast.combine`); the candidates also look at plain decoding, which an aggregation cannot.
`routed` came out of the trial and is a strategy (`focus.decoding.RoutedFocus`); the others are not.

What a rule has to get right. Where off-target branches abstain, they say what the reference says,
and only the on-target branch has moved away from it: any weight by divergence finds it. Where they
answer from their own image instead, every branch has moved, none knows which was asked, and only
plain decoding has seen question and images together: a weight by agreement with it breaks the tie.
In the formulas p_k is branch k, p_ref the reference, p_plain plain decoding, all softmaxed, and

    d_k = 1 - exp(-KL(p_k || p_ref))        in [0, 1): 0 for a branch that its image did not move
    a_k = sum_v p_k(v) p_plain(v)           in [0, 1]: how often k and plain say the same
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

import focus.aggregation
import focus.routing
from focus.aggregation import AGGREGATIONS
from focus.contrast import combine, contrast
from focus.errors import InvalidValueError, UnknownNameError
from focus.evidence import Evidence

Rule = Callable[[Evidence, float], Tensor]
"""(evidence, weight alpha) -> logits [questions, vocabulary]."""

_registry: dict[str, Rule] = {}
RULES: Mapping[str, Rule] = MappingProxyType(_registry)
"""All rules by name: the aggregations first."""


#: Rules that run a row of plain decoding besides the reference and the branches.
WITH_PLAIN: frozenset[str] = frozenset(
    ("agreeing", "anchored", "anchored_max", "anchored_agreeing", "routed")
)


#: The rule that takes over from plain decoding in each form of adaptive FOCUS.
TAKES_OVER: Mapping[str, str] = MappingProxyType(
    {"adaptive_focus": "sum", "adaptive_routed": "routed"}
)


def rows_taken(name: str, num_branches: float) -> float:
    """Rows that a rule needs, on average where questions have different numbers of branches.

    >>> rows_taken("sum", 2), rows_taken("routed", 2)
    (3, 4)
    """
    return num_branches + 1 + (name in WITH_PLAIN)


def _aggregated(name: str, beta: float = 0.0) -> Rule:
    def rule(evidence: Evidence, alpha: float) -> Tensor:
        rows = evidence.branches, evidence.reference
        return combine(*rows, alpha=alpha, beta=beta, aggregation=name)

    return rule


for _name in AGGREGATIONS:
    _registry[_name] = _aggregated(_name)


def _rule(function: Rule) -> Rule:
    _registry[function.__name__] = function
    return function


@_rule
def gated(evidence: Evidence, alpha: float) -> Tensor:
    """``sum_k d_k (l_k - alpha l_ref)``: branches that say what the reference says have no vote."""
    return _weighted(evidence, alpha, moved(evidence))


@_rule
def agreeing(evidence: Evidence, alpha: float) -> Tensor:
    """``sum_k d_k a_k (l_k - alpha l_ref)``: a branch must have moved, and agree with plain."""
    return _weighted(evidence, alpha, moved(evidence) * agreement(evidence))


@_rule
def anchored(evidence: Evidence, alpha: float) -> Tensor:
    """``log p_plain + alpha sum_k d_k (log p_k - log p_ref)``: plain decoding and the evidence.

    Here alpha weighs the evidence; 0 is plain decoding.
    """
    gain = _gain(evidence) * moved(evidence).unsqueeze(-1)
    return evidence.plain.log_softmax(-1) + alpha * gain.sum(0)


@_rule
def anchored_max(evidence: Evidence, alpha: float) -> Tensor:
    """``log p_plain + alpha max_k d_k (log p_k - log p_ref)``: the best witness of each token."""
    gain = _gain(evidence) * moved(evidence).unsqueeze(-1)
    return evidence.plain.log_softmax(-1) + alpha * gain.amax(0)


@_rule
def anchored_agreeing(evidence: Evidence, alpha: float) -> Tensor:
    """``log p_plain + alpha sum_k w_k (log p_k - log p_ref)``, w_k = d_k a_k / sum_j d_j a_j."""
    weights = moved(evidence) * agreement(evidence)
    weights = weights / weights.sum(0).clamp(min=1e-12)
    return evidence.plain.log_softmax(-1) + alpha * (_gain(evidence) * weights.unsqueeze(-1)).sum(0)


@_rule
def routed(evidence: Evidence, alpha: float) -> Tensor:
    """A mixture of the branches by divergence and agreement: see `focus.routing`."""
    return focus.routing.route(evidence.branches, evidence.reference, evidence.plain, alpha=alpha)


@_rule
def oracle(evidence: Evidence, alpha: float) -> Tensor:
    """``l_t - alpha l_ref`` of the branch t that shows the asked image: an upper bound, no method.

    Raises:
        InvalidValueError: the questions name no image.
    """
    if evidence.target is None:
        raise InvalidValueError("target", None, "a branch for each question, for rule 'oracle'")
    questions = torch.arange(len(evidence.target))
    return contrast(evidence.branches, evidence.reference, alpha=alpha)[evidence.target, questions]


def apply_rule(name: str, evidence: Evidence, alpha: float, beta: float = 0.0) -> Tensor:
    """Logits ``[questions, vocabulary]`` of a rule.

    Args:
        name: key of `RULES`.
        evidence: logits of all rows.
        alpha: contrast weight, or what the rule makes of it.
        beta: plausibility cut-off of an aggregation, see `focus.contrast.combine`; 0 for none.

    Raises:
        UnknownNameError: there is no such rule.
        InvalidValueError: a cut-off of a rule that has none.
    """
    if name not in RULES:
        raise UnknownNameError("rule", name, RULES)
    if beta and name not in AGGREGATIONS:
        raise InvalidValueError("beta", beta, f"0 for rule {name!r}: aggregations have a cut-off")
    rule = _aggregated(name, beta) if beta else RULES[name]
    logits = torch.empty_like(evidence.plain)
    for at, part in evidence.alike:
        logits[at] = rule(part, alpha)
    return logits


def divergence(evidence: Evidence) -> Tensor:
    """KL(p_k || p_ref) in nats: ``[branch, questions]``."""
    return focus.aggregation.divergence(evidence.branches, evidence.reference)


def moved(evidence: Evidence) -> Tensor:
    """d_k, see the head of this file: ``[branch, questions]``."""
    return 1 - torch.exp(-divergence(evidence))


def agreement(evidence: Evidence) -> Tensor:
    """a_k, see the head of this file: ``[branch, questions]``."""
    return focus.routing.agreement(evidence.branches, evidence.plain)


def _gain(evidence: Evidence) -> Tensor:
    return evidence.branches.log_softmax(-1) - evidence.reference.log_softmax(-1)


def _weighted(evidence: Evidence, alpha: float, weights: Tensor) -> Tensor:
    """Weighted sum over branches; weights sum to their number where any is above zero."""
    weights = len(weights) * weights / weights.sum(0).clamp(min=1e-12)
    values = contrast(evidence.branches, evidence.reference, alpha=alpha)
    return (values * weights.unsqueeze(-1)).sum(0)
