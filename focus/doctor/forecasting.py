"""The forecast of `focus.forecast` for a model and questions at hand: no labels are looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from focus.contrast import combine
from focus.forecast import Forecast, row_statistics, rule_statistics
from focus.routing import route

Statistics = Mapping[str, Mapping[str, Tensor]]
"""By rule, statistics of one question, or of several ``[questions]``."""
RULES = ("sum", "max", "routed")


def question_statistics(
    plain: Tensor, rows: Tensor, named: Mapping[int, str], *, alpha: float
) -> Statistics:
    """Statistics of one question for every rule that there is a forecast for.

    Args:
        plain: first-token logits of plain decoding ``[vocab]``.
        rows: of the reference and of every branch ``[1 + branches, vocab]``.
        named: the choice that a token names, see `focus.doctor.behaviour.naming`; spellings of one
            choice count as one token.
        alpha: contrast weight of all rules.
    """
    plain, rows, candidates = _spelled_once(plain, rows, named)
    reference, branches = rows[0], rows[1:]
    combined = {
        "routed": route(branches, reference, plain, alpha=alpha),
        **{name: combine(branches, reference, alpha=alpha, aggregation=name)
           for name in ("sum", "max")},
    }  # fmt: skip
    common = row_statistics(plain, reference, branches, candidates)
    return {
        rule: {**common, **rule_statistics(combined[rule], plain, candidates)} for rule in RULES
    }


def forecast_finding(questions: Sequence[Statistics]) -> tuple[dict[str, Any], list[str]]:
    """What is expected of each rule, as data and as a line; nothing without questions."""
    if not questions:
        return {}, []
    data: dict[str, Any] = {}
    for rule in RULES:
        together = {
            name: torch.stack([each[rule][name] for each in questions])
            for name in questions[0][rule]
        }
        gain = Forecast.load(rule).gain(together)
        data[rule] = {"estimate": gain.estimate, "low": gain.low, "high": gain.high}
    forecast = Forecast.load()
    data |= {"questions": len(questions), "unseen": list(gain.unseen)}
    expected = ", ".join(f"{rule} {interval(data[rule])}" for rule in RULES)
    r2, models = forecast.held_out["r2"][0], len(forecast.fitted_on["models"])
    lines = [
        "forecast from what the rows say, no labels: accuracy among the candidates changes by "
        f"{expected}; fitted on {models} embedded models, R2 {r2:.2f} on architectures left out"
    ]
    if gain.unseen:
        names = " and ".join(gain.unseen)
        lines.append(f"unlike all that it was fitted on: {names}; the forecast extrapolates")
    return data, lines


def interval(found: Mapping[str, float]) -> str:
    """Estimate and interval.

    >>> interval({"estimate": 0.12, "low": -0.05, "high": 0.29})
    '+0.12 [-0.05, +0.29]'
    """
    return f"{found['estimate']:+.2f} [{found['low']:+.2f}, {found['high']:+.2f}]"


def _spelled_once(
    plain: Tensor, rows: Tensor, named: Mapping[int, str]
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits with all spellings of a choice in its first token, and which tokens these are."""
    spellings: dict[str, list[int]] = {}
    for token, choice in named.items():
        spellings.setdefault(choice, []).append(token)
    logits = torch.cat([plain[None], rows]).float().cpu()
    merged, candidates = logits.clone(), torch.zeros(logits.shape[-1], dtype=torch.bool)
    for tokens in spellings.values():
        merged[:, tokens] = -torch.inf
        merged[:, tokens[0]] = logits[:, tokens].logsumexp(-1)
        candidates[tokens[0]] = True
    return merged[0], merged[1:], candidates
