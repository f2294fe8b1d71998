"""Reading answers off first-token logits: over the whole vocabulary, or among the candidates.

An answer is kept as one character, its mark: ``+`` right, ``x`` wrong and true of another image of
the question (leaked), ``?`` "unknown", ``-`` otherwise wrong. A line of marks holds all that
accuracies, leakage rates, intervals and paired differences need.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from focus.errors import InvalidValueError, UnknownNameError
from focus.scoring import Answerable

MARKS = "-+x?"
WRONG, RIGHT, LEAKED, ABSTAINED = range(len(MARKS))
TEXT, CANDIDATES = "text", "candidates"
READINGS = (TEXT, CANDIDATES)


@dataclass(frozen=True)
class AnswerKey:
    """What each token would be as an answer to each question.

    Args:
        code: ``[questions, vocabulary]``, index into `MARKS`.
        candidates: ``[questions, vocabulary]``, whether a token is one of the question's choices.
    """

    code: np.ndarray
    candidates: np.ndarray

    @classmethod
    def of(
        cls,
        questions: Sequence[Answerable],
        ids: Mapping[str, int],
        unknown: str | None,
        width: int = 0,
    ) -> AnswerKey:
        """Key of questions whose choices begin with different tokens.

        Args:
            questions: with their choices, answers and distractors.
            ids: column of each of these in logits: the token that it begins with.
            unknown: what a model says that abstains; None of one that was not taught to.
            width: number of tokens that may be said, where there are more than those of answers.

        Raises:
            UnknownNameError: a choice is no token.
        """
        shape = (len(questions), max(width, max(ids.values()) + 1))
        code, candidates = np.full(shape, WRONG, np.uint8), np.zeros(shape, bool)
        for row, question in enumerate(questions):
            for choice in question.choices:
                if choice not in ids:
                    raise UnknownNameError("token", choice, ids)
                candidates[row, ids[choice]] = True
            if unknown is not None:
                code[row, ids[unknown]] = ABSTAINED
            code[row, [ids[word] for word in question.distractors]] = LEAKED
            code[row, ids[question.answer]] = RIGHT
        return cls(code, candidates)


def read(logits: Tensor, key: AnswerKey, reading: str) -> str:
    """Marks of the most likely answers, one character per question. Where a rule has left no answer
    possible it is wrong.

    Args:
        logits: ``[questions, vocabulary]``; tokens beyond the key are never answers.
        key: of the questions.
        reading: ``text``, what greedy decoding says, or ``candidates``, the best choice.
    """
    best, said = _masked(logits, key, reading).max(-1)
    codes = np.where(best.isneginf(), WRONG, key.code[np.arange(len(said)), said])
    return "".join(MARKS[code] for code in codes)


def choose_answers(logits: Tensor, key: AnswerKey, reading: str) -> np.ndarray:
    """Columns of the most likely answers: ``[questions]``; see `read`."""
    said: np.ndarray = _masked(logits, key, reading).argmax(-1).numpy()
    return said


def right_probability(
    logits: Tensor, key: AnswerKey, reading: str, temperature: float
) -> np.ndarray:
    """Probability of the right answer at a temperature: ``[questions]``, in [0, 1].

    The expected accuracy of sampling one token, without the spread of a draw.

    Raises:
        InvalidValueError: a temperature of 0 or less.
    """
    if not temperature > 0:
        raise InvalidValueError("temperature", temperature, "above 0")
    p = (_masked(logits.double(), key, reading) / temperature).softmax(-1)
    return (p * torch.from_numpy(key.code == RIGHT)).sum(-1).numpy()


def _masked(logits: Tensor, key: AnswerKey, reading: str) -> Tensor:
    if reading not in READINGS:
        raise InvalidValueError("reading", reading, f"one of {', '.join(READINGS)}")
    logits = logits[:, : key.code.shape[1]]
    if reading == TEXT:
        return logits
    return logits.masked_fill(~torch.from_numpy(key.candidates), -torch.inf)


def share(marks: str, mark: str = "+") -> float:
    """Share of one mark.

    >>> share("++x-")
    0.5
    """
    return marks.count(mark) / len(marks)
