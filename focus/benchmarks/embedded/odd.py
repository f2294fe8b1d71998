"""Odd one out: "in which image is the color different ?", as in MuirBench."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from focus.benchmarks.embedded.base import AbstractSeveral, Draft
from focus.benchmarks.embedded.truths import alike
from focus.worlds import pick, questions


@final
@dataclass(frozen=True)
class OddOneOut(AbstractSeveral):
    """All views agree in the asked attribute except one; places take turns, then attributes.

    Args:
        similarity: how many of the other attributes all views share.
    """

    num_images: int = 4

    kind: ClassVar[str] = "odd"
    least_images: ClassVar[int] = 3  # of two, each differs from the other

    def _draft(self, index: int) -> Draft:
        world, identity = self._world, self._named(index)
        rng = self._rng(identity)
        turn, odd = divmod(index, self.num_images)
        attribute = self._attributes[turn % len(self._attributes)]
        values = world.attributes[attribute]
        common = pick(values, rng)
        row = [common] * self.num_images
        row[odd] = pick([value for value in values if value != common], rng)
        return Draft(
            id=identity,
            views=alike(world, attribute, row, self.similarity, rng),
            body=questions.odd_one_out(attribute, self.num_images, world),
            answer=questions.ORDINALS[odd],
            choices=questions.ORDINALS[: self.num_images],
            category=attribute,
            attribute=attribute,
            similarity=self.similarity,
        )
