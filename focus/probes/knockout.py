"""Attention knock-out: which way does a leak take?

An edge (who looks at whom) is cut in some layers, and the question is read again. What moves went
that way. Queries look at keys, so information flows from the second name to the first:

    image to image                 images at other images
    asked to other, other to asked the two directions of it, each where causal attention has it
    asked image to text            text at the asked image, and so on
    text to last                   the last token at all other text

"To rest" cuts a group from everything but itself: no way is left, which shows what the most is.
Delimiters are no part of an image: they may carry what it shows. Source: Geva et al., EMNLP 2023,
arXiv 2304.14767, for text; here edges are those between images, their delimiters and the text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, final

import torch
from torch import Tensor

from focus.errors import UnknownNameError
from focus.hooks import GROUPS, IMAGE_GROUPS, TEXT_GROUPS, edge, knocked_out
from focus.probes.base import AbstractProbe, Observation, Question, check_count, parts
from focus.reading import Reader, Reading

ASKED, OTHER = IMAGE_GROUPS
#: Name of the run in which nothing is cut.
NOTHING = "nothing"


def _between_images(reading: Reading) -> Tensor:
    """Whatever lies in two different images, as queries and keys."""
    images = [reading.image(k) for k in range(len(reading.images))]
    pairs = torch.zeros(reading.length, reading.length, dtype=torch.bool)
    for one in images:
        for other in images:
            if one is not other:
                pairs |= edge(one, other)
    return pairs


def _flow(source: Sequence[str], to: Sequence[str]) -> Callable[[Reading], Tensor]:
    return lambda reading: edge(reading.tokens(*to), reading.tokens(*source))


def _from(source: str) -> Callable[[Reading], Tensor]:
    rest = [name for name in GROUPS if name != source]
    return _flow([source], rest)


#: Pairs ``[length, length]`` of every edge, query first.
EDGES: dict[str, Callable[[Reading], Tensor]] = {
    "image to image": _between_images,
    "asked image to other images": _flow([ASKED], [OTHER]),
    "other images to asked image": _flow([OTHER], [ASKED]),
    "asked image to text": _flow([ASKED], TEXT_GROUPS),
    "other images to text": _flow([OTHER], TEXT_GROUPS),
    "delimiters to text": _flow(["delimiters"], TEXT_GROUPS),
    "text to last token": _flow(["earlier text", "question"], ["last token"]),
    "asked image to rest": _from(ASKED),
    "other images to rest": _from(OTHER),
}


@final
@dataclass(frozen=True)
class Knockout(AbstractProbe):
    """Every edge, in all layers and in windows of them.

    Cost: one pass over a question for every edge and window: 46 with four windows.

    Args:
        windows: parts of about equal length that the layers are cut into, beside all together.
        edges: some of `EDGES`; None for all.
    """

    windows: int = 4
    edges: Sequence[str] | None = None

    name: ClassVar[str] = "knockout"

    def __post_init__(self) -> None:
        check_count("windows", self.windows, 1)
        for edge_name in self.edges or ():
            if edge_name not in EDGES:
                raise UnknownNameError("edge", edge_name, EDGES)

    def observe(
        self, reader: Reader, questions: Sequence[Question], chunk: Sequence[int], folder: Path
    ) -> list[list[Observation]]:
        asked = [questions[i] for i in chunk]
        readings = [reader.reading(question.request) for question in asked]
        found: list[list[Observation]] = [[] for _ in asked]
        for indices in reader.batches(readings):
            part = [readings[i] for i in indices]
            self._read(reader, part, None, NOTHING, (), indices, asked, found)
            for name in self.edges or EDGES:
                hidden = torch.stack([EDGES[name](reading) for reading in part])
                for window in self._windows(reader):
                    self._read(reader, part, hidden, name, window, indices, asked, found)
        return found

    def _windows(self, reader: Reader) -> list[tuple[int, ...]]:
        layers = tuple(range(reader.num_places - 1))
        windows = parts(len(layers), self.windows)
        return [layers, *(window for window in windows if window != layers)]

    def _read(
        self,
        reader: Reader,
        part: Sequence[Reading],
        hidden: Tensor | None,
        name: str,
        window: tuple[int, ...],
        indices: Sequence[int],
        asked: Sequence[Question],
        found: list[list[Observation]],
    ) -> None:
        """One pass, with what it shows of every question that has this edge."""
        # Who comes later is not seen anyway.
        there = [True] * len(part) if hidden is None else hidden.tril().flatten(1).any(1).tolist()
        if not any(there):
            return
        with ExitStack() as hooks:
            if hidden is not None:
                hooks.enter_context(knocked_out(reader.vlm, hidden, layers=window))
            logits = reader.logits(part)
        for row, i, exists in zip(logits, indices, there, strict=True):
            if not exists:
                continue
            question = asked[i]
            said = question.said(row)
            values = question.log_probabilities(row)
            right = question.example.choices.index(question.example.answer)
            found[i].append(
                {
                    "edge": name,
                    "layers": list(window),
                    "said": said,
                    "kind": question.kind(said),
                    "right": round(float(values[right]), 4),
                }
            )
