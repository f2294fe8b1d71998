"""Answers of strategies that are no rule on the rows of FOCUS, settings chosen on dev."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from analysis.rules import TAKES_OVER, apply_rule, rows_taken
from experiments.ablation_cells import RowStore
from experiments.ablation_choice import Chooser, adaptive_parts, vcd_answer
from experiments.ablation_lines import likeness
from experiments.ablation_models import Model
from experiments.ablation_questions import Loaded
from experiments.ablation_rows import Rows
from focus.decoding import STRATEGIES as ALL_STRATEGIES
from focus.decoding import CaptionThenAnswer, Plain, SingleImage
from focus.decoding.interventions import AbstractIntervention
from focus.marks import AnswerKey, read

#: Strategies that change the prompt or the forward pass, and leave one row.
STRATEGIES = sorted(
    name
    for name, strategy in ALL_STRATEGIES.items()
    if issubclass(strategy, AbstractIntervention | CaptionThenAnswer)
)


@dataclass(frozen=True)
class At:
    """Where an answer is read.

    Args:
        store: of rows.
        chooser: of settings.
        model: that is asked.
        loaded: the questions.
        name: of the strategy.
        reading: of the answer.
        scheme: of the rows.
    """

    store: RowStore
    chooser: Chooser
    model: Model
    loaded: Loaded
    name: str
    reading: str
    scheme: str = "focus"

    @property
    def key(self) -> AnswerKey:
        """Of the questions."""
        return self.model.key(self.loaded)

    @property
    def on_focus(self) -> bool:
        """Whether the rows are those of FOCUS; strategies without rows are only read there."""
        return self.scheme == "focus"


def _vcd(at: At) -> dict[str, Any] | None:
    if not at.on_focus:
        return None
    vcd = at.chooser.vcd(at.model, at.reading)
    answer = vcd_answer(at.store, at.model, at.loaded.settings, vcd)
    marks = read(answer, at.key, at.reading)
    return {"alpha": vcd.alpha, "marks": marks, "rows": 2 if vcd.alpha else 1}


def _isolated(at: At) -> dict[str, Any] | None:
    if not at.on_focus:
        return None
    plain, isolated = (
        at.store.first(at.model, at.loaded.settings, strategy)
        for strategy in (Plain(), Plain(flow="isolated"))
    )
    marks = read(isolated, at.key, at.reading)
    return {"marks": marks, "rows": 1, **likeness(isolated, plain, at.key, at.reading)}


def _single(at: At) -> dict[str, Any] | None:
    if not at.on_focus or at.loaded.target(Rows()) is None:
        return None
    answer = at.store.first(at.model, at.loaded.settings, SingleImage())
    return {"marks": read(answer, at.key, at.reading), "rows": 1}


def _adaptive(at: At) -> dict[str, Any]:
    rule, questions = TAKES_OVER[at.name], at.loaded.settings
    alpha = at.chooser.alpha(at.model, rule, at.reading)
    threshold = at.chooser.threshold(at.model, rule, at.reading)
    evidence = at.store.evidence(at.model, questions, Rows(scheme=at.scheme))
    margins, _, _ = adaptive_parts(at.store, at.model, questions, rule, alpha, at.reading)
    plain, branched = (
        read(logits, at.key, at.reading)
        for logits in (evidence.plain, apply_rule(rule, evidence, alpha))
    )
    unsure = margins < threshold
    rows = rows_taken(rule, evidence.mean_branches)
    always = threshold == float("inf")
    return {
        **({} if at.on_focus else {"scheme": at.scheme}),
        "alpha": alpha,
        "setting": f"threshold {threshold:g}",
        "marks": "".join(np.where(unsure, list(branched), list(plain))),
        "rows": float(rows if always else 1 + unsure.mean() * rows),
        "margins": [round(float(m), 4) for m in margins],
    }


#: What a line of answers holds beside its labels; None where there is none to read.
OTHERS: Mapping[str, Callable[[At], dict[str, Any] | None]] = MappingProxyType(
    {
        "vcd": _vcd,
        "single_image": _single,
        "plain_isolated": _isolated,
        **dict.fromkeys(TAKES_OVER, _adaptive),
    }
)
