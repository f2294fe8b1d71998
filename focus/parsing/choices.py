"""The strict reading of worded choices (yes/no, First/Second, True/False)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from focus.parsing.text import final_answer, plain

_NEGATIONS = frozenset({"not", "never", "neither", "nor", "cannot", "than", "isn", "wasn", "t"})
_FILLERS = frozenset({"the", "a", "an", "be", "is", "it", "t", "of"})


def named_choice(text: str, choices: Sequence[str]) -> str | None:
    """The one choice that an answer names, or None where it names none or several.

    What it declares ("answer: ...", boxed) is read first, then the whole text. Choices count as
    whole words, the longest that fits; a negated mention ("first, not second") does not count.

    >>> named_choice("The answer is the second image.", ["First", "Second"])
    'Second'
    >>> named_choice("First or second", ["First", "Second"]) is None
    True
    """
    text = plain(text)
    keys = [" ".join(_words(choice)) for choice in choices]
    declared = final_answer(text)
    for passage in (re.split(r"(?<=[.;!?])\s", declared)[0], declared, text):
        named = mentioned(passage, keys)
        if named is not None:
            return choices[named]
        if passage != text and any(_occurrences(_words(passage), key.split()) for key in keys):
            return None  # the declared answer names several, or denies one
    return None


def mentioned(text: str, keys: Sequence[str]) -> int | None:
    """Index of the only key whose words the text holds, negated mentions aside.

    Args:
        text: prose.
        keys: words in lower case, separated by single spaces; empty ones never match. Of two keys
            where one holds the other ("left", "top left"), the longer counts where it matches.
    """
    words = _words(text)
    whole = [i for i, key in enumerate(keys) if key and key.split() == words]
    if whole:
        return whole[0]
    found = {
        i: [at for at in _occurrences(words, key.split()) if not _negated(words, at)]
        for i, key in enumerate(keys)
    }
    hits = [i for i, places in found.items() if places]
    longest = [
        i for i in hits if not any(i != j and f" {keys[i]} " in f" {keys[j]} " for j in hits)
    ]
    return longest[0] if len(longest) == 1 else None


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _occurrences(words: Sequence[str], part: Sequence[str]) -> list[int]:
    if not part:
        return []
    return [i for i in range(len(words) - len(part) + 1) if words[i : i + len(part)] == part]


def _negated(words: Sequence[str], at: int) -> bool:
    """Whether a negation stands right before, fillers ("not the ...") aside."""
    while at > 0 and words[at - 1] in _FILLERS and words[at - 1] != "t":
        at -= 1
    return at > 0 and words[at - 1] in _NEGATIONS
