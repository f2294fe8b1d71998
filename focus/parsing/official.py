"""The published parsers, their defects kept: for comparing with published numbers, nothing else.

The first four do what the authors of FOCUS do (GitHub `yejipark-m/FOCUS`, commit 8e04e89, folder
`eval`); the others what the harnesses of Mantis, lmms-eval and VLMEvalKit do. Every defect is
marked DEFECT. Like all parsers here they return None where they find nothing; the default that some
of them put there is the business of the protocol.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_MANTIS_MARKERS = ("final answer:", "the answer is", "answer:")


def after_thinking(text: str) -> str:
    """What follows the last closing tag; the authors do this for one thinking model only."""
    return text.split("</think>\n\n")[-1].strip()


def official_two_letters(text: str) -> str | None:
    """First stand-alone a or b (`winoground.py`, `vismin.py`, `vinoground.py`).

    DEFECT: the article "a" is an answer. DEFECT: the first letter wins, also in "not a but b".

    >>> official_two_letters("It shows a dog, so B.")
    'a'
    """
    text = after_thinking(text).lower().strip().replace(",", "").replace(".", "").strip()
    match = re.search(r"\b([ab])\b", text)
    return match.group(1) if match else None


def official_first_letter(text: str) -> str | None:
    """First a, b, c or d (`muirbench.py`, `mantis.py`).

    DEFECT: letters inside words count. DEFECT: options from E on cannot be chosen.

    >>> official_first_letter("The correct answer is B")
    'c'
    """
    text = text.lower().strip().replace(",", "").replace(".", "")
    match = re.search(r"\(?([abcd])\)?", text)
    return match.group(1) if match else None


def official_mantis_answer(text: str) -> str:
    """What follows the first marker of an answer (`mantis.py`), in lower case."""
    text = text.lower().strip()
    for marker in (*_MANTIS_MARKERS, "prediction:"):
        if marker in text:
            return text[text.index(marker) + len(marker) :].strip()
    return text


def official_exact(text: str, answer: str) -> tuple[str, str]:
    """Prediction and gold as `mirb.py` compares them.

    DEFECT: commas and periods leave the prediction only, brackets the gold only, so that "1,024"
    or "U.S." can never be right.

    >>> official_exact("U.S.", "U.S.")
    ('us', 'u.s.')
    """
    prediction = after_thinking(text).lower().strip().replace(",", "").replace(".", "")
    return prediction, answer.lower().strip().replace("(", "").replace(")", "")


def mantis_harness_letter(text: str, num_options: int) -> str | None:
    """First letter of what follows the marker (Mantis, `mantis/benchmark/eval.py`).

    DEFECT: any alphabetic character counts, so "The second" is option T, and None if that is
    beyond the options.
    """
    lowered = text.lower()
    answer = text
    for marker in _MANTIS_MARKERS:
        if marker in lowered:
            answer = text[lowered.index(marker) + len(marker) :].strip()
            break
    letter = next((character.upper() for character in answer if character.isalpha()), None)
    return letter if letter and 0 <= ord(letter) - ord("A") < num_options else None


def leading_letter(text: str, letters: Sequence[str]) -> str | None:
    """Letter that the text starts with (lmms-eval, `tasks/blink/utils.py`).

    DEFECT: it may begin a word, so "Both" is option B.
    """
    match = re.match(r"[\(\s]*([A-Z])[\)\.\s]*", text.strip(), flags=re.IGNORECASE)
    letter = match.group(1).upper() if match else None
    return letter if letter in letters else None


def only_letter(text: str, letters: Sequence[str], options: Sequence[str]) -> str | None:
    """The only letter that stands alone near the end, or the only option that the text holds
    (VLMEvalKit, `vlmeval/utils/matching_util.py`, commit e8e78f0).

    DEFECT: a letter counts as one among the last five words alone, and the article "A" is one.
    DEFECT: a long answer is not searched for options.

    >>> only_letter("B)", "ABC", ["red", "blue", "Neither A nor B"])
    'B'
    """
    words = re.sub(r"[.()\[\],:;!*#{}]", " ", text).split()
    found = [letter for letter in letters if letter in words]
    if len(found) == 1 and words.index(found[0]) > len(words) - 5:
        return found[0]
    verbose = re.search(r"(?:correct\s+)?answer\s+is\s+\**([ABCD])\**", text, re.IGNORECASE)
    if verbose and verbose.group(1).upper() in letters:
        return verbose.group(1).upper()
    if len(text) > 2 * sum(map(len, options)):
        return None
    named = [k for k, option in enumerate(options) if option.lower() in text.lower()]
    return letters[named[0]] if len(named) == 1 else None


def only_yes_no(text: str) -> str | None:
    """Yes or no where the text holds one of the words and not the other (VLMEvalKit,
    `vlmeval/dataset/mvh_bench.py`, commit 0fa345d).

    DEFECT: "no" counts in "there is no dog, yes".
    """
    found = {word.lower() for word in re.findall(r"\b(yes|no)\b", text, re.IGNORECASE)}
    return found.pop().capitalize() if len(found) == 1 else None
