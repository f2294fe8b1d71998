"""Logit lens: what would the model say out of each layer?

The stream goes through the last norm and the output embeddings wherever it is (nostalgebraist,
2020): at the last token, where the answer is read, and at the images (mean of the logits over
their tokens). Of the choices among themselves: how likely is the right one, how likely what
another image makes true? The last place of the last token is what the model says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, final

from torch import Tensor

from focus.hooks import IMAGE_GROUPS, captured
from focus.probes.base import (
    AbstractProbe,
    Observation,
    Question,
    check_count,
    digits,
    group_means,
    spread,
)
from focus.reading import Reader

READ_AT = ("last token", *IMAGE_GROUPS)


@final
@dataclass(frozen=True)
class Lens(AbstractProbe):
    """Probabilities of the right answer and of another image's, by place and tokens.

    Cost: one pass over a question, and the output embeddings at every place.

    Args:
        places: of the residual stream, at most so many, evenly spread; None for all.
    """

    places: int | None = None

    name: ClassVar[str] = "lens"

    def __post_init__(self) -> None:
        check_count("places", self.places, 2, optional=True)

    def observe(
        self, reader: Reader, questions: Sequence[Question], chunk: Sequence[int], folder: Path
    ) -> list[list[Observation]]:
        asked = [questions[i] for i in chunk]
        readings = [reader.reading(question.request) for question in asked]
        found: list[list[Observation]] = [[] for _ in asked]
        places = spread(reader.num_places, self.places)
        for indices in reader.batches(readings):
            part = [readings[i] for i in indices]
            means = group_means([[r.groups[name] for name in READ_AT] for r in part])

            def take(hidden: Tensor, means: Callable[[Tensor], Tensor] = means) -> Tensor:
                return means(reader.normalised(hidden))

            with captured(reader.vlm, take, places=places) as states:
                reader.logits(part)
            for place in places:
                logits = reader.said(states[place])  # [rows, groups, vocab]
                for row, i in zip(logits, indices, strict=True):
                    for name, values in zip(READ_AT, row, strict=True):
                        if readings[i].groups[name].any():
                            seen = {"tokens": name, "place": place}
                            found[i].append(seen | _leads(asked[i], values))
        return found


def _leads(question: Question, logits: Tensor) -> Observation:
    """Which kind of choice leads, and how likely the right and the leaking ones are."""
    probabilities = question.log_probabilities(logits).exp().tolist()
    by_kind = {"right": 0.0, "leaked": 0.0, "other": 0.0}
    for choice, probability in zip(question.example.choices, probabilities, strict=True):
        by_kind[question.kind(choice)] += probability
    leads = question.kind(question.said(logits))
    return {
        "leads": leads,
        "right": digits(by_kind["right"]),
        "leaked": digits(by_kind["leaked"]) if question.example.distractors else None,
    }
