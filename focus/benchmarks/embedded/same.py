"""Same or different: "is the color the same in all image ?", as the yes/no tasks of MuirBench."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from focus.benchmarks.embedded.base import AbstractSeveral, Draft
from focus.benchmarks.embedded.truths import alike
from focus.worlds import pick, questions


@final
@dataclass(frozen=True)
class SameOrDifferent(AbstractSeveral):
    """Half of the answers are yes; in the others one view differs, and its place takes turns.

    Attributes take turns, then answers.

    Args:
        similarity: how many of the other attributes all views share.
    """

    num_images: int = 3

    kind: ClassVar[str] = "same"

    def _draft(self, index: int) -> Draft:
        world, identity = self._world, self._named(index)
        rng = self._rng(identity)
        turn, asked = divmod(index, len(self._attributes))
        attribute, same = self._attributes[asked], turn % 2 == 0
        values = world.attributes[attribute]
        common = pick(values, rng)
        row = [common] * self.num_images
        if not same:
            place = turn // 2 % self.num_images
            row[place] = pick([value for value in values if value != common], rng)
        return Draft(
            id=identity,
            views=alike(world, attribute, row, self.similarity, rng),
            body=questions.same(attribute, world),
            answer="yes" if same else "no",
            choices=("yes", "no"),
            category=attribute,
            attribute=attribute,
            similarity=self.similarity,
        )
