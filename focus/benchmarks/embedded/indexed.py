"""Several views and one attribute of one of them: "in the second image , what is the color ?"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from focus.benchmarks.embedded.base import AbstractSeveral, Draft, check_integer
from focus.benchmarks.embedded.truths import around, subset
from focus.worlds import pick, questions


@final
@dataclass(frozen=True)
class IndexedQuestion(AbstractSeveral):
    """No other view has the asked value, so reading another view is always wrong and always seen.

    Asked views take turns, then attributes. The other views have different values of the asked
    attribute while there are enough of them; beyond that they repeat among themselves.

    Args:
        similarity: how many attributes that are not asked for all other views share with the
            target; they differ from it in the rest. None lets all such numbers take turns.
        position: the asked view, from 0; None lets them take turns.
    """

    similarity: int | None = 1  # type: ignore[assignment]
    position: int | None = None

    kind: ClassVar[str] = "indexed"
    in_turn: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.position is not None:
            check_integer("position", self.position, 0, self.num_images - 1)

    def _draft(self, index: int) -> Draft:
        world, fixed = self._world, self.position
        identity = self._named(index, *(() if fixed is None else (f"position{fixed}",)))
        rng = self._rng(identity)
        turn, target = divmod(index, self.num_images) if fixed is None else (index, fixed)
        attribute = self._attributes[turn % len(self._attributes)]
        rest = [name for name in self._attributes if name != attribute]
        truth = pick(world.truths, rng)
        similarity = turn // len(self._attributes) % len(self._attributes)
        similarity = similarity if self.similarity is None else self.similarity
        shared = subset(rest, similarity, rng)
        views = around(world, truth, target, self.num_images, shared, rng)
        others = (view[attribute] for i, view in enumerate(views) if i != target)
        return Draft(
            id=identity,
            views=views,
            body=questions.about(target, questions.name(attribute), world),
            answer=truth[attribute],
            choices=world.attributes[attribute],
            category=attribute,
            about=(target,),
            distractors=tuple(dict.fromkeys(others)),
            attribute=attribute,
            similarity=similarity,
        )
