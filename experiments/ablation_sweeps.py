"""Which conditions an ablation compares: sweeps in Hydra's own words, as ``hydra.sweeper.params``.

A sweep is a line such as ``{kind: indexed, num_images: "2,4", noise: "black,gaussian"}``: every
combination of what a comma, ``range()`` or ``choice()`` lists. Axes of questions and of rows ask a
model; those of answers only combine what it said.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from analysis.rules import RULES
from experiments.ablation_others import OTHERS, STRATEGIES
from experiments.ablation_questions import AnyQuestions, Questions, questions_of
from experiments.ablation_rows import Rows
from focus.benchmarks.embedded import KINDS
from focus.errors import InvalidValueError, UnknownNameError
from focus.marks import READINGS
from focus.worlds import WORLDS
from focus.zoo.mixture import MAX_FRAMES

CHOSEN = "chosen"
SPLITS = ("dev", "test")
OF_QUESTIONS = ("world", "kind", "num_images", "similarity", "position")
OF_ROWS = tuple(each.name for each in fields(Rows))
OF_ANSWERS = ("rule", "alpha", "beta", "reading", "temperature", "split")
AXES = (*OF_QUESTIONS, *OF_ROWS, *OF_ANSWERS)


def listed(name: str, value: Any) -> list[Any]:
    """The values of one axis, as Hydra reads them on its command line.

    >>> listed("num_images", "2,4"), listed("alpha", "chosen"), listed("seed", "range(3)")
    ([2, 4], ['chosen'], [0, 1, 2])

    Raises:
        InvalidValueError: not what Hydra's basic sweeper takes.
    """
    try:
        text = f"{name}={'null' if value is None else value}"
        (override,) = OverridesParser.create().parse_overrides([text])
        if not override.is_sweep_override():
            found = [override.value()]
        else:
            found = list(override.sweep_iterator() if override.is_discrete_sweep() else ())
    except HydraException:
        found = []
    if not found or any(isinstance(each, list | dict) for each in found):
        accepted = "one value, or several as in a sweep of Hydra: 'a,b', range(1,4)"
        raise InvalidValueError(name, value, accepted)
    return found


def combinations(axes: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every combination of the values of some axes."""
    values = [listed(name, value) for name, value in axes.items()]
    return (dict(zip(axes, each, strict=True)) for each in itertools.product(*values))


@dataclass(frozen=True)
class Sweep:
    """Conditions that are compared on the same questions, for every model.

    Args:
        rows: which rows are run.
        rules: what is made of them: keys of `analysis.rules.RULES`, of `OTHERS`, or `STRATEGIES`.
        alphas: contrast weights; ``chosen`` on dev for each model, rule and reading.
        betas: plausibility cut-offs, 0 for none.
        readings: how answers are read.
        temperatures: besides greedy decoding; the score is then the probability of being right.
        split: of the questions.
        asked: axes of questions.
    """

    rows: tuple[Rows, ...] = (Rows(),)
    rules: tuple[str, ...] = ("sum",)
    alphas: tuple[float | str, ...] = (CHOSEN,)
    betas: tuple[float, ...] = (0.0,)
    readings: tuple[str, ...] = READINGS
    temperatures: tuple[float, ...] = ()
    split: str = "test"
    asked: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        for what, names, known in (
            ("rule", self.rules, (*RULES, *OTHERS, *STRATEGIES)),
            ("reading", self.readings, READINGS),
            ("split", (self.split,), SPLITS),
        ):
            for name in names:
                if name not in known:
                    raise UnknownNameError(what, name, known)
        for alpha in self.alphas:
            if isinstance(alpha, str) and alpha != CHOSEN:
                raise InvalidValueError("alpha", alpha, f"{CHOSEN!r}, or numbers")

    @classmethod
    def of(cls, axes: Mapping[str, Any]) -> Sweep:
        """Sweep of a configuration.

        Raises:
            UnknownNameError: there is no such axis.
        """
        for name in axes:
            if name not in AXES:
                raise UnknownNameError("axis of a sweep", name, AXES)
        own = {name: axes[name] for name in axes if name in OF_ROWS}
        names = {"rule": "rules", "alpha": "alphas", "beta": "betas", "reading": "readings",
                 "temperature": "temperatures"}  # fmt: skip
        given: dict[str, Any] = {
            field: tuple(listed(name, axes[name])) for name, field in names.items() if name in axes
        }
        if "split" in axes:
            given["split"] = axes["split"]
        return cls(
            rows=tuple(dict.fromkeys(Rows(**each) for each in combinations(own))),
            asked={name: axes[name] for name in axes if name in OF_QUESTIONS},
            **given,
        )

    def of_kind(self, known: Iterable[str]) -> list[str]:
        """Those of its rules that are among `known`."""
        return [name for name in self.rules if name in known]

    def question_sets(
        self, worlds: Sequence[str], size: int, benchmark: Mapping[str, Any] | None = None
    ) -> list[AnyQuestions]:
        """Every set of questions once.

        A grid is about all worlds: combinations that a world cannot ask are left out.

        Args:
            worlds: to ask about, unless the sweep names others of them.
            size: number of questions of a set.
            benchmark: an entry of ``conf/benchmark``, whose questions are asked instead.
        """
        if benchmark is not None:
            return [questions_of(benchmark, split=self.split, size=size)]
        axes = {"world": ",".join(worlds), **self.asked}
        made = (Questions(**each, split=self.split, size=size) for each in combinations(axes))
        return [asked for q in made if q.world in worlds and (asked := askable(q)) is not None]


def askable(questions: Questions) -> Questions | None:
    """The questions with the default of their kind filled in; None where their world cannot ask
    them: one of clips has room for two views, and none can share more attributes than it has."""
    attributes, frames = WORLDS[questions.world].attributes, WORLDS[questions.world].frames
    if questions.kind not in KINDS:
        raise UnknownNameError("kind", questions.kind, KINDS)
    kind = KINDS[questions.kind]
    number = int(questions.num_images or getattr(kind, "num_images", None) or 1)
    most = len(attributes) - getattr(kind, "least_changes", 1)
    if number * frames > MAX_FRAMES or (questions.similarity or 0) > most:
        return None
    if questions.similarity is None and hasattr(kind, "similarity"):
        return replace(questions, similarity=min(getattr(kind, "similarity", 0), most))
    return questions
