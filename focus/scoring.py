"""From an answer's text to a score: pure functions, so that a log can be scored again."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from focus.errors import InvalidValueError


class Answerable(Protocol):
    """What a plain score needs of a question; `Reference` and `Example` have it."""

    @property
    def answer(self) -> str:
        """The right answer."""

    @property
    def choices(self) -> Sequence[str]:
        """What it may be chosen from; empty for open questions."""

    @property
    def distractors(self) -> Sequence[str]:
        """Answers that another image of the question would make true."""


@dataclass(frozen=True)
class Reference:
    """What an answer is scored against: all that a record keeps of its question, no images.

    Args:
        answer: the right answer; one of `choices` where there are any.
        choices: what it was chosen from.
        distractors: answers that another image of the question would make true.
        category: the row of the per-category table.
        metadata: what the benchmark's own parsers need (option texts, metric, several golds).
    """

    answer: str
    choices: tuple[str, ...] = ()
    distractors: tuple[str, ...] = ()
    category: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Reference:
        """Reference of one line of `records.jsonl`."""
        return cls(
            answer=record["answer"],
            choices=tuple(record.get("choices") or ()),
            distractors=tuple(record.get("distractors") or ()),
            category=record.get("category") or "",
            metadata=record.get("metadata") or {},
        )


@dataclass(frozen=True)
class Score:
    """How one answer was read.

    Args:
        parsed: what the text was read as, a choice where there are any; None where it was read as
            nothing.
        correct: whether it earns the whole credit. Unparsed answers are wrong.
        leaked: whether it is what another image of the question would have made true.
        credit: the part of the credit that a graded metric (F1, ROUGE) gives, in [0, 1]; None
            where an answer is right or wrong.
        fallback: `parsed` is not in the text: the protocol puts it where it finds nothing.
    """

    parsed: str | None
    correct: bool
    leaked: bool = False
    credit: float | None = None
    fallback: bool = False

    def __post_init__(self) -> None:
        if self.credit is not None and not 0 <= self.credit <= 1:
            raise InvalidValueError("credit", self.credit, "in [0, 1], or None")

    @property
    def value(self) -> float:
        """The credit earned, in [0, 1]: what a benchmark's mean is taken over."""
        return float(self.correct) if self.credit is None else self.credit

    @property
    def unparsed(self) -> bool:
        """Whether no choice, or more than one, was found in the text."""
        return self.parsed is None or self.fallback


Scorer = Callable[[str, Reference], Score]
"""A parser with its metric: text of an answer and its reference to a score."""


def score_parsed(
    parsed: str | None, reference: Answerable, *, fallback: str | None = None
) -> Score:
    """Score of an answer that a parser has read already.

    Args:
        parsed: what it was read as, or None.
        reference: what it is compared with.
        fallback: what the protocol takes an unreadable answer for.
    """
    taken = parsed if parsed is not None else fallback
    return Score(
        parsed=taken,
        correct=taken is not None and taken == reference.answer,
        leaked=taken is not None and taken in reference.distractors,
        fallback=parsed is None and fallback is not None,
    )


def parse_choice(text: str, choices: Sequence[str]) -> str | None:
    """The one choice that a text names, or None where it names none or several.

    A choice counts only as whole words, so the article in "a dog" is not the option "A" unless the
    whole answer is that letter, and "redder" is not "red". There is no fallback: reading an
    unparsed answer as some default choice would reward whatever the default is.

    >>> parse_choice("The second image.", ["first", "second"])
    'second'
    >>> parse_choice("first or second", ["first", "second"]) is None
    True
    """
    words = _words(text)
    exact = [choice for choice in choices if _words(choice) == words]
    if exact:
        return exact[0]
    found = {choice for choice in choices if len(choice) > 1 and _contains(words, _words(choice))}
    # "top left" contains "left": the longer choice is the one that was meant.
    maximal = [
        c for c in found if not any(c != d and _contains(_words(d), _words(c)) for d in found)
    ]
    return maximal[0] if len(maximal) == 1 else None


def score_answer(text: str, reference: Answerable) -> Score:
    """Scores an answer; without choices, equal words count as correct."""
    choices = reference.choices or (reference.answer, *reference.distractors)
    return score_parsed(parse_choice(text, choices), reference)


def choice_tokens(tokenizer: Any, choices: Sequence[str]) -> list[tuple[int, ...]]:
    """Tokens of each choice; empty where these do not tell the choices apart."""
    encoded = [tuple(tokenizer.encode(choice, add_special_tokens=False)) for choice in choices]
    return encoded if all(encoded) and len(set(encoded)) == len(choices) else []


def first_tokens(tokenizer: Any, choices: Sequence[str]) -> list[int]:
    """First token of each choice; empty where these do not tell the choices apart."""
    tokens = [ids[0] for ids in choice_tokens(tokenizer, choices)]
    return tokens if len(set(tokens)) == len(tokens) else []


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _contains(words: Sequence[str], part: Sequence[str]) -> bool:
    return any(words[i : i + len(part)] == part for i in range(len(words) - len(part) + 1))
