"""Minimal pairs of two views and two captions, as VisMin and Winoground; of clips, as Vinoground.

Direction "image": both views and one caption, which view? Direction "text": one view and both
captions, which caption? Each gives two examples per pair, which share a `group`; the image (text)
score counts a pair only if both are right, the group score only if all four are, which share a
`cluster`. In a world of clips the image score is Vinoground's video score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from focus.benchmarks.embedded.base import AbstractEmbedded, Draft, check_integer
from focus.benchmarks.prompting import rotation
from focus.errors import InvalidValueError
from focus.worlds import pick, questions

DIRECTIONS = ("image", "text", "both")


@final
@dataclass(frozen=True)
class MinimalPair(AbstractEmbedded):
    """A truth and its counterpart (`AbstractWorld.counterpart`) in each attribute in turn.

    The direction is the `category`.

    Args:
        size: number of PAIRS; there are two examples per pair and direction.
        direction: "image", "text" or "both".
        order: 1 swaps the views of a pair, or the captions.
    """

    size: int = 300
    direction: str = "image"
    order: int = 0

    kind: ClassVar[str] = "matching"
    orders: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.direction not in DIRECTIONS:
            raise InvalidValueError("direction", self.direction, f"one of {list(DIRECTIONS)}")
        check_integer("order", self.order, 0, self.orders - 1)

    @property
    def directions(self) -> tuple[str, ...]:
        """The directions that are asked, in order."""
        return ("image", "text") if self.direction == "both" else (self.direction,)

    def __len__(self) -> int:
        return 2 * len(self.directions) * self.size

    def _asked(self, draft: Draft) -> int | None:
        """Of two views the one that the caption fits."""
        return draft.choices.index(draft.answer) if len(draft.views) == 2 else None

    def _draft(self, index: int) -> Draft:
        world = self._world
        pair, member = divmod(index, 2 * len(self.directions))
        direction, asked = self.directions[member // 2], member % 2
        cluster = self._identity(pair)
        rng = self._rng(cluster)
        attribute = self._attributes[pair % len(self._attributes)]
        truth = pick(world.truths, rng)
        truths = (truth, world.counterpart(truth, attribute, rng))
        turn = rotation(2, self.order)
        if direction == "image":
            shown, choices = turn, questions.ORDINALS[:2]
            body = questions.which_image(truths[asked], 2, world)
        else:
            shown, choices = (asked,), questions.LETTERS[:2]
            body = questions.which_caption([truths[k] for k in turn], world)
        return Draft(
            id=f"{cluster}-{direction}-{asked}",
            views=tuple(truths[k] for k in shown),
            keys=tuple(f"{cluster}-{k}" for k in shown),
            body=body,
            answer=choices[turn.index(asked)],
            choices=choices,
            category=direction,
            about=() if direction == "image" else (0,),
            group=f"{cluster}-{direction}",
            cluster=cluster,
            attribute=attribute,
            permutation=turn,
        )
