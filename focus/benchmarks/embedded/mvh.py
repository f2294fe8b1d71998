"""Two views and six questions, as MVH-Bench: every wrong answer that is offered is true of the
other view.

Of every view is asked once with three options (its value, the other view's, one of neither) and
twice by yes or no (is it its own value, is it the other's). `analysis.mvh` has the metrics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from focus.benchmarks.embedded.base import AbstractEmbedded, Draft, check_integer
from focus.benchmarks.embedded.probe import arranged
from focus.benchmarks.embedded.truths import around, subset
from focus.benchmarks.mvh_bench import CHOICE, FORMS, NUM_OPTIONS
from focus.benchmarks.prompting import rotation
from focus.worlds import pick, questions


@final
@dataclass(frozen=True)
class TwoViews(AbstractEmbedded):
    """The structure of MVH-Bench in an embedded world; attributes take turns from group to group.

    It differs in that the third option is a value that neither view has (where the attribute has
    so many), and no "Neither A nor B", which the models have not learned to read; and that the
    asked view is known. Options take turns in the places that they stand at.

    Args:
        size: number of GROUPS of six questions.
        similarity: in how many attributes beside the asked one both views agree.
        order: turns the options by so many places.
    """

    size: int = 100
    similarity: int = 1
    order: int = 0

    kind: ClassVar[str] = "mvh"
    orders: ClassVar[int] = NUM_OPTIONS

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("similarity", self.similarity, 0, len(self._attributes) - 1)
        check_integer("order", self.order, 0, self.orders - 1)

    def __len__(self) -> int:
        return len(FORMS) * self.size

    def _draft(self, index: int) -> Draft:
        world = self._world
        number, member = divmod(index, len(FORMS))
        cluster = self._identity(number, f"similarity{self.similarity}")
        rng = self._rng(cluster)
        turn, which = divmod(number, len(self._attributes))
        attribute = self._attributes[which]
        truth = pick(world.truths, rng)
        rest = [name for name in self._attributes if name != attribute]
        views = around(world, truth, 0, 2, subset(rest, self.similarity, rng), rng)
        values = [view[attribute] for view in views]
        neither = [value for value in world.attributes[attribute] if value not in values]
        third = (pick(neither, rng),) if neither else ()
        form = FORMS[member]
        # Two questions with options, then two by yes or no about either view.
        asked = member if form == CHOICE else member // 2 - 1
        own, other = values[asked], values[1 - asked]
        distractors: tuple[str, ...] = ()
        if form == CHOICE:
            listed = arranged((own, other, *third), turn + member, self.order)
            choices = questions.LETTERS[: len(listed)]
            letters = dict(zip(listed, choices, strict=True))
            body = questions.letter(attribute, listed)
            answer, distractors = letters[own], (letters[other],)
        else:
            about_own = (member + turn) % 2 == 0
            body = questions.yes_no(attribute, own if about_own else other)
            answer, choices = ("yes" if about_own else "no"), ("yes", "no")
        return Draft(
            id=f"{cluster}-{member}",
            views=views,
            keys=(f"{cluster}-0", f"{cluster}-1"),
            body=questions.about(asked, body, world),
            answer=answer,
            choices=choices,
            category=form,
            about=(asked,),
            distractors=distractors,
            group=f"{cluster}-{form}-{member // 2}",
            cluster=cluster,
            attribute=attribute,
            similarity=self.similarity,
            permutation=rotation(len(choices), self.order) if form == CHOICE else (),
            extra={"member": member},
        )
