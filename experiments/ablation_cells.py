"""The cells of the ablations: questions, the rows of FOCUS on them, and their logits, kept.

What is computed is kept in files that are written in one move and named by all that determines
them, the weights included: an interrupted run goes on where it stopped, and experiments share what
they have in common.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analysis.rules import Evidence
from experiments.evaluation import request_of
from focus.benchmarks.base import Example
from focus.benchmarks.embedded import KINDS, AbstractEmbedded, asked_view, view_units
from focus.decoding import (
    STRATEGIES,
    AbstractDecoding,
    CaptionThenAnswer,
    Focus,
    Request,
    SingleImage,
    Vcd,
)
from focus.decoding.interventions import AbstractIntervention
from focus.engines import LocalEngine
from focus.errors import InvalidValueError, UnknownNameError
from focus.models import Checkpoint, VisionLanguageModel
from focus.models.loading import embedded_names, embedded_path
from focus.noise import NoiseConfig
from focus.records import digest
from focus.zoo.answers import AnswerKey
from focus.zoo.forward import Frontend
from focus.zoo.mixture import MAX_FRAMES
from focus.zoo.questions import UNKNOWN
from focus.zoo.rows import Tint, first_logits, plain_logits, row_logits
from focus.zoo.worlds import WORLDS

TARGETS = ("units", "all", "named", "pairs")
#: Strategies that change the prompt or the forward pass, and leave one row.
INTERVENING = sorted(
    name
    for name, strategy in STRATEGIES.items()
    if issubclass(strategy, AbstractIntervention | CaptionThenAnswer)
)


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


def questions_grid(
    grid: Mapping[str, Any], worlds: Sequence[str], *, split: str, size: int
) -> Iterator[Questions]:
    """Every combination of the settings in `grid` that a world can ask.

    A world of clips has room for two views, and none can share more attributes than it has; such
    combinations are left out, since a grid is about all worlds.

    Args:
        grid: fields of `Questions`, each with a value or a list of them; ``worlds`` narrows the
            worlds, ``similarity: each`` stands for every value that the world has.
        worlds: names.
        split, size: of all of them.
    """
    settings = {name: value for name, value in grid.items() if name != "worlds"}
    for world in grid.get("worlds", worlds):
        if world not in worlds:
            continue
        attributes, frames = WORLDS[world].attributes, WORLDS[world].frames
        own = dict(settings)
        if own.get("similarity") == "each":
            own["similarity"] = list(range(len(attributes)))
        for values in combinations(own):
            questions = Questions(world=world, split=split, size=size, **values)
            number = int(
                questions.num_images or getattr(KINDS[questions.kind], "num_images", None) or 1
            )
            most = len(attributes) - getattr(KINDS[questions.kind], "least_changes", 1)
            if number * frames > MAX_FRAMES or (questions.similarity or 0) > most:
                continue
            if questions.similarity is None and hasattr(KINDS[questions.kind], "similarity"):
                common = getattr(KINDS[questions.kind], "similarity", 0)
                questions = replace(questions, similarity=min(common, most))
            yield questions


def combinations(grid: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every combination of the listed values.

    >>> list(combinations({"a": [1, 2], "b": 3}))
    [{'a': 1, 'b': 3}, {'a': 2, 'b': 3}]
    """
    listed = [v if isinstance(v, list | tuple) else [v] for v in grid.values()]
    for values in itertools.product(*listed):
        yield dict(zip(grid, values, strict=True))


@dataclass(frozen=True)
class Rows:
    """Which rows of FOCUS are run; the fields are columns of the records.

    Args:
        noise, scale, severity, seed: see `focus.noise.NoiseConfig`.
        sharing: see `focus.decoding.Focus`.
        targets: a branch for each view (``units``), for each image (``all``: a frame of a clip by
            itself), for the asked view alone (``named``) or for two views together (``pairs``).
        tint: see `focus.zoo.rows`.
    """

    noise: str = "imagenet+uniform"
    scale: float = 1.0
    severity: int = 3
    seed: int = 0
    sharing: str = "sample"
    targets: str = "units"
    tint: Tint = "none"

    def __post_init__(self) -> None:
        if self.targets not in TARGETS:
            raise InvalidValueError("targets", self.targets, f"one of {', '.join(TARGETS)}")

    @property
    def strategy(self) -> Focus:
        """The strategy that runs these rows, with the targets that `request` names."""
        noise = NoiseConfig(self.noise, float(self.scale), self.severity, self.seed)
        return Focus(noise=noise, sharing=self.sharing, targets="named")  # type: ignore[arg-type]

    def request(self, request: Request, example: Example) -> Request:
        """`request` with one target unit for each branch."""
        units = view_units(example)
        if self.targets == "all":
            return replace(request, targets=tuple(range(len(request.images))))
        if self.targets == "units":
            return replace(request, targets=units)
        if self.targets == "pairs":
            pairs = [sum(units[k : k + 2], ()) for k in range(0, len(units), 2)]
            return replace(request, targets=tuple(pairs))
        if not example.targets:
            raise InvalidValueError("targets", "named", "another one: no image is named here")
        return request

    def target_branch(self, example: Example) -> int | None:
        """Branch that shows the asked view, if one is asked about."""
        view = asked_view(example)
        if view is None or self.targets == "all":
            return None
        return {"units": view, "pairs": view // 2, "named": 0}[self.targets]


@dataclass(frozen=True)
class Loaded:
    """Questions with everything drawn.

    Args:
        settings: where they come from.
        name: of the benchmark.
        examples: the questions.
    """

    settings: Questions
    name: str
    examples: tuple[Example, ...]

    def requests(self, rows: Rows | None = None) -> list[Request]:
        """What a strategy is asked; under `rows` with its target units."""
        plain = [request_of(self.name, example) for example in self.examples]
        if rows is None:
            return plain
        return [rows.request(r, e) for r, e in zip(plain, self.examples, strict=True)]

    def target(self, rows: Rows) -> Tensor | None:
        """Branch of the asked view, per question; None where questions name no view."""
        found = [rows.target_branch(example) for example in self.examples]
        known = [branch for branch in found if branch is not None]
        return torch.tensor(known) if len(known) == len(found) else None

    @property
    def labels(self) -> dict[str, Any]:
        """Name and settings as columns, the defaults of the kind filled in."""
        columns = {"questions": self.settings.key, **asdict(self.settings)}
        columns["num_images"] = len(self.examples[0].truths)
        del columns["seed"]  # in a record it is that of the noise
        return columns

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
            "domain": [str(e.metadata["domain"]) for e in self.examples],
            "answer": [e.answer for e in self.examples],
        }


@functools.lru_cache(maxsize=64)
def load_questions(questions: Questions) -> Loaded:
    """Draws questions and keeps them: all models, and every choice on dev, ask the same ones.

    Room for the tuning questions and the sets of a block: with less of it a choice of 16 weights
    draws its questions 16 times. A set takes 10 to 30 MB.
    """
    benchmark = questions.benchmark()
    return Loaded(questions, benchmark.name, tuple(benchmark))


@dataclass(frozen=True)
class Model:
    """A model that is loaded when it is needed.

    Args:
        name: of the model.
        folder: with its weights.
    """

    name: str
    folder: Path

    @property
    def vlm(self) -> VisionLanguageModel:
        """The model on the CPU in float32."""
        return _load(self.name, self.folder)

    @property
    def engine(self) -> LocalEngine:
        """What answers its questions."""
        return _engine(self.name, self.folder)

    @property
    def fingerprint(self) -> str:
        """Changes with the weights: what other weights computed is never taken for this model's."""
        return _fingerprint(self.folder / "model.safetensors")

    def key(self, loaded: Loaded) -> AnswerKey:
        """What each token is worth as an answer."""
        ids = Frontend.of(self.vlm.model, self.vlm.processor).encoder.ids
        return AnswerKey.of(loaded.examples, ids, UNKNOWN)

    @property
    def words(self) -> dict[int, str]:
        """Words by token id."""
        ids = Frontend.of(self.vlm.model, self.vlm.processor).encoder.ids
        return {i: word for word, i in ids.items()}


@functools.lru_cache(maxsize=4)
def _load(name: str, folder: Path) -> VisionLanguageModel:
    return Checkpoint(name, str(folder), dtype="float32", attention="sdpa", device="cpu").load()


@functools.lru_cache(maxsize=4)
def _engine(name: str, folder: Path) -> LocalEngine:
    return LocalEngine(_load(name, folder), batch=64)


@functools.lru_cache(maxsize=64)
def _fingerprint(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def models_of(names: Sequence[str] | None, weights: str | None) -> list[Model]:
    """Models to ask.

    Args:
        names: of models; None for all there are.
        weights: folder with one folder for each model; None for the embedded ones.

    Raises:
        UnknownNameError: no such model, or none at all.
    """
    if weights is None:
        folders = {name: embedded_path(name) for name in embedded_names()}
    else:
        found = sorted(Path(weights).glob("*/config.json"))
        folders = {path.parent.name: path.parent for path in found}
    chosen = list(folders) if names is None else list(names)
    if not chosen:
        raise UnknownNameError("model", "all", folders)
    for name in chosen:
        if name not in folders:
            raise UnknownNameError("model", name, folders)
    return [Model(name, folders[name]) for name in chosen]


class LogitStore:
    """Logits by what determines them, in memory for the current cell and in files for good.

    Args:
        folder: created when first written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        #: How many passes were computed, for tests and the closing line of a run.
        self.computed = 0

    def plain(self, model: Model, questions: Questions) -> Tensor:
        """Plain decoding: ``[questions, vocabulary]``."""
        (logits,) = self._kept(
            model, questions, "plain",
            lambda loaded: [plain_logits(model.engine, loaded.requests())],
        )  # fmt: skip
        return logits

    def evidence(self, model: Model, questions: Questions, rows: Rows) -> Evidence:
        """Plain decoding and every row."""

        def compute(loaded: Loaded) -> list[Tensor]:
            asked = loaded.requests(rows)
            found = row_logits(model.engine, asked, rows.strategy, tint=rows.tint)
            return [found.reference, found.branches]

        # Further noise would fill the disk and is used by one experiment, which keeps its answers.
        reference, branches = self._kept(
            model, questions, asdict(rows), compute, keep=replace(rows, targets="units") == Rows()
        )
        target = load_questions(questions).target(rows)
        return Evidence(self.plain(model, questions), reference, branches, target)

    def vcd(self, model: Model, questions: Questions, strategy: Vcd) -> Tensor:
        """The diffused row of VCD: ``[questions, vocabulary]``."""
        (logits,) = self._kept(
            model, questions, {"vcd": strategy.step, "seed": strategy.seed},
            lambda loaded: [first_logits(model.engine, loaded.requests(), strategy)[0]],
        )  # fmt: skip
        return logits

    def single(self, model: Model, questions: Questions) -> Tensor:
        """The asked view alone, the others removed: ``[questions, vocabulary]``."""
        (logits,) = self._kept(
            model, questions, "single",
            lambda loaded: [first_logits(model.engine, loaded.requests(), SingleImage())[0]],
        )  # fmt: skip
        return logits

    def decoded(
        self, model: Model, questions: Questions, name: str, setting: Mapping[str, Any]
    ) -> Tensor:
        """A strategy that changes the prompt or the forward pass: ``[questions, vocabulary]``.

        Raises:
            UnknownNameError: there is no such strategy.
            PromptError: it has nothing to act on in this model's prompts.
        """
        strategy = built(name, setting)

        def compute(loaded: Loaded) -> list[Tensor]:
            if name not in INTERVENING:
                raise UnknownNameError("strategy of this kind", name, INTERVENING)
            return [first_logits(model.engine, loaded.requests(), strategy)[0]]

        (logits,) = self._kept(
            model, questions, {"strategy": name, "setting": dict(setting)}, compute
        )
        return logits

    def _kept(
        self,
        model: Model,
        questions: Questions,
        what: object,
        compute: Callable[[Loaded], list[Tensor]],
        *,
        keep: bool = True,
    ) -> list[Tensor]:
        key = digest([model.fingerprint, asdict(questions), what])
        path = self.folder / model.name / f"{questions.key}-{key}.npz"
        if path.exists():
            with np.load(path) as arrays:
                return [torch.from_numpy(arrays[name]) for name in sorted(arrays.files)]
        tensors = compute(load_questions(questions))
        self.computed += 1
        if keep:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".part")
            with partial.open("wb") as file:
                arrays = {f"logits{i}": t.numpy() for i, t in enumerate(tensors)}
                np.savez(file, **arrays)
            partial.replace(path)
        return tensors


def built(name: str, setting: Mapping[str, Any]) -> AbstractDecoding:
    """Strategy of a name with some settings.

    Raises:
        UnknownNameError: there is no such strategy.
    """
    if name not in STRATEGIES:
        raise UnknownNameError("strategy", name, STRATEGIES)
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in setting.items()}
    return STRATEGIES[name](**values)


def rows_grid(grids: Sequence[Mapping[str, Any]]) -> list[Rows]:
    """Every combination of every grid, each once.

    Raises:
        UnknownNameError: a setting that rows do not have.
    """
    known = [field.name for field in fields(Rows)]
    found: dict[Rows, None] = {}
    for grid in grids:
        for name in grid:
            if name not in known:
                raise UnknownNameError("setting of rows", name, known)
        for values in combinations(grid):
            found[Rows(**values)] = None
    return list(found) or [Rows()]
