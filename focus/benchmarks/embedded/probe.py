"""The leakage probe: a right description, another view's, and one merged from both.

Answers are attributed by their letter: right, in `distractors` (the other view's) or
``metadata["merged"]`` (an attribute bound to the wrong object).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from focus.benchmarks.base import Descriptions
from focus.benchmarks.embedded.base import AbstractSeveral, Draft, check_integer
from focus.benchmarks.embedded.truths import around, subset
from focus.benchmarks.prompting import rotation
from focus.worlds import pick, questions

OPTIONS = ("right", "other", "merged")
#: Places of three options; they take turns, so no letter is favoured.
_ARRANGEMENTS = ((0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 2, 1), (2, 1, 0), (1, 0, 2))


@final
@dataclass(frozen=True)
class LeakageProbe(AbstractSeveral):
    """Three descriptions: "in the second image , which caption is right ?".

    Asked views take turns, then the attribute that the merged description takes from the other
    view, then the arrangement of the options. ``metadata["other"]`` is the index of the view whose
    description is offered. Chance is a third; who reads the options alone can see that the merged
    one stands between the two others where these differ in two attributes only.

    Args:
        similarity: how many attributes all other views share with the target; they differ from it
            in the rest, which are two at least, so that the merged description fits no view.
        order: turns the options by so many places.
    """

    similarity: int = 0
    order: int = 0

    kind: ClassVar[str] = "probe"
    orders: ClassVar[int] = len(OPTIONS)
    least_changes: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("order", self.order, 0, self.orders - 1)

    def descriptions(self, index: int) -> Descriptions:
        """Whole descriptions, and the merged one of the question."""
        draft, world = self.draft(index), self._world
        (asked,), other = draft.about, int(str(draft.extra["other"]))
        attribute = str(draft.attribute)
        own, wrong = draft.views[asked], draft.views[other]
        merged = world.description({**own, attribute: wrong[attribute]})
        texts = (world.description(own), world.description(wrong))
        return self._described(
            draft, (asked, other), texts, lambda *_: merged, questions.which_described
        )

    def _draft(self, index: int) -> Draft:
        world, identity = self._world, self._named(index)
        rng = self._rng(identity)
        turn, target = divmod(index, self.num_images)
        turn, taken = divmod(turn, len(self._attributes))
        attribute = self._attributes[taken]
        rest = [name for name in self._attributes if name != attribute]
        truth = pick(world.truths, rng)
        shared = subset(rest, self.similarity, rng)
        views = around(world, truth, target, self.num_images, shared, rng)
        other = pick([i for i in range(self.num_images) if i != target], rng)
        merged = {**truth, attribute: views[other][attribute]}
        options = dict(zip(OPTIONS, (truth, views[other], merged), strict=True))
        listed = arranged(OPTIONS, turn, self.order)
        letters = dict(zip(listed, questions.LETTERS, strict=False))
        captions = questions.which_caption([options[name] for name in listed], world)
        return Draft(
            id=identity,
            views=views,
            body=questions.about(target, captions, world),
            answer=letters["right"],
            choices=questions.LETTERS[: len(OPTIONS)],
            category=attribute,
            about=(target,),
            distractors=(letters["other"],),
            attribute=attribute,
            similarity=self.similarity,
            permutation=rotation(len(OPTIONS), self.order),
            extra={"merged": letters["merged"], "other": other},
        )


def arranged(options: Sequence[str], turn: int, order: int) -> list[str]:
    """Two or three options in the arrangement whose turn it is, turned by `order` places."""
    places = [k for k in _ARRANGEMENTS[turn % len(_ARRANGEMENTS)] if k < len(options)]
    return [options[places[k]] for k in rotation(len(options), order)]
