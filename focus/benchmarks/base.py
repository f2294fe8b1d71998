"""What a benchmark hands to a strategy: an `Example`, and the interface that serves them."""

from __future__ import annotations

import functools
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Self, cast

from PIL import Image

from focus.errors import InvalidValueError, PromptError, UnknownNameError
from focus.images import IMAGE_PLACEHOLDER
from focus.scoring import Reference, Score, Scorer, score_answer


@dataclass(frozen=True)
class Example:
    """One question about one or more images, with its ground truth.

    Args:
        id: unique inside the benchmark; part of every random key, so it must never depend on
            the order in which examples are read.
        images: the images, in the order of their placeholders.
        question: the whole prompt text, with one ``<image>`` where each image stands.
        choices: the answers that a choice score compares, at most a few words each.
        answer: the right answer; one of `choices` where there are any.
        targets: indices (from 0) of the images that the question is about, nested where several
            form one unit (the frames of a clip); empty: all of them, each a unit of its own.
        distractors: what a model would answer if it read another image than the target, for each
            wrong value that some other image of this example makes true. An answer found here is
            counted as leakage.
        group: examples with the same group are scored together (both captions of a minimal pair).
        cluster: examples with the same cluster share images and are not independent.
        category: the row of the per-category table this example counts for.
        truths: per image, or per clip where several images form one, its ground truth by attribute.
        metadata: anything else worth recording, and all that parsers need; JSON-serialisable.
        system: system prompt; empty for none.
        permutation: where a benchmark was reordered, the original index of what now stands at each
            choice; empty where there is one order only.
    """

    id: str
    images: tuple[Image.Image, ...]
    question: str
    answer: str
    choices: tuple[str, ...] = ()
    targets: tuple[int | tuple[int, ...], ...] = ()
    distractors: tuple[str, ...] = ()
    group: str = ""
    cluster: str = ""
    category: str = ""
    truths: tuple[Mapping[str, str], ...] = ()
    metadata: Mapping[str, object] = field(default_factory=dict)
    system: str = ""
    permutation: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        placeholders = self.question.count(IMAGE_PLACEHOLDER)
        if placeholders != len(self.images):
            raise PromptError(
                f"example {self.id!r} has {len(self.images)} images but {placeholders} "
                f"{IMAGE_PLACEHOLDER} placeholders in its question"
            )
        if self.choices and self.answer not in self.choices:
            raise InvalidValueError("answer", self.answer, f"one of {list(self.choices)}")
        units = (unit if isinstance(unit, tuple) else (unit,) for unit in self.targets)
        if any(not 0 <= k < len(self.images) for unit in units for k in unit):
            raise InvalidValueError(
                "targets", self.targets, f"image indices from 0 to {len(self.images) - 1}"
            )

    @functools.cached_property
    def images_hash(self) -> str:
        """Identity of the pixels of all images; computed once, since large ones take a while."""
        pixels = hashlib.blake2b(digest_size=8)
        for image in self.images:
            pixels.update(f"{image.mode} {image.size} ".encode())
            pixels.update(image.tobytes())
        return pixels.hexdigest()

    @property
    def reference(self) -> Reference:
        """What an answer to this example is scored against."""
        return Reference(self.answer, self.choices, self.distractors, self.category, self.metadata)


@dataclass(frozen=True)
class Descriptions:
    """What the leakage probe asks about a question: see `focus.probes.Behaviour`.

    Args:
        views: images of each view (one, or the frames of a clip), in their order.
        asked: index of the view that is asked about.
        other: index of the view whose description is offered beside its own.
        texts: description of the asked view, and of the other one; each false of the other view.
        merge: the option that merges the two, given them in the order in which they are listed.
        ask: the question with its placeholders, from the place of the asked view (None where it is
            shown alone), the number of views and the texts behind the letters A, B and C.
        system: system prompt; empty for none.
    """

    views: tuple[tuple[Image.Image, ...], ...]
    asked: int
    other: int
    texts: tuple[str, str]
    merge: Callable[[str, str], str]
    ask: Callable[[int | None, int, Sequence[str]], str]
    system: str = ""


class AbstractBenchmark(ABC):
    """A named, finite, ordered collection of examples, and the parsers that read their answers.

    Attributes:
        name: how records and tables call it.
        split: part of the data that it serves.
        protocol: which of `parsers` is its own.
        orders: in how many orders its options (or images) can be asked. A model that chooses by
            position changes its answer with the order; the original order is 0.
        published_single: see `focus.decoding.base.Request`.
        published_size: width and height that the published code squares its images to, if any.
    """

    split: str = "test"
    protocol: str = "words"
    orders: ClassVar[int] = 1
    published_single: ClassVar[Literal["plain", "contrast"]] = "contrast"
    published_size: ClassVar[tuple[int, int] | None] = None
    #: Longest answer, in tokens: with room for a model that explains itself before its letter.
    longest_answer: ClassVar[int] = 128

    @property
    def max_new_tokens(self) -> int:
        """Longest answer under this benchmark's protocol; the published code allows 512 tokens."""
        return 512 if self.protocol == "official" else self.longest_answer

    @property
    @abstractmethod
    def name(self) -> str:
        """A constant of the class, or made of the settings that tables must tell apart."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of examples."""

    @abstractmethod
    def __getitem__(self, index: int) -> Example:
        """The example at `index`; the same one every time."""

    def counterfactual(self, index: int, slot: int) -> tuple[Image.Image, ...]:
        """The images of a question with the one at `slot` changed, for comparing two runs.

        Here it is taken from the next question about other images, and scaled to the same size.
        Benchmarks that know what their images show change no more than the question asks for.

        Raises:
            InvalidValueError: there is no such image, or no other question to take one from.
        """
        example = self[index]
        if not 0 <= slot < len(example.images):
            accepted = f"an image index from 0 to {len(example.images) - 1}"
            raise InvalidValueError("slot", slot, accepted)
        for step in range(1, len(self)):
            other = self[(index + step) % len(self)]
            if other.images and (other.cluster or other.id) != (example.cluster or example.id):
                break
        else:
            raise InvalidValueError("benchmark", self.name, "one with questions about other images")
        size = example.images[slot].size
        images = list(example.images)
        images[slot] = other.images[slot % len(other.images)].resize(size)
        return tuple(images)

    def descriptions(self, index: int) -> Descriptions | None:
        """What the leakage probe asks about a question; None where the benchmark does not know a
        description of the asked view and one of another view."""
        return None

    def alone(self, index: int) -> str | None:
        """A question that names one view, in words for that view alone, with its placeholders; None
        where it names none, or the benchmark has no such words."""
        return None

    def reordered(self, order: int) -> Self:
        """The same questions with their options, or images, turned by `order` places.

        Raises:
            InvalidValueError: the benchmark does not have so many orders.
        """
        if isinstance(order, bool) or not isinstance(order, int) or not 0 <= order < self.orders:
            raise InvalidValueError("order", order, f"an integer from 0 to {self.orders - 1}")
        if self.orders == 1:
            return self
        return cast(Self, replace(cast(Any, self), order=order))

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    @classmethod
    def parsers(cls) -> Mapping[str, Scorer]:
        """Every way to read an answer, by name; pure functions that need no data set."""
        return {"words": score_answer}

    def score(self, text: str, reference: Reference, *, parser: str | None = None) -> Score:
        """Scores an answer, given now or read from an old record.

        Args:
            text: the answer.
            reference: `Example.reference`, or `Reference.from_record`.
            parser: one of `parsers`; None takes that of this benchmark's protocol.

        Raises:
            UnknownNameError: there is no such parser.
        """
        name = self.protocol if parser is None else parser
        scorers = self.parsers()
        if name not in scorers:
            raise UnknownNameError("parser", name, scorers)
        return scorers[name](text, reference)
