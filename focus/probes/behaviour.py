"""The leakage probe of arXiv 2508.13744: is what another image shows chosen, where it is offered?

Three options: a description of the asked image (right), one of another image (other), and both in
one (merged). Of the logits of the first token, those of A, B and C are compared: probabilities
normalised over the three. The published conditions are the first two, in two orders: options A and
B in either order, and the merged one always last, so that it cannot be told from a model that likes
the letter C. Here all six orders are asked, the two published ones first, and controls:

    single      the asked image alone ("the image")
    multi       the images as they are ("the second image")
    swapped     in reverse order: a leak that depends on the place of an image moves
    distractor  the other image replaced by one of another question: its description is true of no
                image, so that whoever chooses it has not taken it from there
    duplicate   replaced by the asked image: nothing else is there to leak
    blank       replaced by a grey one

and, of the images as they are, every strategy that is to be compared with plain decoding. Where
nothing could have leaked, as with a distractor or a duplicate, the other image's description is
still chosen at times: only what exceeds that is leakage.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, final

from PIL import Image
from torch import Tensor

from focus.benchmarks.base import Descriptions
from focus.decoding.base import AbstractDecoding, Request
from focus.errors import InvalidValueError, UnknownNameError
from focus.probes.base import (
    AbstractProbe,
    Observation,
    Question,
    check_count,
    check_strategies,
    digits,
    first_logits,
)
from focus.reading import Reader
from focus.scoring import first_tokens

OPTIONS = ("right", "other", "merged")
LETTERS = ("A", "B", "C")
#: Option behind each letter; in the first two, which are the published ones, merged is last.
ORDERS = tuple(
    sorted(itertools.permutations(OPTIONS), key=lambda order: order.index("merged") != 2)
)
NUM_PUBLISHED = 2
SINGLE, MULTI = "single", "multi"
CONDITIONS = (SINGLE, MULTI, "swapped", "distractor", "duplicate", "blank")
GREY = (128, 128, 128)

View = tuple[Image.Image, ...]


@final
@dataclass(frozen=True)
class Behaviour(AbstractProbe):
    """Probabilities of the three options, by condition and order.

    Cost: a pass over a question for every condition and order, 36 in all, and for every strategy
    its own rows in every order.

    Args:
        orders: of the options, from 1 to 6: the first so many of `ORDERS`.
        conditions: some of `CONDITIONS`; None for all.
        strategies: by name, on the images as they are; not asked of a model with a planted fault,
            which is planted in plain passes alone.
    """

    orders: int = len(ORDERS)
    conditions: Sequence[str] | None = None
    strategies: Mapping[str, AbstractDecoding] = field(default_factory=dict)

    name: ClassVar[str] = "behaviour"
    borrows: ClassVar[bool] = True
    needs: ClassVar[str] = (
        "one that knows what is true of the asked image and what of another one, as winoground, "
        "vismin and the embedded indexed, matching, probe and mvh questions do"
    )

    def __post_init__(self) -> None:
        check_count("orders", self.orders, 1)
        if self.orders > len(ORDERS):
            raise InvalidValueError("orders", self.orders, f"at most {len(ORDERS)}")
        for condition in self.conditions or ():
            if condition not in CONDITIONS:
                raise UnknownNameError("condition", condition, CONDITIONS)
        check_strategies(self.strategies, CONDITIONS)

    def asks(self, question: Question) -> bool:
        return question.benchmark.descriptions(question.index) is not None

    def observe(
        self, reader: Reader, questions: Sequence[Question], chunk: Sequence[int], folder: Path
    ) -> list[list[Observation]]:
        tokens = first_tokens(reader.vlm.processor.tokenizer, LETTERS)
        if not tokens:
            raise InvalidValueError("model", reader.vlm.name, f"one that tells {LETTERS} apart")
        found: list[list[Observation]] = [[] for _ in chunk]
        asked = [_Asked.of(questions, i) for i in chunk]
        strategies = {} if reader.planted else self.strategies
        for condition in (*(self.conditions or CONDITIONS), *strategies):
            shown = MULTI if condition in strategies else condition
            there = [k for k, each in enumerate(asked) if each.shows(shown)]
            for order, options in enumerate(ORDERS[: self.orders]):
                requests = [asked[k].request(shown, options) for k in there]
                logits = first_logits(reader, requests, tokens, strategies.get(condition))
                for k, row in zip(there, logits, strict=True):
                    found[k].append(_seen(condition, order, row))
        return found


@dataclass(frozen=True)
class _Asked:
    """A question with all that its conditions show.

    Args:
        question: itself.
        described: what is asked about it.
        stranger: a view of another question; None where there is none.
    """

    question: Question
    described: Descriptions
    stranger: View | None

    @classmethod
    def of(cls, questions: Sequence[Question], i: int) -> _Asked:
        described = _described(questions[i])
        return cls(questions[i], described, _stranger(questions, i, described))

    def shows(self, condition: str) -> bool:
        """Whether there is such a condition."""
        return condition != "distractor" or self.stranger is not None

    def views(self, condition: str) -> tuple[int | None, tuple[View, ...]]:
        """Place of the asked view, None where it is alone, and all views."""
        asked, other, views = self.described.asked, self.described.other, self.described.views
        if condition == SINGLE:
            return None, (views[asked],)
        if condition == "swapped":
            return len(views) - 1 - asked, views[::-1]
        instead = {
            MULTI: views[other],
            "distractor": self.stranger,
            "duplicate": views[asked],
            "blank": tuple(Image.new("RGB", image.size, GREY) for image in views[other]),
        }[condition]
        assert instead is not None  # `shows` says so
        scaled = tuple(new.resize(old.size) for new, old in zip(instead, views[other], strict=True))
        return asked, (*views[:other], scaled, *views[other + 1 :])

    def request(self, condition: str, order: Sequence[str]) -> Request:
        """What is asked, with the options in an order; noise is the same in all of them."""
        place, views = self.views(condition)
        texts = dict(zip(OPTIONS, self.described.texts, strict=False))
        texts["merged"] = self.described.merge(
            *(texts[option] for option in order if option != "merged")
        )
        start = sum(len(view) for view in views[: place or 0])
        unit = tuple(range(start, start + len(views[place or 0])))
        return replace(
            self.question.request,
            images=tuple(image for view in views for image in view),
            question=self.described.ask(place, len(views), [texts[option] for option in order]),
            system=self.described.system or None,
            targets=[unit if len(unit) > 1 else unit[0]],
        )


def _described(question: Question) -> Descriptions:
    described = question.benchmark.descriptions(question.index)
    assert described is not None  # `Behaviour.asks` says so
    return described


def _stranger(questions: Sequence[Question], i: int, described: Descriptions) -> View | None:
    """The asked view of the next question about other images that, as far as is known, does not
    show what the other option says; None where there is none."""
    own, wrong = questions[i].example, set(described.texts[1].split())
    for step in range(1, len(questions)):
        there = questions[(i + step) % len(questions)]
        if (there.example.cluster or there.example.id) == (own.cluster or own.id):
            continue
        other = _described(there)
        shown = there.example.truths[other.asked].values() if there.example.truths else ()
        if not wrong & set(shown):
            return other.views[other.asked]
    return None


def _seen(condition: str, order: int, logits: Tensor) -> Observation:
    """What was said, from the logits of the letters; all alike where a strategy rules them out."""
    probabilities = logits.double().clamp(min=-1e30).softmax(-1).tolist()
    by_option = dict(zip(ORDERS[order], probabilities, strict=True))
    said = max(by_option, key=lambda option: by_option[option])
    seen = {option: digits(by_option[option]) for option in OPTIONS}
    return {"condition": condition, "order": order, "said": said, **seen}
