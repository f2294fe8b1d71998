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

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from focus.branches import focus_plan
from focus.decoding.single_image import without_others
from focus.hooks import captured
from focus.noise import NoiseConfig
from focus.probes.base import AbstractProbe, Observation, Question, digits, group_means
from focus.randomness import generator
from focus.reading import Reader, Reading

CONDITIONS = (
    *("together", "alone", "focus", "same image", "unrelated", "shuffled tokens"),
    *("random model", "other company"),
)
COMPANY = CONDITIONS[-1]


@dataclass(frozen=True)
class _Job:
    """Some rows of a question in one condition, and the tokens of each that form an image."""

    question: int
    condition: str
    rows: tuple[tuple[Reading, tuple[Tensor, ...]], ...]


@final
@dataclass(frozen=True)
class Entanglement(AbstractProbe):
    """Cosine between images, by condition and place.

    Cost: one pass over a question for each condition, and four for each image (alone, FOCUS and
    other company).

    Args:
        noise_scale: of what a branch of FOCUS masks; 0.8 is published for this figure.
        untrained: whether there is a control with random weights, which takes the memory of a
            second model.
        seed: of noise, shuffling and random weights.
    """

    noise_scale: float = 0.8
    untrained: bool = True
    seed: int = 0

    name: ClassVar[str] = "entanglement"
    borrows: ClassVar[bool] = True

    def __post_init__(self) -> None:
        NoiseConfig(scale=self.noise_scale, seed=self.seed)

    def observe(
        self, reader: Reader, questions: Sequence[Question], chunk: Sequence[int], folder: Path
    ) -> list[list[Observation]]:
        found: list[list[Observation]] = [[] for _ in chunk]
        jobs = [job for k, i in enumerate(chunk) for job in self._jobs(reader, questions, i, k)]
        self._look(reader, jobs, found)
        if self.untrained:
            again = [
                replace(j, condition="random model") for j in jobs if j.condition == "together"
            ]
            self._look(reader.untrained(self.seed), again, found)
        return found

    def _jobs(self, reader: Reader, questions: Sequence[Question], i: int, k: int) -> list[_Job]:
        request = questions[i].request
        number = len(request.images)
        own = reader.reading(request)
        alone = [reader.reading(without_others(request, (j,))) for j in range(number)]
        plan = focus_plan(number, scale=self.noise_scale)
        noise = NoiseConfig(scale=self.noise_scale, seed=self.seed)
        branches = reader.rows(request, plan, noise)[1:]
        same = reader.reading(replace(request, images=request.images[:1] * number))
        others = [questions[(i + j) % len(questions)].request.images for j in range(1, number)]
        mixed = tuple(images[j % len(images)] for j, images in enumerate(others, start=1))
        unrelated = reader.reading(replace(request, images=(request.images[0], *mixed)))
        stranger = questions[(i + 1) % len(questions)].request.images
        company = []
        for j in range(number):
            images = [stranger[s % len(stranger)] for s in range(number)]
            images[j] = request.images[j]
            other = reader.reading(replace(request, images=tuple(images)))
            company += [(own, (own.image(j),)), (other, (other.image(j),))]
        dealt = _dealt(own, generator(self.seed, "shuffled tokens", request.sample_id))
        return [
            _Job(k, "together", ((own, _images(own)),)),
            _Job(k, "alone", tuple((each, _images(each)) for each in alone)),
            _Job(k, "focus", tuple((b, (b.image(j),)) for j, b in enumerate(branches))),
            _Job(k, "same image", ((same, _images(same)),)),
            _Job(k, "unrelated", ((unrelated, _images(unrelated)),)),
            _Job(k, "shuffled tokens", ((own, dealt),)),
            _Job(k, COMPANY, tuple(company)),
        ]

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
