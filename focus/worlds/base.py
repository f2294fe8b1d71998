"""What every embedded world is: named attributes, all possible truths, and a picture of each.

Small enough for a model of a million parameters to see every attribute reliably, so that what goes
wrong with several images is a matter of mixing them up and not of seeing. Nothing is stored: a
view is a function of its truth and of its key, and the split is part of the key.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import ClassVar, TypeVar

import numpy as np
from PIL import Image

from focus.errors import InvalidValueError

#: Width and height of every image, in pixels.
SIZE = 32
SPLITS = ("train", "dev", "test")
Truth = Mapping[str, str]
T = TypeVar("T")


class AbstractWorld(ABC):
    """Pictures whose every property is known.

    Attributes:
        name: part of every random key and of benchmark names.
        attributes: each with its possible values; all of them single words.
        frames: images that show one truth: 1, or the length of a clip.
        noun: what a question calls one view.
    """

    name: ClassVar[str]
    attributes: ClassVar[Mapping[str, tuple[str, ...]]]
    frames: ClassVar[int] = 1
    noun: ClassVar[str] = "image"

    @cached_property
    def truths(self) -> tuple[Truth, ...]:
        """Every truth that a view of this world can show: all combinations, in a fixed order."""
        return tuple(
            dict(zip(self.attributes, values, strict=True))
            for values in itertools.product(*self.attributes.values())
        )

    @abstractmethod
    def view(
        self, truth: Truth, *, seed: int, split: str, index: int | str
    ) -> tuple[Image.Image, ...]:
        """The view numbered `index` of a split, showing what `truth` says.

        Everything that no attribute names (position within limits, background, texture, which scan
        or which part of a photograph) varies with the key; the truth does not.

        Args:
            truth: one of `truths`.
            seed: world seed.
            split: one of `SPLITS`; nothing that a view of one split shows can occur in another.
            index: name of the view within its split.

        Returns:
            `frames` RGB images of `SIZE` x `SIZE` pixels.

        Raises:
            InvalidValueError: no such truth or split.
        """

    @abstractmethod
    def caption(self, truth: Truth) -> str:
        """A view in words, each value as it stands in `attributes`."""

    def domain(self, truth: Truth) -> str:
        """Which part of the world a truth belongs to; the world itself unless it has parts."""
        return self.name

    def description(self, truth: Truth) -> str:
        """All values in the order of the attributes: the answer to `questions.describe`."""
        return " ".join(truth[attribute] for attribute in self.attributes)

    def counterpart(self, truth: Truth, attribute: str, rng: np.random.Generator) -> Truth:
        """The other half of a minimal pair: differs from `truth` in `attribute` alone.

        Worlds in time override this with what playing the clip backwards shows.
        """
        return varied(self, truth, (attribute,), rng)

    def check(self, truth: Truth, split: str) -> None:
        """Raise `InvalidValueError` unless both can be had from this world."""
        if set(truth) != set(self.attributes):
            accepted = f"a value for each of {list(self.attributes)}"
            raise InvalidValueError("truth", dict(truth), accepted)
        for attribute, values in self.attributes.items():
            if truth[attribute] not in values:
                raise InvalidValueError(attribute, truth[attribute], f"one of {list(values)}")
        if split not in SPLITS:
            raise InvalidValueError("split", split, f"one of {list(SPLITS)}")


def varied(
    world: AbstractWorld,
    truth: Truth,
    change: Sequence[str],
    rng: np.random.Generator,
    *,
    keep_rest: bool = True,
) -> Truth:
    """A truth that differs from `truth` in every attribute of `change`.

    Args:
        world: says which values there are.
        truth: where to start from.
        change: attributes that must differ.
        rng: chooses the new values.
        keep_rest: the other attributes stay the same; otherwise they are drawn anew and may
            coincide or not.
    """
    result = dict(truth)
    for attribute, values in world.attributes.items():
        if attribute in change:
            result[attribute] = pick([v for v in values if v != truth[attribute]], rng)
        elif not keep_rest:
            result[attribute] = pick(values, rng)
    return result


def pick(options: Sequence[T], rng: np.random.Generator) -> T:
    """One of `options`, uniformly (`rng.choice` would turn strings into NumPy strings)."""
    return options[int(rng.integers(len(options)))]
