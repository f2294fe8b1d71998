"""A strategy on a benchmark: what is asked, and the record of an answer.

Everything that is evaluated goes this way, whoever asks: evaluations, the demo, ablations,
forecasts and the cards of the embedded models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from focus.benchmarks import AbstractBenchmark, Example
from focus.decoding import AbstractDecoding, Decoded, GenerationSettings, Request
from focus.decoding.base import REQUEST_ERRORS
from focus.engines import AbstractEngine
from focus.errors import DatasetSchemaError, FocusError
from focus.evidence import Columns, packed
from focus.models import VisionLanguageModel
from focus.records import Record, digest
from focus.scoring import Score, choice_tokens, first_tokens

#: What is wrong with one question and not with the run.
ITEM_ERRORS = (*REQUEST_ERRORS, DatasetSchemaError)


@dataclass(frozen=True)
class Cell:
    """One benchmark under one strategy and model: the unit of evaluation.

    Args:
        engine: the model, and how many questions it takes at once.
        benchmark: its questions.
        decoding: the strategy.
        settings: how tokens are chosen.
        decoding_name: how records and tables call the strategy.
        seed: of noise and sampling; None for a strategy that draws nothing.
        order: which order of options or images is asked, see `AbstractBenchmark.orders`.
        columns: the tokens whose log-probabilities are recorded of every row; None for those of the
            choices.
        ask: makes a request of a question; None for `request_of`.
    """

    engine: AbstractEngine
    benchmark: AbstractBenchmark
    decoding: AbstractDecoding
    settings: GenerationSettings
    decoding_name: str
    seed: int | None = None
    order: int = 0
    columns: Columns | None = None
    ask: Callable[[Example], Request] | None = None

    @property
    def vlm(self) -> VisionLanguageModel:
        """The model that answers."""
        return self.engine.vlm

    def request(self, example: Example) -> Request:
        """What the strategy is asked."""
        if self.ask is not None:
            request = self.ask(example)
        else:
            request = request_of(self.benchmark, example, budget=self.vlm.budget)
        if self.columns is not None:  # the first step of the answer has all
            return request
        tokens = choice_tokens(self.vlm.processor.tokenizer, example.choices)
        if any(len(ids) > 1 for ids in tokens):  # otherwise the first step has all here, too
            request = replace(request, candidates=example.choices)
        return request

    @property
    def labels(self) -> dict[str, Any]:
        """What tells its records from those of other cells."""
        return {
            "benchmark": self.benchmark.name,
            "model": self.vlm.name,
            "decoding": self.decoding_name,
            "seed": self.seed,
            "order": self.order,
        }

    @property
    def title(self) -> str:
        """What the progress bar says."""
        extra = [f"order {self.order}"] if self.order else []
        extra += [f"seed {self.seed}"] if self.seed else []
        return " · ".join([self.benchmark.name, self.vlm.name, self.decoding_name, *extra])


def variants(cell: Cell, *, orders: int, noise_seeds: int) -> list[Cell]:
    """The cell in every order that is asked for, and its first order under further noise seeds.

    Args:
        cell: the plain cell.
        orders: how many orders, at most; a benchmark may allow fewer.
        noise_seeds: how many seeds; strategies without noise have one.
    """
    reordered = [
        replace(cell, benchmark=cell.benchmark.reordered(order), order=order)
        for order in range(min(orders, cell.benchmark.orders))
    ]
    if cell.decoding.reseeded(1) is None:
        return reordered
    reseeded = [
        replace(
            cell,
            decoding=cast(AbstractDecoding, cell.decoding.reseeded(k)),
            settings=replace(cell.settings, seed=cell.settings.seed + k),
            seed=k,
        )
        for k in range(1, noise_seeds)
    ]
    return [*reordered, *reseeded]


def answered(cell: Cell, examples: Sequence[Example]) -> list[Record | FocusError]:
    """Records of questions that are asked together, without the labels of their cell.

    In place of one that cannot be answered stands its error.
    """
    requests = [cell.request(example) for example in examples]
    found = cell.decoding.decode_many(cell.engine, requests, cell.settings, keep_logits="first")
    return [
        answer if isinstance(answer, FocusError) else answer_record(cell, example, answer)
        for example, answer in zip(examples, found, strict=True)
    ]


def failed_answer(example: Example | None, error: Exception) -> Record:
    """What is recorded instead of an answer; the question may not even have been readable."""
    known = example or Example(id="", images=(), question="", answer="")
    return {
        **question_fields(known),
        "text": "",
        **score_fields(Score(None, correct=False)),
        "choice_answer": None,
        "truncated": False,
        "seconds": 0.0,
        "error": f"{type(error).__name__}: {error}",
    }


def answer_record(cell: Cell, example: Example, decoded: Decoded) -> Record:
    """The record of one answer, without the labels of its cell."""
    score = cell.benchmark.score(decoded.text, example.reference)
    return {
        **question_fields(example),
        "text": decoded.text,
        "truncated": decoded.truncated[0],
        **score_fields(score),
        **row_records(cell.vlm, decoded, example, cell.columns),
        "budget": cell.vlm.budget,
        "image_tokens": list(decoded.image_tokens),
        "noise_mean": decoded.noise_mean,
        "noise_std": decoded.noise_std,
        "num_rows": decoded.num_rows,
        "num_encoded": decoded.num_encoded,
        "prompt_tokens": decoded.prompt_tokens,
        **identity_fields(example),
        "seconds": round(decoded.seconds, 5),
        "error": None,
    }


def identity_fields(example: Example) -> Record:
    """By which a question is known to be what it was when it was answered, beside its answer: the
    text that a model reads, and the pixels."""
    return {
        "prompt_hash": digest([example.question, example.system or None]),
        "images_hash": example.images_hash,
    }


def question_fields(example: Example) -> Record:
    """What a record keeps of its question."""
    return {
        "category": example.category,
        "group": example.group,
        "cluster": example.cluster,
        "answer": example.answer,
        "permutation": list(example.permutation),
        "traceable": bool(example.distractors),
        "distractors": list(example.distractors),
        "choices": list(example.choices),
        "targets": list(example.targets),
        "truths": [dict(truth) for truth in example.truths],
        "metadata": dict(example.metadata),
        "num_images": len(example.images),
    }


def request_of(
    benchmark: AbstractBenchmark, example: Example, *, budget: str = "checkpoint"
) -> Request:
    """What a strategy is asked; benchmark and example are the key of every draw.

    Args:
        benchmark: that asks.
        example: one of its questions.
        budget: of the model's images; the published one has a size of its own for some benchmarks.
    """
    images, squared = example.images, benchmark.published_size
    if squared and budget == "published":
        images = tuple(image.resize(squared) for image in images)
    return Request(
        images=images,
        question=example.question,
        sample_id=f"{benchmark.name}/{example.id}",
        system=example.system or None,
        targets=example.targets or None,
        published_single=benchmark.published_single,
    )


def score_fields(score: Score) -> Record:
    """What a record keeps of a score."""
    return {
        "parsed": score.parsed,
        "correct": score.correct,
        "score": score.value,
        "leaked": score.leaked,
        "unparsed": score.unparsed,
    }


def row_records(
    vlm: VisionLanguageModel, decoded: Decoded, example: Example, columns: Columns | None = None
) -> Record:
    """The first step, row by row: what each would say, and log-probabilities of the choices, or of
    columns (`focus.evidence.rows_of` reads either).

    There are two readings of an answer: the generated text, and the most likely of the candidate
    answers (`choice_answer`), which a model cannot evade by saying something else. Choices of one
    token each are read from the first step of the answer; others had a pass of their own and have
    the log-likelihood of all of their tokens, not normalised by their length. Where a strategy has
    ruled out every choice, `choice_answer` is empty, which is never right.
    """
    nothing = {"choice_answer": None, "choice_logprobs": None, "row_logprobs": None}
    if not decoded.branch_logits:
        return {"row_tops": None, **nothing}
    rows = dict(zip(decoded.row_labels, decoded.branch_logits[0][:, 0], strict=True))
    tops = {
        label: vlm.processor.tokenizer.decode([int(row.argmax())]).strip()
        for label, row in rows.items()
    }
    if columns is not None:
        kept = {label: packed(columns.of(row.log_softmax(dim=-1))) for label, row in rows.items()}
        return {"row_tops": tops, **nothing, "row_columns": kept}
    scored = decoded.scored
    if scored is not None:
        combined = values = scored.combined
        by_row = torch.stack([each.sum(dim=1) for each in scored.rows], dim=1)
    elif tokens := first_tokens(vlm.processor.tokenizer, example.choices):
        combined = decoded.combined_logits[0][0][tokens]
        values = decoded.combined_logits[0][0].log_softmax(dim=-1)[tokens]
        by_row = torch.stack([row.log_softmax(dim=-1)[tokens] for row in rows.values()])
    else:
        return {"row_tops": tops, **nothing}

    def rounded(values: Tensor) -> list[float | None]:
        return [round(v, 4) if math.isfinite(v) else None for v in values.tolist()]

    best = int(combined.argmax())
    return {
        "row_tops": tops,
        "choice_answer": example.choices[best] if bool(combined[best].isfinite()) else "",
        "choice_logprobs": rounded(values),
        "row_logprobs": {label: rounded(each) for label, each in zip(rows, by_row, strict=True)},
    }
