"""Counting over views: "in how many image is the color red ?", as in MuirBench and MIRB."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from focus.benchmarks.embedded.base import AbstractSeveral, Draft
from focus.benchmarks.embedded.truths import alike
from focus.worlds import pick, questions


@final
@dataclass(frozen=True)
class Counting(AbstractSeveral):
    """From none to all of the views have the asked value; counts take turns, then attributes.

    Args:
        similarity: how many of the other attributes all views share.
    """

    num_images: int = 4

    kind: ClassVar[str] = "counting"

    def _draft(self, index: int) -> Draft:
        world, identity = self._world, self._named(index)
        rng = self._rng(identity)
        turn, count = divmod(index, self.num_images + 1)
        attribute = self._attributes[turn % len(self._attributes)]
        values = world.attributes[attribute]
        value = pick(values, rng)
        others = [other for other in values if other != value]
        having = {int(i) for i in rng.permutation(self.num_images)[:count]}
        row = [value if i in having else pick(others, rng) for i in range(self.num_images)]
        return Draft(
            id=identity,
            views=alike(world, attribute, row, self.similarity, rng),
            body=questions.how_many(attribute, value, world),
            answer=questions.NUMBERS[count],
            choices=questions.NUMBERS[: self.num_images + 1],
            category=attribute,
            attribute=attribute,
            similarity=self.similarity,
        )
