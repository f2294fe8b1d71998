"""Entanglement: how alike are the states of different images?

As in arXiv 2508.13744: states of image tokens are scaled to length one and averaged for each image;
the cosine between the images of a question is averaged over their pairs. Published at the input of
the LM head, here at every place of the residual stream too. Conditions:

    together         the question as it is
    alone            every image in a prompt of its own, the placeholders of the others removed
    focus            every image in the branch of FOCUS in which it is clean
    same image       every image is the first one: as alike as images can be
    unrelated        the images of different questions
    shuffled tokens  tokens of all images dealt out at random: no image is left
    random model     together, in a model of the same architecture with random weights

States have a direction in common, so that such a cosine says little by itself; and it does not tell
planted faults apart: images that are kept from each other are more alike than those that are not.
What does is a cosine between two states of ONE image:

    other company    the question as it is, and with every other image taken from the next question

It is 1 where no image has an influence on another, and the lower the more it has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, final

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torch.nn.functional import normalize

from focus.branches import focus_plan
from focus.decoding.base import Request
from focus.decoding.single_image import without_others
from focus.errors import UnknownNameError
from focus.hooks import captured
from focus.noise import NoiseConfig
from focus.probes.base import AbstractProbe, Observation, Question, digits, group_means
from focus.randomness import generator
from focus.reading import Reader, Reading

COMPANY, CONTROL = "other company", "random model"
CONDITIONS = (
    *("together", "alone", "focus", "same image", "unrelated", "shuffled tokens"),
    COMPANY,
)

#: Some rows of a question, and the tokens of each that form an image.
Rows = tuple[tuple[Reading, tuple[Tensor, ...]], ...]


@dataclass(frozen=True)
class _Job:
    """The rows of a question in one condition."""

    question: int
    condition: str
    rows: Rows


@final
@dataclass(frozen=True)
class Entanglement(AbstractProbe):
    """Cosine between images, by condition and place.

    Cost: one pass over a question for each condition, and four for each image (alone, FOCUS and
    other company).

    Args:
        noise_scale: of what a branch of FOCUS masks; 0.8 is published for this figure.
        untrained: whether ``together`` has a control with random weights, which takes the memory
            of a second model.
        seed: of noise, shuffling and random weights.
        conditions: some of `CONDITIONS`; None for all.
    """

    noise_scale: float = 0.8
    untrained: bool = True
    seed: int = 0
    conditions: Sequence[str] | None = None

    name: ClassVar[str] = "entanglement"
    borrows: ClassVar[bool] = True

    def __post_init__(self) -> None:
        NoiseConfig(scale=self.noise_scale, seed=self.seed)
        for condition in self.conditions or ():
            if condition not in CONDITIONS:
                raise UnknownNameError("condition", condition, CONDITIONS)

    def observe(
        self, reader: Reader, questions: Sequence[Question], chunk: Sequence[int], folder: Path
    ) -> list[list[Observation]]:
        found: list[list[Observation]] = [[] for _ in chunk]
        jobs = [job for k, i in enumerate(chunk) for job in self._jobs(reader, questions, i, k)]
        self._look(reader, jobs, found)
        if self.untrained:
            again = [replace(j, condition=CONTROL) for j in jobs if j.condition == "together"]
            self._look(reader.untrained(self.seed), again, found)
        return found

    def _jobs(self, reader: Reader, questions: Sequence[Question], i: int, k: int) -> list[_Job]:
        request = questions[i].request
        own, number = reader.reading(request), len(request.images)
        next_ones = [questions[(i + j) % len(questions)].request.images for j in range(1, number)]
        mixed = [images[j % len(images)] for j, images in enumerate(next_ones, start=1)]

        def whole(*images: Image) -> Rows:
            reading = reader.reading(replace(request, images=images)) if images else own
            return ((reading, _images(reading)),)

        rows: dict[str, Callable[[], Rows]] = {
            "together": whole,
            "alone": lambda: tuple(
                (each, _images(each))
                for j in range(number)
                for each in [reader.reading(without_others(request, (j,)))]
            ),
            "focus": lambda: tuple(
                (branch, (branch.image(j),))
                for j, branch in enumerate(self._branches(reader, request))
            ),
            "same image": lambda: whole(*request.images[:1] * number),
            "unrelated": lambda: whole(request.images[0], *mixed),
            "shuffled tokens": lambda: ((own, self._dealt(own, request)),),
            COMPANY: lambda: _company(reader, own, request, questions[(i + 1) % len(questions)]),
        }
        return [_Job(k, each, rows[each]()) for each in self.conditions or CONDITIONS]

    def _branches(self, reader: Reader, request: Request) -> list[Reading]:
        plan = focus_plan(len(request.images), scale=self.noise_scale)
        noise = NoiseConfig(scale=self.noise_scale, seed=self.seed)
        return reader.rows(request, plan, noise)[1:]

    def _dealt(self, reading: Reading, request: Request) -> tuple[Tensor, ...]:
        return _dealt(reading, generator(self.seed, "shuffled tokens", request.sample_id))

    def _look(self, reader: Reader, jobs: Sequence[_Job], found: list[list[Observation]]) -> None:
        """Appends the cosines of all jobs."""
        rows = [(j, row) for j, job in enumerate(jobs) for row in job.rows]
        states: dict[int, list[tuple[int, Tensor]]] = {}  # of each job [places, images, hidden]
        for indices in reader.batches([row[1][0] for row in rows]):
            part = [rows[i][1] for i in indices]
            pooled = _pooled(reader, [row[0] for row in part], [row[1] for row in part])
            for i, each in zip(indices, pooled, strict=True):
                states.setdefault(rows[i][0], []).append((i, each))
        for j, job in enumerate(jobs):
            images = torch.cat([each for _, each in sorted(states[j], key=lambda s: s[0])], dim=1)
            if job.condition == COMPANY:  # each image in both companies
                cosines = pair_cosine(images.unflatten(1, (-1, 2))).mean(-1)
            else:
                cosines = pair_cosine(images)
            for place, cosine in enumerate(cosines.tolist()):
                seen = {"condition": job.condition, "place": place, "cosine": digits(cosine)}
                found[job.question].append(seen)


def _company(reader: Reader, own: Reading, request: Request, next_one: Question) -> Rows:
    """Every image twice: among its own, and among those of another question."""
    strangers, number = next_one.request.images, len(request.images)
    rows = []
    for j in range(number):
        images = [strangers[s % len(strangers)] for s in range(number)]
        images[j] = request.images[j]
        other = reader.reading(replace(request, images=tuple(images)))
        rows += [(own, (own.image(j),)), (other, (other.image(j),))]
    return tuple(rows)


def pair_cosine(states: Tensor) -> Tensor:
    """Mean cosine over the pairs of images: ``[..., images, hidden]`` to ``[...]``."""
    unit = normalize(states.float(), dim=-1)
    number = unit.shape[-2]
    cosines = unit @ unit.mT
    above = torch.ones(number, number).triu(1).bool()
    return cosines[..., above].mean(-1)


def _pooled(
    reader: Reader, readings: Sequence[Reading], groups: Sequence[Sequence[Tensor]]
) -> list[Tensor]:
    """Mean of unit states of every group, for each row ``[places, groups, hidden]``: all places of
    the stream, and behind them the input of the output embeddings."""
    most = max(len(each) for each in groups)
    nothing = torch.zeros(readings[0].length, dtype=torch.bool)
    padded = [[*each, *[nothing] * (most - len(each))] for each in groups]
    means = group_means(padded)
    last = reader.num_places - 1
    with (
        captured(reader.vlm, lambda h: means(normalize(h.float(), dim=-1))) as stream,
        captured(
            reader.vlm,
            lambda h: means(normalize(reader.normalised(h).float(), dim=-1)),
            places=[last],
        ) as head,
    ):
        reader.logits(readings)
    stacked = torch.stack([*(stream[place] for place in range(last + 1)), head[last]], dim=1)
    return [row[:, : len(each)] for row, each in zip(stacked, groups, strict=True)]


def _images(reading: Reading) -> tuple[Tensor, ...]:
    return tuple(reading.image(k) for k in range(len(reading.images)))


def _dealt(reading: Reading, rng: np.random.Generator) -> tuple[Tensor, ...]:
    """The tokens of all images, dealt out anew in the same numbers."""
    images = _images(reading)
    tokens = torch.stack(images).any(0).nonzero()[:, 0]
    order = tokens[torch.from_numpy(rng.permutation(len(tokens)))]
    parts = order.split([int(image.sum()) for image in images])
    return tuple(torch.zeros_like(images[0]).index_fill(0, part, True) for part in parts)
