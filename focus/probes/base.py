"""What every probe is: from questions to observations, one list for each question."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from focus.benchmarks.base import AbstractBenchmark, Example
from focus.decoding.base import AbstractDecoding, GenerationSettings, Request
from focus.errors import FocusError, InvalidValueError
from focus.models.loading import VisionLanguageModel
from focus.reading import Reader
from focus.scoring import first_tokens

#: One thing that was seen, as a record keeps it.
Observation = dict[str, Any]
#: What a choice is to its question.
KINDS = ("right", "leaked", "other")


@dataclass(frozen=True)
class Question:
    """A question that a probe can ask.

    Args:
        benchmark: it belongs to.
        index: in the benchmark.
        example: itself.
        request: what a strategy would be asked.
        tokens: first token of each choice.
    """

    benchmark: AbstractBenchmark
    index: int
    example: Example
    request: Request
    tokens: tuple[int, ...]

    @classmethod
    def of(
        cls,
        vlm: VisionLanguageModel,
        benchmark: AbstractBenchmark,
        index: int,
        example: Example,
        request: Request,
    ) -> Question | None:
        """The question; None where there is nothing to see: one image, or choices that their first
        tokens do not tell apart."""
        tokens = first_tokens(vlm.processor.tokenizer, example.choices)
        if len(example.images) < 2 or len(tokens) < 2:
            return None
        return cls(benchmark, index, example, request, tuple(tokens))

    def kind(self, choice: str) -> str:
        """Which of `KINDS` a choice is."""
        if choice == self.example.answer:
            return "right"
        return "leaked" if choice in self.example.distractors else "other"

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """Of the choices among themselves: ``[..., vocab]`` to ``[..., choices]``, in nats."""
        return logits[..., list(self.tokens)].log_softmax(dim=-1)

    def said(self, logits: Tensor) -> str:
        """The most likely choice after the prompt, of ``[vocab]``."""
        return self.example.choices[int(logits[list(self.tokens)].argmax())]


class AbstractProbe(ABC):
    """A probe: a frozen dataclass of its settings that looks into a model."""

    name: ClassVar[str]
    #: Whether questions that share images would give away what is asked of others.
    one_per_cluster: ClassVar[bool] = False
    #: Whether what is seen of a question depends on which others are asked.
    borrows: ClassVar[bool] = False
    #: What a benchmark must be where `asks` is True of none of its questions.
    needs: ClassVar[str] = "any"

    def asks(self, question: Question) -> bool:
        """Whether the benchmark knows of a question what this probe needs to know."""
        return True

    @abstractmethod
    def observe(
        self, reader: Reader, questions: Sequence[Question], chunk: Sequence[int], folder: Path
    ) -> list[list[Observation]]:
        """What is seen of some questions; the model is left as it was found.

        Args:
            reader: of the model.
            questions: all that are asked, for probes that borrow images of others.
            chunk: indices of those to look at.
            folder: for what is too large for a record.

        Returns:
            A list for each of the chunk, JSON-serialisable.
        """


def first_logits(
    reader: Reader,
    requests: Sequence[Request],
    tokens: Sequence[int],
    decoding: AbstractDecoding | None = None,
) -> Tensor:
    """Logits of some tokens in the distribution of the first one: ``[requests, tokens]``, float32.

    Args:
        reader: of the model.
        requests: what is asked.
        tokens: ids.
        decoding: the strategy; None for plain passes, with what is planted around them.

    Raises:
        FocusError: a request that the strategy cannot answer.
    """
    found = torch.zeros(len(requests), len(tokens))
    if decoding is None:
        readings = [reader.reading(request) for request in requests]
        for indices in reader.batches(readings):
            found[indices] = reader.logits([readings[i] for i in indices])[:, list(tokens)]
        return found
    settings = GenerationSettings(max_new_tokens=1)
    answers = decoding.decode_many(reader.engine, requests, settings, keep_logits="first")
    for i, answer in enumerate(answers):
        if isinstance(answer, FocusError):
            raise answer
        found[i] = answer.combined_logits[0][0][list(tokens)].float().cpu()
    return found


def parts(number: int, most: int) -> list[tuple[int, ...]]:
    """Numbers from 0 in at most so many runs of about equal length.

    >>> parts(7, 3)
    [(0, 1, 2), (3, 4), (5, 6)]
    """
    count = min(number, most)
    bounds = [-(-k * number // count) for k in range(count + 1)]
    return [tuple(range(a, b)) for a, b in itertools.pairwise(bounds)]


def spread(number: int, most: int | None) -> tuple[int, ...]:
    """At most so many of the numbers from 0, evenly spread, the first and the last among them.

    >>> spread(9, 3), spread(3, None)
    ((0, 4, 8), (0, 1, 2))
    """
    if most is None or most >= number:
        return tuple(range(number))
    return tuple(dict.fromkeys(round(k * (number - 1) / (most - 1)) for k in range(most)))


def group_means(groups: Sequence[Sequence[Tensor]]) -> Callable[[Tensor], Tensor]:
    """Means of states over groups of tokens, for `focus.hooks.captured`.

    Args:
        groups: of each row, its groups ``[length]``: as many for every row, each may be empty.

    Returns:
        From ``[rows, length, hidden]`` to ``[rows, groups, hidden]``; zero for an empty group.
    """
    weights = torch.stack([torch.stack(list(each)).float() for each in groups])
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=1)
    return lambda hidden: torch.einsum("rgt,rth->rgh", weights.to(hidden), hidden)


def digits(value: float) -> float:
    """Six significant ones: the rest depends on the machine."""
    return float(f"{value:.6g}")


def check_count(name: str, value: object, least: int, *, optional: bool = False) -> None:
    """Raises `InvalidValueError` unless `value` is an integer of at least `least`, or None."""
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        accepted = f"an integer of at least {least}" + (", or null for all" if optional else "")
        raise InvalidValueError(name, value, accepted)


def check_strategies(strategies: Mapping[str, object], taken: Collection[str]) -> None:
    """Raises `InvalidValueError` for a strategy that is called as something else already is."""
    if set(strategies) & set(taken):
        accepted = f"called otherwise than {', '.join(taken)}"
        raise InvalidValueError("strategies", sorted(strategies), accepted)


def facts(question: Question) -> Mapping[str, Any]:
    """What a record keeps of its question."""
    example = question.example
    return {
        "id": example.id,
        "index": question.index,
        "cluster": example.cluster or example.id,
        "category": example.category,
        "num_images": len(example.images),
        "traceable": bool(example.distractors),
    }
