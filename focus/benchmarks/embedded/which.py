"""Several views and one caption: "which image shows ... ?", as the retrieval tasks of MuirBench."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from focus.benchmarks.embedded.base import AbstractSeveral, Draft
from focus.benchmarks.embedded.truths import around, subset
from focus.worlds import pick, questions


@final
@dataclass(frozen=True)
class WhichImage(AbstractSeveral):
    """One view fits the caption; the right place takes turns.

    The attributes in which the others differ are in ``metadata["changed"]``. The category is the
    domain of the caption.

    Args:
        similarity: how many attributes all other views share with the right one; they differ from
            it in the rest, which is one attribute at least.
    """

    num_images: int = 4

    kind: ClassVar[str] = "which"

    def _draft(self, index: int) -> Draft:
        world, identity = self._world, self._named(index)
        rng = self._rng(identity)
        target = index % self.num_images
        truth = pick(world.truths, rng)
        shared = subset(self._attributes, self.similarity, rng)
        return Draft(
            id=identity,
            views=around(world, truth, target, self.num_images, shared, rng),
            body=questions.which_image(truth, self.num_images, world),
            answer=questions.ORDINALS[target],
            choices=questions.ORDINALS[: self.num_images],
            category=world.domain(truth),
            similarity=self.similarity,
            extra={"changed": [name for name in self._attributes if name not in shared]},
        )
