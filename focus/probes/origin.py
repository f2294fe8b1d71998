"""Where does leakage begin? What several probes see, in few passes: for every model of a training.

Nothing is seen here that another probe does not see: what is said of the asked image alone, among
the others and under FOCUS (`focus.probes.chance`); what is said where images, and then the text, do
not see the other image (`focus.probes.knockout`); and how far the states of an image depend on the
others (`focus.probes.entanglement`, the condition that tells planted faults apart).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, final

from focus.decoding import Focus
from focus.probes.base import AbstractProbe, Observation, Question
from focus.probes.chance import Chance
from focus.probes.entanglement import COMPANY, Entanglement
from focus.probes.knockout import Knockout
from focus.reading import Reader

#: Name of FOCUS among the conditions of `Chance`.
FOCUS = "focus"
#: Edges that are cut: what might carry the leak, and what does.
BETWEEN, TO_TEXT = EDGES = ("image to image", "other images to text")


@final
@dataclass(frozen=True)
class Origin(AbstractProbe):
    """Accuracy, leakage, what FOCUS and a cut change, and how far images mix.

    Cost: five passes over a question, the rows of FOCUS, and two passes for each image.

    Args:
        strategy: FOCUS; not asked of a model with a planted fault.
    """

    strategy: Focus = field(default_factory=Focus)

    name: ClassVar[str] = "origin"
    borrows: ClassVar[bool] = True
    needs: ClassVar[str] = Chance.needs

    def asks(self, question: Question) -> bool:
        return Chance().asks(question)

    def observe(
        self, reader: Reader, questions: Sequence[Question], chunk: Sequence[int], folder: Path
    ) -> list[list[Observation]]:
        parts: tuple[AbstractProbe, ...] = (
            Chance({FOCUS: self.strategy}),
            Knockout(windows=1, edges=EDGES),
            Entanglement(untrained=False, conditions=(COMPANY,)),
        )
        found: list[list[Observation]] = [[] for _ in chunk]
        for part in parts:
            observed = part.observe(reader, questions, chunk, folder)
            for seen, each in zip(found, observed, strict=True):
                seen += [{"probe": part.name, **one} for one in each]
        return found
