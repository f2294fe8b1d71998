"""Will the rows of FOCUS gain anything here? A forecast from what they say, without labels.

Ours, no part of the paper. Neither which image was asked nor what is right need be known: whether a
rule of combining the branches beats plain decoding is decided by how the rows differ. With p_k the
distribution of branch k over the whole vocabulary, p_ref that of the noise-only reference, and q
those restricted to the candidates (softmax over the first tokens of the choices alone),

    m_v = max_k p_k(v)                 how far any branch commits itself to candidate v
    d_k = 1 - exp(-KL(p_k || p_ref))   how far its images have moved branch k, in [0, 1)

Whether a branch commits itself shows in the whole vocabulary, where it may say something else
("unknown"); what the rows then rank first shows among the candidates. The names of all statistics
and their formulas are in `ROW_STATISTICS` and `RULE_STATISTICS`; all are in [0, 1].

Only where a rule and plain decoding differ can accuracy change, and there the change is taken to be
linear in a few statistics s, so that a set of questions is expected to gain

    gain = mean over questions of differs * (b_0 + sum_s b_s s)

The coefficients are data: `forecast.json` beside this file, written by `experiments.forecast`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from focus.aggregation import at_least_float32, check_shapes, divergence
from focus.errors import InvalidValueError, UnknownNameError

ROW_STATISTICS: Mapping[str, str] = MappingProxyType(
    {
        "first": "largest m_v: how far any branch commits itself to some candidate",
        "rival": "second largest m_v: how far any branch commits itself to another one",
        "share": "1/K, the share of one branch in the votes of K",
        "moved": "mean d_k without the largest: how far the other branches have moved",
        "agreement": "mean over pairs of branches of sum_v q_j(v) q_k(v): how often two agree",
        "with_plain": "mean_k sum_v q_k(v) q_plain(v): how often a branch and plain agree",
        "reference_entropy": "entropy of q_ref over log C, for C candidates",
        "plain_margin": "largest minus second largest of q_plain",
        "outside": "mean over branches of the probability of what is no candidate",
    }
)
RULE_STATISTICS: Mapping[str, str] = MappingProxyType(
    {
        "differs": "1 where rule and plain decoding rank different tokens first, else 0",
        "margin": "largest minus second largest probability under the rule",
    }
)
#: Where `experiments.forecast` writes what it fits.
FITTED = Path(__file__).with_suffix(".json")


def row_statistics(
    plain: Tensor, reference: Tensor, branches: Tensor, candidates: Tensor
) -> dict[str, Tensor]:
    """`ROW_STATISTICS` of questions, from first-token logits.

    Args:
        plain: logits with all images clean ``[..., vocab]``.
        reference: of the noise-only reference ``[..., vocab]``.
        branches: ``[branch, ..., vocab]``. A lone branch agrees with itself.
        candidates: whether a token is the first of a choice ``[..., vocab]``.

    Returns:
        ``[...]`` each, float.

    Raises:
        InvalidValueError: shapes differ, or a question has fewer than two candidates.
    """
    check_shapes(branches, reference)
    _check(candidates, plain=plain, reference=reference)
    branches, count = at_least_float32(branches), len(branches)
    p = branches.softmax(-1) * candidates
    q, q_plain = (_among(x, candidates).softmax(-1) for x in (branches, plain))
    committed = p.amax(0).topk(2, dim=-1).values
    moved = 1 - torch.exp(-divergence(branches, reference))
    overlap = q.sum(0).square().sum(-1) - q.square().sum(-1).sum(0)  # over ordered pairs j != k
    log_ref = _among(reference, candidates).log_softmax(-1)
    entropy = -torch.where(log_ref.isneginf(), 0.0, log_ref.exp() * log_ref).sum(-1)
    one = torch.ones_like(moved[0])
    return {
        "first": committed[..., 0],
        "rival": committed[..., 1],
        "share": one / count,
        "moved": (moved.sum(0) - moved.amax(0)) / max(1, count - 1),
        "agreement": overlap / (count * (count - 1)) if count > 1 else one,
        "with_plain": (q * q_plain).sum(-1).mean(0),
        "reference_entropy": entropy / candidates.sum(-1).log(),
        "plain_margin": _margin(q_plain),
        "outside": 1 - p.sum(-1).mean(0),
    }


def rule_statistics(combined: Tensor, plain: Tensor, candidates: Tensor) -> dict[str, Tensor]:
    """`RULE_STATISTICS` of questions, among the candidates.

    Args:
        combined: logits of the rule ``[..., vocab]``.
        plain, candidates: see `row_statistics`; where all tokens are candidates, the statistics are
            those of generated text.

    Raises:
        InvalidValueError: shapes differ, or a question has fewer than two candidates.
    """
    _check(candidates, plain=plain, combined=combined)
    logits = _among(combined, candidates)
    said, before = logits.argmax(-1), _among(plain, candidates).argmax(-1)
    return {"differs": (said != before).float(), "margin": _margin(logits.softmax(-1))}


@dataclass(frozen=True)
class Gain:
    """Expected change of accuracy on a set of questions.

    Args:
        estimate, low, high: with a 95% prediction interval, in [-1, 1].
        unseen: statistics whose mean lies outside of all that the forecast was fitted on: there it
            extrapolates.
    """

    estimate: float
    low: float
    high: float
    unseen: tuple[str, ...] = ()


@dataclass(frozen=True)
class Forecast:
    """A fitted forecast for one rule and one reading; see `focus/forecast.json`.

    Args:
        gain_model: names, coefficients (the first is b_0) and their covariance; ``scale``, the mean
            squared error on cells of architectures that were left out, and ``quantile``, how many
            standard errors an interval reaches to either side.
        chance_model: names and coefficients (the constant first) of the log-odds that the rule is
            right where exactly one of rule and plain decoding is.
        seen: per statistic, least and largest mean over a cell that it was fitted on.
        held_out: how it does on test questions of architectures that were left out.
        fitted_on: models, cells, questions, commit, date, command.
    """

    gain_model: Mapping[str, Any]
    chance_model: Mapping[str, Any]
    seen: Mapping[str, Sequence[float]]
    held_out: Mapping[str, Any]
    fitted_on: Mapping[str, Any]

    @classmethod
    def load(cls, rule: str = "sum", reading: str = "candidates") -> Forecast:
        """The forecast that comes with the package.

        Args:
            rule: ``sum`` as published, ``max`` or ``routed``, at their default contrast weight.
            reading: ``candidates``, the best choice, or ``text``, what greedy decoding says.

        Raises:
            UnknownNameError: there is none for that rule and reading.
        """
        return cls.of(_fitted(), rule, reading)

    @classmethod
    def of(cls, fitted: Mapping[str, Any], rule: str, reading: str) -> Forecast:
        """The same from the content of such a file."""
        known = fitted["forecasts"]
        for what, name, found in (("rule", rule, known), ("reading", reading, known.get(rule, {}))):
            if name not in found:
                raise UnknownNameError(f"{what} with a forecast", name, found)
        one = known[rule][reading]
        return cls(one["gain"], one["chance"], fitted["seen"], one["held_out"], fitted["fitted_on"])

    def gain(self, statistics: Mapping[str, Tensor]) -> Gain:
        """What a set of questions is expected to gain from the rule over plain decoding.

        Args:
            statistics: of `row_statistics` and `rule_statistics`, each ``[questions]``.

        Raises:
            InvalidValueError: no questions.
        """
        differs = statistics["differs"].double()
        if not differs.numel():
            raise InvalidValueError("questions", 0, "one or more")
        products = [differs, *(differs * statistics[name] for name in self.gain_model["names"])]
        x = np.array([float(product.mean()) for product in products])
        estimate = float(x @ self.gain_model["coefficients"])
        spread = self.gain_model["scale"] + x @ np.array(self.gain_model["covariance"]) @ x
        half = float(self.gain_model["quantile"] * np.sqrt(spread))
        most = x[0]  # no more questions can change than differ
        ends = np.clip([estimate, estimate - half, estimate + half], -most, most).tolist()
        means = {name: float(statistics[name].double().mean()) for name in self.seen}
        unseen = [n for n, (low, high) in self.seen.items() if not low <= means[n] <= high]
        return Gain(ends[0], ends[1], ends[2], tuple(unseen))

    def probability(self, statistics: Mapping[str, Tensor]) -> Tensor:
        """Probability that the rule is right, where exactly one of rule and plain decoding is.

        Args:
            statistics: see `gain`.

        Returns:
            ``[questions]``; above 1/2 speaks for the rule.
        """
        constant, *slopes = self.chance_model["coefficients"]
        pairs = zip(slopes, self.chance_model["names"], strict=True)
        odds = constant + sum(slope * statistics[name].double() for slope, name in pairs)
        return torch.sigmoid(odds)


@functools.lru_cache(maxsize=1)
def _fitted() -> Mapping[str, Any]:
    content: dict[str, Any] = json.loads(FITTED.read_text(encoding="utf-8"))
    return content


def _check(candidates: Tensor, **logits: Tensor) -> None:
    for name, given in logits.items():
        if given.shape != candidates.shape:
            accepted = f"{tuple(candidates.shape)}, that of candidates"
            raise InvalidValueError(f"{name}.shape", tuple(given.shape), accepted)
    number = candidates.sum(-1)
    if (number < 2).any():
        raise InvalidValueError("candidates", int(number.min()), "two or more for each question")


def _among(logits: Tensor, candidates: Tensor) -> Tensor:
    return at_least_float32(logits).masked_fill(~candidates, -torch.inf)


def _margin(q: Tensor) -> Tensor:
    top = q.topk(2, dim=-1).values
    return top[..., 0] - top[..., 1]
