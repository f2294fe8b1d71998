"""From an answer's text to a score: pure functions, so that a log can be scored again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from focus.benchmarks.base import Example


@dataclass(frozen=True)
class Score:
    """How one answer was read.

    Args:
        parsed: the choice that the text was read as; None where it was read as none.
        correct: whether that choice is the right one. Unparsed answers are wrong.
        leaked: whether it is what another image of the question would have made true.
    """

    parsed: str | None
    correct: bool
    leaked: bool

    @property
    def unparsed(self) -> bool:
        """Whether no choice, or more than one, was found in the text."""
        return self.parsed is None


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


def score_answer(text: str, example: Example) -> Score:
    """Scores an answer to `example`; without choices, equal words count as correct."""
    choices = example.choices or (example.answer, *example.distractors)
    parsed = parse_choice(text, choices)
    return Score(
        parsed, parsed == example.answer, parsed is not None and parsed in example.distractors
    )


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _contains(words: Sequence[str], part: Sequence[str]) -> bool:
    return any(words[i : i + len(part)] == part for i in range(len(words) - len(part) + 1))
