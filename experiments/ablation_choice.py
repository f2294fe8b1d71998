"""Hyper-parameters are chosen on the dev split, by one rule, for every model and method alike.

The rule: the setting whose accuracy, averaged over the tuning questions (every set counts the
same), is highest; of equal ones the smallest. It is applied for each reading by itself, since what
greedy decoding says and which candidate ranks first can want different settings. A threshold trades
accuracy for cost, so there the smallest is taken that gives up no more than `SLACK`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from analysis.ablations import adaptive_curve, choose
from analysis.rules import apply_rule
from experiments.ablation_cells import RowStore, built
from experiments.ablation_models import Model
from experiments.ablation_questions import AnyQuestions
from experiments.ablation_rows import Rows
from focus.decoding import Plain, Vcd
from focus.errors import InvalidValueError
from focus.marks import read

#: Accuracy on dev that a threshold may give up for fewer branches.
SLACK = 0.005


@dataclass
class Chooser:
    """Chooses settings on dev and remembers what it chose, and from what.

    Args:
        store: of the logits.
        tuning: questions of the dev split.
        alphas: contrast weights to choose from.

    Raises:
        InvalidValueError: tuning questions of another split.
    """

    store: RowStore
    tuning: Sequence[AnyQuestions]
    alphas: Sequence[float]
    choices: dict[tuple[str, str, str], dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for questions in self.tuning:
            if questions.split != "dev":
                raise InvalidValueError("split", questions.split, "dev: settings are chosen there")

    def alpha(self, model: Model, rule: str, reading: str) -> float:
        """Contrast weight of a rule of `analysis.rules`, under the default noise."""

        def answer(questions: AnyQuestions, alpha: float) -> Tensor:
            return apply_rule(rule, self.store.evidence(model, questions, Rows()), alpha)

        named = rule != "oracle"  # which needs a named image
        return self._chosen(model, rule, reading, self.alphas, answer, everywhere=named)

    def vcd(self, model: Model, reading: str) -> Vcd:
        """VCD with its contrast weight chosen, everything else as published."""

        def answer(questions: AnyQuestions, alpha: float) -> Tensor:
            return vcd_answer(self.store, model, questions, Vcd(alpha=alpha))

        return Vcd(alpha=self._chosen(model, "vcd", reading, self.alphas, answer))

    def threshold(self, model: Model, rule: str, reading: str) -> float:
        """Margin (probability) below which adaptive FOCUS branches."""
        key = (model.name, f"adaptive {rule}", reading)
        if key not in self.choices:
            alpha = self.alpha(model, rule, reading)
            grid = [round(0.05 * k, 2) for k in range(20)] + [float("inf")]
            curves = []
            for questions in self.tuning:
                margins, plain, focus = adaptive_parts(
                    self.store, model, questions, rule, alpha, reading
                )
                curve = adaptive_curve(margins, plain, focus, branched_rows=2)
                points = [curve[curve["threshold"] <= t]["value"].iloc[-1] for t in grid]
                curves.append(points)
            means = np.mean(curves, axis=0)
            best = next(t for t, m in zip(grid, means, strict=True) if m >= means.max() - SLACK)
            self._note(key, best, dict(zip(grid, means.tolist(), strict=True)))
        return float(self.choices[key]["chosen"])

    def setting(
        self, model: Model, name: str, grid: Sequence[Mapping[str, Any]], reading: str
    ) -> dict[str, Any]:
        """Setting of a strategy that changes the prompt or the forward pass; of equal ones the
        first."""
        if len(grid) == 1:
            return dict(grid[0])
        key = (model.name, name, reading)
        if key not in self.choices:

            def accuracy(setting: Mapping[str, Any]) -> float:
                strategy = built(name, setting)
                logits = [self.store.first(model, q, strategy) for q in self.tuning]
                pairs = zip(self.tuning, logits, strict=True)
                return float(np.mean([_accuracy(model, q, found, reading) for q, found in pairs]))

            scores = {float(i): accuracy(setting) for i, setting in enumerate(grid)}
            index = int(choose(scores))
            self._note(key, grid[index], {str(grid[int(i)]): s for i, s in scores.items()})
        return dict(self.choices[key]["chosen"])

    def records(self) -> list[dict[str, Any]]:
        """What was chosen, and the curves on dev that it was chosen from."""
        return list(self.choices.values())

    def _chosen(
        self,
        model: Model,
        rule: str,
        reading: str,
        grid: Sequence[float],
        answer: Callable[[AnyQuestions, float], Tensor],
        *,
        everywhere: bool = True,
    ) -> float:
        key = (model.name, rule, reading)
        if key not in self.choices:
            sets = [q for q in self.tuning
                    if everywhere or model.load(q).target(Rows()) is not None]  # fmt: skip
            scores = {
                float(value): float(
                    np.mean([_accuracy(model, q, answer(q, value), reading) for q in sets])
                )
                for value in grid
            }
            self._note(key, choose(scores), scores)
        return float(self.choices[key]["chosen"])

    def _note(self, key: tuple[str, str, str], chosen: Any, curve: Mapping[Any, float]) -> None:
        model, rule, reading = key
        self.choices[key] = {
            "record": "choice",
            "model": model,
            "rule": rule,
            "reading": reading,
            "chosen": chosen,
            "tuning": [questions.key for questions in self.tuning],
            "dev": {str(setting): round(score, 5) for setting, score in curve.items()},
        }


def vcd_answer(store: RowStore, model: Model, questions: AnyQuestions, vcd: Vcd) -> Tensor:
    """First-token logits of VCD: ``[questions, vocabulary]``."""
    plain = store.first(model, questions, Plain())
    if vcd.alpha == 0:
        return vcd.combine(plain.unsqueeze(0))
    # Its rows are the same under any weight but 0.
    diffused = store.first(model, questions, replace(vcd, alpha=Vcd().alpha))
    return vcd.combine(diffused.new_tensor(np.stack([diffused.numpy(), plain.numpy()])))


def adaptive_parts(
    store: RowStore, model: Model, questions: AnyQuestions, rule: str, alpha: float, reading: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Margin of plain decoding (probability), its accuracy and that of the rule, per question."""
    evidence = store.evidence(model, questions, Rows())
    top = evidence.plain.softmax(-1).topk(2).values
    key = model.key(model.load(questions))
    right = [
        np.array([mark == "+" for mark in read(logits, key, reading)], dtype=float)
        for logits in (evidence.plain, apply_rule(rule, evidence, alpha))
    ]
    return (top[:, 0] - top[:, 1]).numpy(), right[0], right[1]


def _accuracy(model: Model, questions: AnyQuestions, logits: Tensor, reading: str) -> float:
    marks = read(logits, model.key(model.load(questions)), reading)
    return marks.count("+") / len(marks)
