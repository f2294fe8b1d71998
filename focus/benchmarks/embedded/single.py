"""One view, one attribute: what a model must master before questions about several mean anything.

Category and skill are the same here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from focus.benchmarks.embedded.base import AbstractEmbedded, Draft
from focus.worlds import pick, questions, varied

SKILLS = ("name", "yes_no", "letter", "which_caption")


@final
@dataclass(frozen=True)
class SingleImage(AbstractEmbedded):
    """An attribute named, confirmed or denied, chosen from letters, or told by its caption.

    Skills take turns, then attributes. Half of the values to confirm are true, and half of the
    right captions stand first; the wrong caption differs in the attribute alone.
    """

    kind: ClassVar[str] = "single"

    def _draft(self, index: int) -> Draft:
        world, identity = self._world, self._identity(index)
        rng = self._rng(identity)
        turn, skill = divmod(index, len(SKILLS))
        turn, asked = divmod(turn, len(self._attributes))
        attribute, first = self._attributes[asked], turn % 2 == 0
        truth = pick(world.truths, rng)
        wrong = varied(world, truth, (attribute,), rng)
        values = world.attributes[attribute]
        body, answer, choices = questions.name(attribute), truth[attribute], values
        if SKILLS[skill] == "yes_no":
            body = questions.yes_no(attribute, (truth if first else wrong)[attribute])
            answer, choices = "yes" if first else "no", ("yes", "no")
        elif SKILLS[skill] == "letter":
            body, answer = questions.lettered_question(truth, attribute, world, rng)
            choices = questions.LETTERS[: min(questions.NUM_OPTIONS, len(values))]
        elif SKILLS[skill] == "which_caption":
            body = questions.which_caption([truth, wrong] if first else [wrong, truth], world)
            answer, choices = questions.LETTERS[0 if first else 1], questions.LETTERS[:2]
        return Draft(
            id=identity,
            views=(truth,),
            body=body,
            answer=answer,
            choices=choices,
            category=SKILLS[skill],
            about=(0,),
            attribute=attribute,
        )
