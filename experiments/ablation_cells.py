"""What models answered, kept: the logits of every row that an ablation looks at.

What is computed is kept in files that are written in one move and named by all that determines
them, the weights included: an interrupted run goes on where it stopped, and experiments share what
they have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analysis.rules import Evidence
from experiments.ablation_models import Model
from experiments.ablation_questions import AnyQuestions, Loaded
from experiments.ablation_rows import Rows
from focus.decoding import (
    STRATEGIES,
    AbstractDecoding,
    CaptionThenAnswer,
    Plain,
    SingleImage,
    Vcd,
)
from focus.decoding.interventions import AbstractIntervention
from focus.errors import UnknownNameError
from focus.first_tokens import first_logits, row_logits
from focus.records import digest

#: Strategies that change the prompt or the forward pass, and leave one row.
INTERVENING = sorted(
    name
    for name, strategy in STRATEGIES.items()
    if issubclass(strategy, AbstractIntervention | CaptionThenAnswer)
)


class LogitStore:
    """Logits by what determines them, in memory for the current cell and in files for good.

    Args:
        folder: created when first written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        #: How many passes were computed, for tests and the closing line of a run.
        self.computed = 0

    def plain(self, model: Model, questions: AnyQuestions) -> Tensor:
        """Plain decoding: ``[questions, columns]``."""
        return self._alone(model, questions, "plain", Plain())

    def evidence(self, model: Model, questions: AnyQuestions, rows: Rows) -> Evidence:
        """Plain decoding and every row."""

        def compute(loaded: Loaded) -> list[Tensor]:
            asked = loaded.each_request(rows, budget=model.vlm.budget)
            found = row_logits(
                model.engine, asked, rows.strategy,
                tint=rows.tint, columns=model.columns(loaded).of,
            )  # fmt: skip
            return [found.reference, found.branches, found.numbers]

        # Further noise would fill the disk and is used by one experiment, which keeps its answers.
        reference, branches, numbers = self._kept(
            model, questions, asdict(rows), compute, keep=replace(rows, targets="units") == Rows()
        )
        target = model.load(questions).target(rows)
        return Evidence(self.plain(model, questions), reference, branches, target, numbers)

    def vcd(self, model: Model, questions: AnyQuestions, strategy: Vcd) -> Tensor:
        """The diffused row of VCD: ``[questions, columns]``."""
        what = {"vcd": strategy.step, "seed": strategy.seed}
        return self._alone(model, questions, what, strategy)

    def isolated(self, model: Model, questions: AnyQuestions) -> Tensor:
        """Plain decoding whose images do not see each other: ``[questions, columns]``."""
        return self._alone(model, questions, "isolated", Plain(flow="isolated"))

    def single(self, model: Model, questions: AnyQuestions) -> Tensor:
        """The asked view alone, the others removed: ``[questions, columns]``."""
        return self._alone(model, questions, "single", SingleImage())

    def decoded(
        self, model: Model, questions: AnyQuestions, name: str, setting: Mapping[str, Any]
    ) -> Tensor:
        """A strategy that changes the prompt or the forward pass: ``[questions, columns]``.

        Raises:
            UnknownNameError: there is no such strategy.
            PromptError: it has nothing to act on in this model's prompts.
        """
        strategy = built(name, setting)
        if name not in INTERVENING:
            raise UnknownNameError("strategy of this kind", name, INTERVENING)
        what = {"strategy": name, "setting": dict(setting)}
        return self._alone(model, questions, what, strategy)

    def _alone(
        self, model: Model, questions: AnyQuestions, what: object, strategy: AbstractDecoding
    ) -> Tensor:
        """The first row of a strategy, before anything is combined."""

        def compute(loaded: Loaded) -> list[Tensor]:
            asked = loaded.each_request(budget=model.vlm.budget)
            columns = model.columns(loaded).of
            return [first_logits(model.engine, asked, strategy, columns=columns)[0]]

        (logits,) = self._kept(model, questions, what, compute)
        return logits

    def _kept(
        self,
        model: Model,
        questions: AnyQuestions,
        what: object,
        compute: Callable[[Loaded], list[Tensor]],
        *,
        keep: bool = True,
    ) -> list[Tensor]:
        key = digest([model.fingerprint, asdict(questions), what])
        path = self.folder / model.name / f"{questions.key}-{key}.npz"
        if path.exists():
            with np.load(path) as arrays:
                return [torch.from_numpy(arrays[name]) for name in sorted(arrays.files)]
        tensors = compute(model.load(questions))
        self.computed += 1
        if keep:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".part")
            with partial.open("wb") as file:
                arrays = {f"logits{i}": t.numpy() for i, t in enumerate(tensors)}
                np.savez(file, **arrays)
            partial.replace(path)
        return tensors


def built(name: str, setting: Mapping[str, Any]) -> AbstractDecoding:
    """Strategy of a name with some settings.

    Raises:
        UnknownNameError: there is no such strategy.
    """
    if name not in STRATEGIES:
        raise UnknownNameError("strategy", name, STRATEGIES)
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in setting.items()}
    return STRATEGIES[name](**values)
