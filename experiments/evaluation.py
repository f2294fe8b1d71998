"""Running a strategy over a benchmark: one record per question, resumable."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from torch import Tensor

from analysis.breakdown import breakdown
from analysis.summary import summarise
from experiments.logging import ReportedProgress, Run
from focus.benchmarks import AbstractBenchmark, Example
from focus.decoding import AbstractDecoding, Decoded, GenerationSettings, Request
from focus.decoding.base import REQUEST_ERRORS
from focus.engines import AbstractEngine
from focus.errors import (
    DatasetSchemaError,
    FocusError,
    InvalidValueError,
    TooManyFailuresError,
)
from focus.models import VisionLanguageModel
from focus.records import Record, RecordFile, digest
from focus.scoring import Score, choice_tokens, first_tokens


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
    """

    engine: AbstractEngine
    benchmark: AbstractBenchmark
    decoding: AbstractDecoding
    settings: GenerationSettings
    decoding_name: str
    seed: int | None = None
    order: int = 0

    @property
    def vlm(self) -> VisionLanguageModel:
        """The model that answers."""
        return self.engine.vlm

    def request(self, example: Example) -> Request:
        """What the strategy is asked."""
        request = request_of(self.benchmark, example, budget=self.vlm.budget)
        tokens = choice_tokens(self.vlm.processor.tokenizer, example.choices)
        if any(len(ids) > 1 for ids in tokens):  # otherwise the first step of the answer has all
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


#: What is wrong with one question and not with the run.
ITEM_ERRORS = (*REQUEST_ERRORS, DatasetSchemaError)
#: Share of questions that may fail; a run is given up when more have, of `FEWEST` at the least.
MOST_FAILED, FEWEST = 0.05, 20


def evaluate_cell(
    cell: Cell, records: RecordFile, progress: Progress, *, limit: int | None
) -> None:
    """Answers every question that has no record yet and appends its record.

    A question that cannot be processed is recorded with its error and counts as wrong.

    Raises:
        TooManyFailuresError: more than 5% of the questions failed; all records are kept.
        RecordsConflictError: a question is no longer what it was when it was recorded.
        InvalidValueError: the benchmark has no question.
    """
    if not len(cell.benchmark):
        raise InvalidValueError("benchmark", cell.benchmark.name, "one with questions in this part")
    total = len(cell.benchmark) if limit is None else min(limit, len(cell.benchmark))
    labels = {**cell.labels, "config": records.config_hash}
    mine = [index for index in range(total) if records.shard is None or index in records.shard]
    task = progress.add_task(cell.title, total=len(mine))
    earlier = {  # of sessions before this one; a second call is no way past the limit
        record["index"]: record["error"]
        for record in records.records
        if record.get("error") and cell.labels.items() <= record.items()
    }
    failures: list[str] = []
    done = 0
    for start in range(0, len(mine), cell.engine.batch):
        part = mine[start : start + cell.engine.batch]
        answers = answered(cell, part, labels, records)
        for index in part:
            done += 1
            record = answers.get(index)
            if record is not None:
                records.append(record)
            error = earlier.get(index) if record is None else record["error"]
            failures += [error] if error else []
            if len(failures) > MOST_FAILED * max(done, FEWEST):
                raise TooManyFailuresError(_failures(cell, failures, done))
        progress.advance(task, len(part))
    if len(failures) > MOST_FAILED * len(mine):
        raise TooManyFailuresError(_failures(cell, failures, len(mine)))


def answered(
    cell: Cell, indices: Sequence[int], labels: Mapping[str, Any], records: RecordFile
) -> dict[int, Record]:
    """Records of the questions at `indices`, asked together; those with nothing (left) to ask
    are left out."""
    found: dict[int, Record] = {}
    examples: dict[int, Example] = {}
    for index in indices:
        try:
            example = cell.benchmark[index]
        except ITEM_ERRORS as caught:
            own = {**labels, "id": f"#{index}"}
            if own not in records:
                found[index] = {**own, "index": index, **failed_answer(None, caught)}
            continue
        turned = cell.order and len(example.permutation) <= cell.order  # full circle
        asked = {"id": example.id, "answer": example.answer, "prompt_hash": prompt_hash(example)}
        if not turned and {**labels, **asked} not in records:
            examples[index] = example
    requests = [cell.request(example) for example in examples.values()]
    answers = cell.decoding.decode_many(cell.engine, requests, cell.settings, keep_logits="first")
    for (index, example), answer in zip(examples.items(), answers, strict=True):
        own = {**labels, "id": example.id, "index": index}
        if isinstance(answer, FocusError):
            found[index] = {**own, **failed_answer(example, answer)}
        else:
            found[index] = {**own, **answer_record(cell, example, answer), "error": None}
    return found


def _failures(cell: Cell, errors: Sequence[str], asked: int) -> str:
    kinds = Counter(error.partition(":")[0] for error in errors)
    counted = ", ".join(f"{count} x {kind}" for kind, count in kinds.most_common())
    return (
        f"{len(errors)} of {asked} questions of {cell.title} could not be processed ({counted}), "
        f"more than {MOST_FAILED:.0%}; the first: {errors[0]} (all are in the records; "
        "retry_failed=true asks these questions again)"
    )


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
        **row_records(cell.vlm, decoded, example),
        "budget": cell.vlm.budget,
        "image_tokens": list(decoded.image_tokens),
        "noise_mean": decoded.noise_mean,
        "noise_std": decoded.noise_std,
        "num_rows": decoded.num_rows,
        "num_encoded": decoded.num_encoded,
        "prompt_tokens": decoded.prompt_tokens,
        "prompt_hash": prompt_hash(example),
        "seconds": round(decoded.seconds, 5),
    }


def prompt_hash(example: Example) -> str:
    """Identity of the text that a model reads."""
    return digest([example.question, example.system or None])


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


def row_records(vlm: VisionLanguageModel, decoded: Decoded, example: Example) -> Record:
    """The first step, row by row: what each would say, and log-probabilities of the choices.

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


def set_threads(threads: int | None) -> None:
    """Number of threads that PyTorch computes with; None leaves its own choice.

    Raises:
        InvalidValueError: not a positive integer.
    """
    if threads is None:
        return
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InvalidValueError("threads", threads, "a positive integer, or null")
    torch.set_num_threads(threads)


def write_summary(folder: Path, records: list[Record], **extra: Any) -> list[dict[str, Any]]:
    """Writes `summary.json` and returns its rows."""
    rows = summarise(records)
    extra = {"breakdown": breakdown(records), **extra}
    text = json.dumps({"rows": rows, **extra}, indent=2, ensure_ascii=False)
    (folder / "summary.json").write_text(text + "\n", encoding="utf-8")
    return rows


class RateColumn(ProgressColumn):
    """Questions per second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s")


@contextmanager
def progress_bars(console: Console, run: Run | None = None) -> Iterator[Progress]:
    """One bar per cell, with rate and remaining time; reported to a run as well."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        RateColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with ReportedProgress(run or Run(), *columns, console=console, refresh_per_second=4) as bars:
        yield bars


def make_console() -> Console:
    """Console that does not fold wide tables where there is no terminal to fit into."""
    width = max(160, shutil.get_terminal_size().columns)
    console = Console()
    return console if console.is_terminal else Console(width=width)
