"""The strict reading of open answers: numbers."""

from __future__ import annotations

import re

from focus.parsing.text import bare, final_answer, plain

_SMALL = ("zero", "one", "two", "three", "four", "five", "six")
_LARGER = ("seven", "eight", "nine", "ten", "eleven", "twelve")
NUMBER_WORDS = {word: str(value) for value, word in enumerate((*_SMALL, *_LARGER))}
_DIGITS = re.compile(r"(?<![\w.])-?\d{1,3}(?:,\d{3})+(?![\w,])|(?<![\w.,])-?\d+(?:\.\d+)?(?!\w)")


def number(text: str) -> str | None:
    """The one number that an answer gives, in digits, or None where it gives none or several.

    Words up to twelve count where there are no digits; "one" only as the whole answer, since it is
    mostly a pronoun.

    >>> number("I count three dogs.")
    '3'
    >>> number("3 dogs and 2 cats") is None
    True
    """
    answer = final_answer(plain(text))
    if bare(answer) in NUMBER_WORDS:
        return NUMBER_WORDS[bare(answer)]
    digits = {_canonical(match) for match in _DIGITS.findall(answer)}
    if not digits:
        words = re.findall(r"\w+", answer.casefold())
        digits = {NUMBER_WORDS[word] for word in words if word in NUMBER_WORDS and word != "one"}
    return digits.pop() if len(digits) == 1 else None


def _canonical(digits: str) -> str:
    value = float(digits.replace(",", ""))
    return str(int(value)) if value.is_integer() else str(value)
