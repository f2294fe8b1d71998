"""What FOCUS removes: its answers, and those with only some of what it does.

FOCUS differs from plain decoding in five things at once. Here each is an intervention of its own:

    isolated   no image has seen another one: attention between them is masked
    hidden     text sees the asked image alone: the others are masked
    pooled     one such branch for every image, pooled, since nobody says which image is asked
    noise      text sees noise in the place of the hidden images
    contrast   minus alpha times the reference, whose text sees no image, or noise alone

``pooled`` and ``noise`` mean something only where images are ``hidden``; all else combines freely,
which gives 20 ways to answer. In all of them keys and values of clean images come from one pass
over clean images, as in composed FOCUS. FOCUS itself is the last: all five, and

    exact      a clean image has seen noise, where it had seen no other image, and noise behind it
               has seen it

so that what these six bring adds up to what FOCUS brings (`analysis.probes.account`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, final

import torch
from torch import Tensor

from focus.branches import focus_plan
from focus.contrast import combine
from focus.decoding.focus import Focus
from focus.errors import InvalidValueError
from focus.hooks import captured, knocked_out, patched
from focus.hooks.tokens import image_numbers
from focus.models.loading import VisionLanguageModel
from focus.probes.base import AbstractProbe, Observation, Question
from focus.probes.planted import isolated
from focus.reading import Reader, Reading, asked_images

#: What can be combined, in the order in which it is named.
STEPS = ("isolated", "hidden", "pooled", "noise", "contrast")
#: Steps that mean nothing without another one.
NEEDS = {"pooled": "hidden", "noise": "hidden"}
#: What is left of FOCUS when all steps are made.
EXACT = "exact"


def combinations() -> Iterator[tuple[str, ...]]:
    """All sets of steps that mean something: 20, the empty one first."""
    for size in range(len(STEPS) + 1):
        for chosen in itertools.combinations(STEPS, size):
            if all(NEEDS.get(step, step) in chosen for step in chosen):
                yield chosen


@final
@dataclass(frozen=True)
class Account(AbstractProbe):
    """What is said with every combination of the steps, and under FOCUS.

    Cost: 5 N + 6 rows for a question about N images, in seven passes; the states of a clean and a
    noisy row, and of as many as there are rows in a pass, in memory.

    Args:
        strategy: the FOCUS that is taken apart: its noise, alpha, beta and aggregation.
            Its branches are of all images, and show the noise of the reference.
    """

    strategy: Focus = field(default_factory=Focus)

    name: ClassVar[str] = "account"

    def __post_init__(self) -> None:
        one = self.strategy
        if not isinstance(one, Focus) or (one.sharing, one.targets) != ("sample", "all"):
            accepted = "a Focus of all images whose rows share their noise (sharing=sample)"
            raise InvalidValueError("strategy", self.strategy, accepted)

    def observe(
        self, reader: Reader, questions: Sequence[Question], chunk: Sequence[int], folder: Path
    ) -> list[list[Observation]]:
        return [
            [
                {"steps": list(steps), "said": said, "kind": questions[i].kind(said)}
                for steps, logits in self.answers(reader, questions[i]).items()
                for said in [questions[i].said(logits)]
            ]
            for i in chunk
        ]

    def answers(self, reader: Reader, question: Question) -> dict[tuple[str, ...], Tensor]:
        """Logits of the first token ``[vocab]`` with every combination, and of FOCUS."""
        request = question.request
        clean = reader.reading(request)
        plan = focus_plan(len(clean.images), scale=self.strategy.noise.scale)
        noise, *branches = reader.rows(request, plan, self.strategy.noise)
        rows = _Rows(reader, clean, noise, branches)
        kept, apart = rows.composed(None), rows.composed(isolated(clean))
        asked = list(asked_images(request)) or list(range(len(clean.images)))
        found = {}
        for steps in combinations():
            logits = apart if "isolated" in steps else kept
            shown = logits["noise" if "noise" in steps else "mask"]
            own = logits["plain"]
            if "hidden" in steps:
                own = shown[1:] if "pooled" in steps else shown[1:][asked]
            found[steps] = self._combined(own, shown[0], contrast="contrast" in steps)
        exact = torch.cat([kept["noise"][:1], reader.logits(branches)])
        found[(*STEPS, EXACT)] = self._combined(exact[1:], exact[0], contrast=True)
        return found

    def _combined(self, branches: Tensor, reference: Tensor, *, contrast: bool) -> Tensor:
        focus = self.strategy
        alpha = focus.alpha if contrast else 0.0
        return combine(
            branches, reference, alpha=alpha, beta=focus.beta, aggregation=focus.aggregation
        )


@dataclass(frozen=True)
class _Rows:
    """The rows of a question: with images masked, and with noise in their places.

    Args:
        reader: of the model.
        clean, noise: the prompt with clean images, and with noise in the place of all.
        branches: with one image clean, and noise in the place of the others.
    """

    reader: Reader
    clean: Reading
    noise: Reading
    branches: Sequence[Reading]

    def composed(self, cut: Tensor | None) -> dict[str, Tensor]:
        """Logits ``[rows, vocab]``, ``plain`` and, reference first, under ``mask`` and ``noise``.

        Args:
            cut: pairs ``[length, length]`` that do not see each other in any row.
        """
        length, vlm = self.clean.length, self.reader.vlm
        cut = torch.zeros(length, length, dtype=torch.bool) if cut is None else cut
        with captured(vlm) as states, _cut(vlm, cut):
            plain, nothing = self.reader.logits([self.clean, self.noise])
        image = image_numbers(self.clean.prompt).cpu()
        others = (image >= 0) & (image != torch.arange(len(self.branches))[:, None])
        unseen = torch.cat([(image >= 0)[None], others])  # [rows, length], reference first
        # Images with the states that they had among images of their own kind.
        own = {place: each[:1].expand(len(unseen), -1, -1) for place, each in states.items()}
        hidden = (image < 0)[:, None] & unseen[:, None, :] | cut
        with _cut(vlm, hidden), patched(vlm, own, image >= 0):
            masked = self.reader.logits([self.clean] * len(unseen))
        own = {
            place: torch.where(others[..., None], each[1], each[0])
            for place, each in states.items()
        }
        with _cut(vlm, cut), patched(vlm, own, image >= 0):
            noisy = self.reader.logits(self.branches)
        return {"plain": plain[None], "mask": masked, "noise": torch.cat([nothing[None], noisy])}


def _cut(vlm: VisionLanguageModel, hidden: Tensor) -> AbstractContextManager[None]:
    """Pairs that do not see each other; no mask at all where there are none."""
    return knocked_out(vlm, hidden) if hidden.any() else nullcontext()
