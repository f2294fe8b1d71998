"""What an ablation asks: grids of embedded questions, or those of any benchmark."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor

from experiments.ablation_rows import Rows
from experiments.config import build
from experiments.tuning import to_dev
from focus.benchmarks.base import AbstractBenchmark, Example
from focus.benchmarks.embedded import KINDS, AbstractEmbedded, asked_view, view_units
from focus.decoding import Request
from focus.errors import InvalidValueError, UnknownNameError
from focus.evaluation import ITEM_ERRORS, request_of
from focus.records import digest


@dataclass(frozen=True)
class Questions:
    """One set of questions.

    Args:
        world, kind, split, seed: see `focus.benchmarks.embedded`.
        size: number of questions; minimal pairs count twice.
        num_images, similarity, position: settings of the kind; None for its own default.
    """

    world: str
    kind: str
    split: str
    size: int
    num_images: int | None = None
    similarity: int | None = None
    position: int | None = None
    seed: int = 0

    @property
    def key(self) -> str:
        """Readable name that no other set of questions has.

        >>> Questions("scenes", "indexed", "dev", 200, num_images=3).key
        'scenes-indexed-dev-200-num_images3'
        """
        dials = {name: getattr(self, name) for name in ("num_images", "similarity", "position")}
        named = [f"{name}{value}" for name, value in dials.items() if value is not None]
        seed = [f"seed{self.seed}"] if self.seed else []
        return "-".join([self.world, self.kind, self.split, str(self.size), *named, *seed])

    @property
    def columns(self) -> dict[str, Any]:
        """Settings as columns of the records, where ``seed`` is that of the noise."""
        return {name: value for name, value in asdict(self).items() if name != "seed"}

    def benchmark(self) -> AbstractEmbedded:
        """The benchmark that asks them.

        Raises:
            UnknownNameError: there is no such kind of questions.
        """
        if self.kind not in KINDS:
            raise UnknownNameError("kind", self.kind, KINDS)
        dials = {name: getattr(self, name) for name in ("num_images", "similarity", "position")}
        given = {name: value for name, value in dials.items() if value is not None}
        size = self.size // 2 if self.kind == "matching" else self.size
        common: dict[str, Any] = {"world": self.world, "split": self.split, "seed": self.seed}
        return KINDS[self.kind](size=size, **common, **given)


@dataclass(frozen=True)
class Configured:
    """Questions of a benchmark that is no embedded one, as its configuration sets it.

    Args:
        node: JSON of an entry of ``conf/benchmark``.
        split: ``dev``, the part to choose settings on, or ``test``, that which the entry names.
        size: number of questions, at most.
    """

    node: str
    split: str
    size: int

    @property
    def key(self) -> str:
        """Readable name that no other questions have."""
        return f"{self.benchmark().name}-{self.split}-{self.size}-{digest(self.node)[:6]}"

    @property
    def columns(self) -> dict[str, Any]:
        """Settings as columns of the records."""
        name = self.benchmark().name
        return {"world": name, "kind": name, "split": self.split, "size": self.size,
                "num_images": None, "similarity": None, "position": None}  # fmt: skip

    def benchmark(self) -> AbstractBenchmark:
        """The benchmark that asks them."""
        return _built(self.node, self.split)


AnyQuestions = Questions | Configured


@functools.lru_cache(maxsize=8)
def _built(node: str, split: str) -> AbstractBenchmark:
    config = OmegaConf.create(json.loads(node))
    if split == "dev":
        to_dev(config)
    benchmark: AbstractBenchmark = build(config)
    return benchmark


def questions_of(node: Mapping[str, Any], *, split: str, size: int) -> AnyQuestions:
    """Questions of an entry of ``conf/benchmark``, or those of its dev part.

    Args:
        node: resolved.
        split: ``dev`` or ``test``.
        size: number of questions, at most.
    """
    made = Configured(json.dumps(dict(node), sort_keys=True), split, size)
    benchmark = made.benchmark()
    if not isinstance(benchmark, AbstractEmbedded):
        return made
    dials = {name: getattr(benchmark, name, None)
             for name in ("num_images", "similarity", "position")}  # fmt: skip
    return Questions(benchmark.world, benchmark.kind, split, size, **dials, seed=benchmark.seed)


@dataclass(frozen=True)
class Loaded:
    """Questions with all that is known of them.

    Args:
        settings: where they come from.
        benchmark: that asks them.
        examples: the questions; those of `Configured` without their images, which would fill the
            memory and are read again whenever they are shown to a model.
        indices: of the examples in the benchmark: questions without choices are left out, since
            there is nothing to rank.
    """

    settings: AnyQuestions
    benchmark: AbstractBenchmark
    examples: tuple[Example, ...]
    indices: tuple[int, ...]

    def only(self, places: Sequence[int]) -> Loaded:
        """The questions at these places."""
        if len(places) == len(self.examples):
            return self
        return replace(
            self,
            examples=tuple(self.examples[i] for i in places),
            indices=tuple(self.indices[i] for i in places),
        )

    def requests(self, rows: Rows | None = None, *, budget: str = "checkpoint") -> list[Request]:
        """What a strategy is asked; under `rows` with its target units."""
        return list(self.each_request(rows, budget=budget))

    def each_request(
        self, rows: Rows | None = None, *, budget: str = "checkpoint"
    ) -> Iterator[Request]:
        """`requests`, one after the other.

        Args:
            rows: whose target units are named.
            budget: of the model's images, see `focus.models.Checkpoint`.
        """
        for place in range(len(self.examples)):
            yield self.request(self.whole(place), rows, budget=budget)

    def request(self, example: Example, rows: Rows | None, *, budget: str) -> Request:
        """What a strategy is asked about one question; see `each_request`."""
        request = request_of(self.benchmark, example, budget=budget)
        return request if rows is None else rows.request(request, example)

    def whole(self, place: int) -> Example:
        """The question at a place, with its images."""
        if isinstance(self.settings, Questions):
            return self.examples[place]
        return self.benchmark[self.indices[place]]

    def requests_fit(self, rows: Rows) -> None:
        """Raises `InvalidValueError` if a question has no such target units."""
        for example in self.examples:
            rows.units(example)

    def target(self, rows: Rows) -> Tensor | None:
        """Branch of the asked view, per question; None where questions name no view."""
        found = [rows.target_branch(example) for example in self.examples]
        known = [branch for branch in found if branch is not None]
        return torch.tensor(known) if len(known) == len(found) else None

    @property
    def labels(self) -> dict[str, Any]:
        """Name and settings as columns, the defaults of the kind filled in."""
        numbers = {len(view_units(example)) for example in self.examples}
        number = numbers.pop() if len(numbers) == 1 else None
        return {"questions": self.settings.key, **self.settings.columns, "num_images": number}

    def record(self) -> dict[str, Any]:
        """What tables need to know about the questions, whoever answers them."""
        clusters = {c: i for i, c in enumerate(dict.fromkeys(e.cluster for e in self.examples))}
        groups = {g: i for i, g in enumerate(dict.fromkeys(e.group for e in self.examples))}
        return {
            "record": "questions",
            **self.labels,
            "clusters": [clusters[e.cluster] for e in self.examples],
            "groups": [groups[e.group] for e in self.examples],
            "target": [asked_view(e) for e in self.examples],
            "domain": [str(e.metadata.get("domain", e.category)) for e in self.examples],
            "answer": [e.answer for e in self.examples],
        }


@functools.lru_cache(maxsize=64)
def load_questions(questions: AnyQuestions) -> Loaded:
    """Draws questions and keeps them: all models, and every choice on dev, ask the same ones.

    Room for the tuning questions and the sets of a block: with less of it a choice of 16 weights
    draws its questions 16 times. A set takes 10 to 30 MB.

    Raises:
        InvalidValueError: none of the questions has choices.
    """
    benchmark = questions.benchmark()
    if isinstance(questions, Questions):
        return Loaded(questions, benchmark, tuple(benchmark), tuple(range(len(benchmark))))
    found: dict[int, Example] = {}
    for index in range(min(questions.size, len(benchmark))):
        with contextlib.suppress(*ITEM_ERRORS):
            example = benchmark[index]
            if example.choices:
                blank = (BLANK,) * len(example.images)
                found[index] = replace(example, images=blank)
    if not found:
        accepted = "one whose questions have choices: an ablation ranks them"
        raise InvalidValueError("benchmark", benchmark.name, accepted)
    return Loaded(questions, benchmark, tuple(found.values()), tuple(found))


#: Stands for images that are read when they are needed.
BLANK = Image.new("RGB", (1, 1))
