"""Leakage beyond chance: are answers that another image makes true more than mistakes?

A model that takes red for purple says "purple" whether another image is purple or not. So the
question is also asked of the asked image alone: what is said then, by what the image shows, is the
confusion matrix of the model, and gives how often an answer would be true of another image by
mistake alone. What exceeds that is leakage (`analysis.probes.chance`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, final

from focus.decoding.base import AbstractDecoding, Request
from focus.probes.base import (
    AbstractProbe,
    Observation,
    Question,
    check_strategies,
    first_logits,
)
from focus.reading import Reader, asked_images

ALONE, TOGETHER = "alone", "together"


@final
@dataclass(frozen=True)
class Chance(AbstractProbe):
    """What is said of the asked image alone, of it among the others, and under every strategy.

    Cost: two passes over a question, and for every strategy its own rows.

    Args:
        strategies: by name; not asked of a model with a planted fault, which is planted in plain
            passes alone.
    """

    strategies: Mapping[str, AbstractDecoding] = field(default_factory=dict)

    name: ClassVar[str] = "chance"
    needs: ClassVar[str] = (
        "one of questions about one attribute of one image, with the truth of every image and "
        "answers that tell which image they are true of, as the embedded indexed questions"
    )

    def __post_init__(self) -> None:
        check_strategies(self.strategies, (ALONE, TOGETHER))

    def asks(self, question: Question) -> bool:
        """Whether it is about one attribute of one view, and wrong answers tell the other views."""
        example = question.example
        return bool(
            example.distractors
            and question.benchmark.alone(question.index)
            and example.metadata.get("attribute") in (example.truths or ({},))[0]
            and example.answer in example.truths[_asked(question)].values()
        )

    def observe(
        self, reader: Reader, questions: Sequence[Question], chunk: Sequence[int], folder: Path
    ) -> list[list[Observation]]:
        asked = [questions[i] for i in chunk]
        found: list[list[Observation]] = [[] for _ in chunk]
        strategies = {} if reader.planted else self.strategies
        for condition in (ALONE, TOGETHER, *strategies):
            requests = [_alone(q) if condition == ALONE else q.request for q in asked]
            tokens = sorted({token for question in asked for token in question.tokens})
            logits = first_logits(reader, requests, tokens, strategies.get(condition))
            place = {token: k for k, token in enumerate(tokens)}
            for question, row, seen in zip(asked, logits, found, strict=True):
                own = row[[place[token] for token in question.tokens]]
                said = question.example.choices[int(own.argmax())]
                seen.append({"condition": condition, "said": said, **_facts(question)})
        return found


def _alone(question: Question) -> Request:
    """The question about the asked view and nothing else."""
    text = question.benchmark.alone(question.index)
    assert text is not None  # `Chance.asks` says so
    images = tuple(question.request.images[k] for k in asked_images(question.request))
    return replace(question.request, images=images, question=text, targets=None)


def _asked(question: Question) -> int:
    """The view that a question is about."""
    frames = len(question.example.images) // len(question.example.truths)
    return asked_images(question.request)[0] // frames


def _facts(question: Question) -> dict[str, Any]:
    """What every other view would make one say, how far away it is, and how like the asked one.

    ``others``: of each, ``value`` of the asked attribute, ``distance``, its place minus that of the
    asked view, and ``shared``, in how many of the other attributes both agree.
    """
    example, asked = question.example, _asked(question)
    attribute = str(example.metadata["attribute"])
    own = example.truths[asked]
    others = [
        {
            "value": truth[attribute],
            "distance": k - asked,
            "shared": sum(truth[name] == own[name] for name in own if name != attribute),
        }
        for k, truth in enumerate(example.truths)
        if k != asked
    ]
    return {"attribute": attribute, "right": own[attribute], "others": others}
