"""Activation patching: where is what another image says, layer by layer?

Two runs of a question: as it is, and with one image showing another value of the asked attribute
(`AbstractBenchmark.counterfactual`). States of the second are put into the first, at one place of
the residual stream and one group of tokens; what the answer then shows of the second run was there.
With log-probabilities of the choices o in the own run, c in the other and p in the patched one,

    recovery = sum <p - o, c - o> / sum |c - o|^2          over questions

is 0 where nothing is patched and 1 where everything is, and needs no right answer.
Source: Meng et al., NeurIPS 2022, arXiv 2202.05262 (causal tracing); Zhang and Nanda, ICLR 2024,
arXiv 2309.16042 (exchanging inputs rather than adding noise).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from focus.errors import InvalidValueError, UnknownNameError
from focus.hooks import GROUPS, captured, patched
from focus.probes.base import AbstractProbe, Observation, Question, check_count, digits, spread
from focus.reading import Reader, Reading, asked_images

Changed = Literal["other image", "asked image"]
EVERYTHING, NOTHING = "everything", "nothing"


@final
@dataclass(frozen=True)
class Patching(AbstractProbe):
    """Every place, every group of tokens, the counterfactual in another image and in the asked one.

    Cost: for each of the two, one pass over a question for every place and group, and two more.
    Memory: the stream of a batch at those places.

    Args:
        places: of the residual stream, at most so many, evenly spread; None for all.
        changed: which image the second run changes: another one (the first that is not asked),
            the asked one, or, as None, each in turn. Where a question names no image, the first
            counts as asked.
        tokens: some of `focus.hooks.GROUPS`; None for all.
    """

    places: int | None = None
    changed: Changed | None = None
    tokens: Sequence[str] | None = None

    name: ClassVar[str] = "patching"

    def __post_init__(self) -> None:
        check_count("places", self.places, 2, optional=True)
        if self.changed not in (None, "other image", "asked image"):
            accepted = "'other image', 'asked image' or null for both"
            raise InvalidValueError("changed", self.changed, accepted)
        for group in self.tokens or ():
            if group not in GROUPS:
                raise UnknownNameError("group of tokens", group, GROUPS)

    def observe(
        self, reader: Reader, questions: Sequence[Question], chunk: Sequence[int], folder: Path
    ) -> list[list[Observation]]:
        found: list[list[Observation]] = [[] for _ in chunk]
        each: tuple[Changed, ...] = ("other image", "asked image")
        for changed in each if self.changed is None else (self.changed,):
            pairs = [_pair(reader, questions[i], changed) for i in chunk]
            own = [pair[0] for pair in pairs]
            for indices in reader.batches(own):
                # Another image may fill another number of tokens: there is nothing to put where.
                same = [i for i in indices if pairs[i][1].length == own[i].length]
                if same:
                    self._patch(
                        reader, changed, [(questions[chunk[i]], *pairs[i], found[i]) for i in same]
                    )
        return found

    def _patch(
        self,
        reader: Reader,
        changed: str,
        rows: Sequence[tuple[Question, Reading, Reading, list[Observation]]],
    ) -> None:
        """Two runs of a batch, and one for every place and group."""
        own, other = [row[1] for row in rows], [row[2] for row in rows]
        places = spread(reader.num_places, self.places)
        with captured(reader.vlm, places=places) as states:
            there = reader.logits(other)
        here = reader.logits(own)
        groups = {
            name: torch.stack([reading.groups[name] for reading in own])
            for name in self.tokens or GROUPS
        }
        everything = torch.ones(len(own), own[0].length, dtype=torch.bool)
        cells = [(name, place, where) for name, where in groups.items() for place in places]
        middle = places[len(places) // 2]  # what these give is known: one place will do
        cells += [(EVERYTHING, middle, everything), (NOTHING, middle, ~everything)]
        for name, place, where in cells:
            with patched(reader.vlm, {place: states[place]}, where):
                logits = reader.logits(own)
            for k, (question, _, _, seen) in enumerate(rows):
                if name == NOTHING or where[k].any():
                    cell = {"changed": changed, "place": place, "tokens": name}
                    moved = _moved(question, here[k], there[k], logits[k])
                    seen.append({**cell, "count": int(where[k].sum()), **moved})


def _pair(reader: Reader, question: Question, changed: Changed) -> tuple[Reading, Reading]:
    """The two runs of a question."""
    asked = asked_images(question.request) or (0,)
    others = [k for k in range(len(question.example.images)) if k not in asked]
    slot = asked[0] if changed == "asked image" or not others else others[0]
    other = question.benchmark.counterfactual(question.index, slot)
    # The request may have scaled the images.
    images = tuple(
        new.resize(old.size) for new, old in zip(other, question.request.images, strict=True)
    )
    # Groups are about the image that is asked, in both runs alike.
    request = replace(question.request, targets=list(asked))
    return reader.reading(request), reader.reading(replace(request, images=images))


def _moved(question: Question, here: Tensor, there: Tensor, patch: Tensor) -> Observation:
    """What a patch has moved: ``follows`` is whether the answer is that of the other run, None
    where the two runs answer alike."""
    own, other, mixed = (question.log_probabilities(row) for row in (here, there, patch))
    before, target = question.said(here), question.said(there)
    return {
        "before": question.kind(before),
        "follows": question.said(patch) == target if before != target else None,
        "toward": digits(float((mixed - own) @ (other - own))),
        "distance": digits(float((other - own) @ (other - own))),
    }
