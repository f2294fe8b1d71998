"""What an embedded model can do, for its card and for the report of all of them.

A model that is still in training is asked as any other, by cells of `focus.evaluation`, and a test
holds its answers to the decoding strategies. An answer is read off the log-probabilities of its
first token in two ways: as the best of the question's choices, and over the whole vocabulary, which
is what greedy decoding would say, "unknown" included.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Categorical
from tqdm import tqdm

from focus.benchmarks.base import Example
from focus.benchmarks.embedded import KINDS, AbstractEmbedded, asked_view, view_units
from focus.contrast import combine
from focus.decoding import AbstractDecoding, Focus, GenerationSettings, Plain, Request
from focus.engines import LocalEngine
from focus.errors import FocusError
from focus.evaluation import Cell, answered
from focus.evidence import Columns, Evidence, rows_of
from focus.marks import CANDIDATES, TEXT, AnswerKey, read
from focus.models import VisionLanguageModel
from focus.noise import NoiseConfig
from focus.worlds import WORLDS
from focus.worlds.questions import MAX_IMAGES, UNKNOWN
from focus.zoo.forward import Frontend
from focus.zoo.mixture import MAX_FRAMES

#: Noise of FOCUS on every card.
NOISE_NAME = "imagenet+uniform"
#: Its contrast weight for either reading of an answer (see `Answers`): one for all models, so that
#: cards compare, from what the dev split favours. Ranking the choices hardly needs a contrast; over
#: the whole vocabulary "unknown" wins the sum without it.
ALPHAS: Mapping[str, float] = MappingProxyType({CANDIDATES: 0.3, TEXT: 0.7})
PLAIN, FOCUS = "plain", "focus"


@dataclass(frozen=True)
class Answers:
    """Answers of one model to one set of questions under one decoding.

    One character per question, so that any rate, any interval and any paired difference can be
    computed from the card alone.

    Args:
        world: of the questions.
        kind: of the questions, see `focus.benchmarks.embedded.KINDS`.
        num_images: views of a question.
        decoding: `PLAIN` or `FOCUS`.
        category: of each question, as an index into `categories`.
        categories: names.
        group: number of the group of each question; all of a group must be right to count.
        candidates: how each answer reads among the choices: ``+`` right, ``x`` true of another
            view, ``-`` otherwise wrong.
        text: the same over the whole vocabulary, and ``?`` for "unknown".
    """

    world: str
    kind: str
    num_images: int
    decoding: str
    categories: tuple[str, ...]
    category: str
    group: tuple[int, ...]
    candidates: str
    text: str


@dataclass(frozen=True)
class Rows:
    """What the branches of FOCUS say on their own, over the whole vocabulary.

    Args:
        world: of the questions.
        num_images: views of a question.
        row: ``on target`` (the asked view is clean), ``off target`` or ``reference``.
        right: how often the right answer.
        own: how often what is true of the clean view, which is not the asked one.
        unknown: how often "unknown".
        total: number of rows.
        top: how often the answer that such rows give most often: the commitment of a row that
            cannot know.
        entropy: mean entropy of the first token, in nats, over the whole vocabulary.
    """

    world: str
    num_images: int
    row: str
    right: int
    own: int
    unknown: int
    total: int
    top: int
    entropy: float


def evaluate(
    vlm: VisionLanguageModel,
    worlds: Sequence[str],
    *,
    split: str = "test",
    size: int = 400,
    seed: int = 0,
    alphas: Mapping[str, float] = ALPHAS,
    most_images: int = MAX_IMAGES,
    kinds: Sequence[str] = tuple(KINDS),
) -> dict[str, list[dict[str, object]]]:
    """Everything that a model card says about a model's answers.

    Args:
        vlm: an embedded model, in float32.
        worlds: that it was trained on.
        split: of the embedded benchmarks.
        size: questions per cell; pairs where questions come in pairs.
        seed: of questions and noise.
        alphas: contrast weight of FOCUS for either reading, ``candidates`` and ``text``.
        most_images: largest number of images of a question.
        kinds: of questions; others are left out.

    Returns:
        ``cells`` (`Answers`) and ``rows`` (`Rows`), as they stand in a JSON file.
    """
    ids = Frontend.of(vlm.model, vlm.processor).encoder.ids
    words = {i: word for word, i in ids.items()}
    columns = Columns(ids, words, unknown=UNKNOWN)
    cells: list[Answers] = []
    rows: list[Rows] = []
    vlm.model.eval()
    engine = LocalEngine(vlm, batch=64)
    asked_of = [s for s in suite(worlds, split, size, seed, most_images) if s[0].kind in kinds]
    for benchmark, with_focus in tqdm(asked_of, f"measuring {vlm.name}", leave=False, disable=None):
        examples = list(benchmark)
        plain = torch.stack(
            [
                row
                for rows in rows_said(engine, benchmark, examples, Plain(), columns)
                for row in rows.values()
            ]
        )
        logits = {PLAIN: dict.fromkeys(alphas, plain)}
        if with_focus:
            found_rows = rows_said(engine, benchmark, examples, strategy(seed), columns)
            found = Evidence.of(plain, found_rows)
            logits[FOCUS] = {
                reading: combine(found.branches, found.reference, alpha=alpha)
                for reading, alpha in alphas.items()
            }
            if benchmark.kind == "indexed":
                rows += what_rows_say(examples, found, words)
        for decoding, answers in logits.items():
            cells.append(_answers(benchmark, examples, decoding, answers, ids))
    return {"cells": [asdict(cell) for cell in cells], "rows": [asdict(row) for row in rows]}


def suite(
    worlds: Sequence[str], split: str, size: int, seed: int, most_images: int = MAX_IMAGES
) -> Iterator[tuple[AbstractEmbedded, bool]]:
    """Benchmarks of the report, and whether FOCUS has anything to do on them."""
    for name in worlds:
        common: dict[str, Any] = {"world": name, "split": split, "seed": seed}
        kinds: dict[str, Any] = dict(KINDS)  # each has settings of its own
        # Four skills take turns.
        yield kinds["single"](size=4 * size, **common), False
        most = min(most_images, MAX_FRAMES // WORLDS[name].frames)
        for number in range(2, most + 1):
            yield kinds["indexed"](size=size, num_images=number, **common), True
        yield kinds["matching"](size=size // 2, direction="text", **common), False
        yield kinds["matching"](size=size // 2, direction="image", **common), True
        for kind in ("which", "same", "counting", "probe"):
            yield kinds[kind](size=size, num_images=2, **common), True
        if most >= 3:
            for kind in ("which", "odd", "same", "counting"):
                yield kinds[kind](size=size, num_images=min(4, most), **common), True


def strategy(seed: int) -> Focus:
    """FOCUS as on every card: one noise image per slot, a branch for each view."""
    return Focus(noise=NoiseConfig(NOISE_NAME, seed=seed), sharing="sample", targets="named")


def rows_said(
    engine: LocalEngine,
    benchmark: AbstractEmbedded,
    examples: Sequence[Example],
    decoding: AbstractDecoding,
    columns: Columns,
) -> list[dict[str, Tensor]]:
    """What every row says of each question: log-probabilities of the first token, by label.

    Raises:
        FocusError: a question that cannot be asked.
    """
    one_token = GenerationSettings(max_new_tokens=1)
    cell = Cell(engine, benchmark, decoding, one_token, decoding.name, columns=columns, ask=asked)
    found = []
    for answer in answered(cell, examples):
        if isinstance(answer, FocusError):
            raise answer
        found.append(rows_of(answer))
    return found


def asked(example: Example) -> Request:
    """A question with one target unit for each of its views."""
    return Request(example.images, example.question, example.id, targets=view_units(example))


def what_rows_say(
    examples: Sequence[Example], found: Evidence, words: Mapping[int, str]
) -> list[Rows]:
    """Counts of what each kind of row answers to indexed questions.

    Args:
        examples: indexed questions, with a branch for each view.
        found: what their rows say.
        words: by token id.
    """
    counts: dict[str, Counter[str]] = {
        row: Counter() for row in ("on target", "off target", "reference")
    }
    answers: dict[str, Counter[str]] = {row: Counter() for row in counts}
    entropies: dict[str, list[float]] = {row: [] for row in counts}
    for q, example in enumerate(examples):
        target = asked_view(example)
        attribute = str(example.metadata["attribute"])
        number = len(example.truths)
        for k, logits in enumerate([*found.branches[:, q], found.reference[q]]):
            said = words[int(logits.argmax())]
            row = "reference" if k == number else "on target" if k == target else "off target"
            answers[row][said] += 1
            entropies[row].append(float(Categorical(logits=logits.double()).entropy()))
            counts[row]["total"] += 1
            counts[row]["right"] += said == example.answer
            counts[row]["unknown"] += said == UNKNOWN
            if row == "off target":
                counts[row]["own"] += said == example.truths[k][attribute]
    return [
        Rows(
            str(examples[0].metadata["world"]),
            len(examples[0].truths),
            row,
            right=count["right"],
            own=count["own"],
            unknown=count["unknown"],
            total=count["total"],
            top=max(answers[row].values()),
            entropy=round(fmean(entropies[row]), 4),
        )
        for row, count in counts.items()
    ]


def _answers(
    benchmark: AbstractEmbedded,
    examples: Sequence[Example],
    decoding: str,
    logits: Mapping[str, Tensor],
    ids: Mapping[str, int],
) -> Answers:
    key = AnswerKey.of(examples, ids, UNKNOWN)
    categories = tuple(dict.fromkeys(example.category for example in examples))
    groups = {name: i for i, name in enumerate(dict.fromkeys(e.group for e in examples))}
    return Answers(
        world=benchmark.world,
        kind=benchmark.kind
        + getattr(benchmark, "direction", "").replace("image", " image").replace("text", " text"),
        num_images=len(examples[0].truths),
        decoding=decoding,
        categories=categories,
        category="".join(str(categories.index(example.category)) for example in examples),
        group=tuple(groups[example.group] for example in examples),
        candidates=read(logits[CANDIDATES], key, CANDIDATES),
        text=read(logits[TEXT], key, TEXT),
    )
