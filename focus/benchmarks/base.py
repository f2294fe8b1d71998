"""What a benchmark hands to a strategy: an `Example`, and the interface that serves them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from PIL import Image

from focus.errors import InvalidValueError, PromptError

IMAGE_PLACEHOLDER = "<image>"


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
        targets: indices (from 0) of the images that the question is about; empty: all of them.
        distractors: what a model would answer if it read another image than the target, for each
            wrong value that some other image of this example makes true. An answer found here is
            counted as leakage.
        group: examples with the same group are scored together (both captions of a minimal pair).
        cluster: examples with the same cluster share images and are not independent.
        category: the row of the per-category table this example counts for.
        truths: per image, its ground truth by attribute.
        metadata: anything else worth recording; JSON-serialisable.
    """

    id: str
    images: tuple[Image.Image, ...]
    question: str
    answer: str
    choices: tuple[str, ...] = ()
    targets: tuple[int, ...] = ()
    distractors: tuple[str, ...] = ()
    group: str = ""
    cluster: str = ""
    category: str = ""
    truths: tuple[Mapping[str, str], ...] = ()
    metadata: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        placeholders = self.question.count(IMAGE_PLACEHOLDER)
        if placeholders != len(self.images):
            raise PromptError(
                f"example {self.id!r} has {len(self.images)} images but {placeholders} "
                f"{IMAGE_PLACEHOLDER} placeholders in its question"
            )
        if self.choices and self.answer not in self.choices:
            raise InvalidValueError("answer", self.answer, f"one of {list(self.choices)}")
        if any(not 0 <= k < len(self.images) for k in self.targets):
            raise InvalidValueError(
                "targets", self.targets, f"image indices from 0 to {len(self.images) - 1}"
            )


class AbstractBenchmark(ABC):
    """A named, finite, ordered collection of examples."""

    name: str

    @abstractmethod
    def __len__(self) -> int:
        """Number of examples."""

    @abstractmethod
    def __getitem__(self, index: int) -> Example:
        """The example at `index`; the same one every time."""

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))
