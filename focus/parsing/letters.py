"""The strict reading of lettered options: a letter counts only where it stands as an answer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from focus.parsing.choices import mentioned
from focus.parsing.text import marked, plain

_ANSWER = r"(?:answer|option|choice|letter|prediction)"
_IS = r"(?:\s*(?:is|are|:|=|->|→|would be|should be|must be))*\s*"
_NAMED = rf"(?:(?:the\s+)?{_ANSWER}{_IS})?"
#: What announces an answer. The letter must come next; see `_letter_at`.
_FINAL = rf"\bfinal\s+{_ANSWER}{_IS}{_NAMED}"
_DECLARED = (
    rf"\b(?:(?:correct|right|best|my)\s+{_ANSWER}|answer|prediction)(?:'s letter)?{_IS}{_NAMED}"
    r"|\bnot\s+(?:option\s+)?[(\[]?[A-Z][)\]]?,?\s+but\s+"
    r"|答案(?:应该|应)?(?:是|为|選|选)?\s*:?\s*|(?:选择|选项|选|選)\s*:?\s*"
)
_WEAK = (
    rf"\b(?:option|choice|letter){_IS}"
    rf"|\b(?:choose|pick|select|go with|going with|opt for)\s+{_NAMED}"
)
_CONFIRMED = (
    r"[(\[]?\b([A-Za-z])\b[)\]]?\s+(?:is|seems)\s+(?:the\s+)?(?:correct|right|best|answer)\b"
)
_CONCLUSION = r"(?:\b(?:so|thus|therefore|hence|it is|it's|that is|be|say)|=>|->|→)\s*,?\s*"
_NEGATION = re.compile(
    r"(?:\b(?:not|never|neither|nor|cannot|except|than|instead of)|n't)\s+"
    r"(?:(?:the|an?|option|choice|answer|letter|be|is|to)\s+)*[(\[]?$",
    re.IGNORECASE,
)
_LISTED = re.compile(
    r"[)\]]?\s*(?:,\s*(?:and|or)|[,/&+]|\b(?:and|or|nor|und|oder|et|ou|y|o)\b)\s*"
    r"(?:options?\s+)?[(\[]?(?=[A-Za-z])",
    re.IGNORECASE,
)
#: A lone "a" or "I" is a word of English, and so is any lower-case letter in prose.
_ENDS = re.compile(r"\s*(?:$|[.,;:!?)\]}\"'>\n/&+]|-\s|(?:because|since|as|which|and|or|but)\b)")


def option_letter(text: str, letters: Sequence[str], options: Sequence[str] = ()) -> str | None:
    r"""The one option that an answer chooses, or None where it chooses none or several.

    What counts, the strongest first; inside a rank, different letters make the answer unreadable:

    1. ``\boxed{B}``, ``<answer>B</answer>``, "final answer: B";
    2. "the answer is B", "Answer: (B)", "correct option is B" (also 答案是B);
    3. "option B", "I choose B", "B is correct", "... so B" at the end, a last line that is "B";
    4. an opening "B", "B.", "(B) the dog", "B: ..." that does not begin a copy of all options;
    5. a bracketed "(B)" anywhere;
    6. the text of exactly one option, without its letter.

    Not counted: letters inside words, the article "a" and the pronoun "I", letters beyond the
    options, what is negated ("not A"), and letters of other scripts that look alike.

    Args:
        text: the answer as generated; thinking blocks, markdown and LaTeX are removed.
        letters: the letters on offer, in upper case.
        options: their texts, without letters; empty or wordless ones are ignored.

    >>> option_letter("A dog runs in both, so B", "ABCD")
    'B'
    >>> option_letter("A or B", "ABCD") is None
    True
    """
    text = plain(text)
    boxes = marked(text)
    ranks = (
        [*(_whole(box) or _lead(box, options) for box in boxes), *_announced(_FINAL, text)],
        _announced(_DECLARED, text),
        [*_announced(_WEAK, text), *_confirmed(text), *_concluded(text)],
        [_lead(text, options)],
        _bracketed(text),
    )
    for rank in ranks:
        found = {letter for letter in rank if letter}
        if found:
            letter = found.pop()
            return letter if not found and letter in letters else None
    named = mentioned(boxes[-1] if boxes else text, [_words(option) for option in options])
    return letters[named] if named is not None and named < len(letters) else None


def _letter_at(text: str, start: int) -> tuple[str, int] | None:
    """Letter that stands as an answer at `start`, and where it ends."""
    match = re.match(r"[\s\"'“(\[{<]*([A-Za-z])(?![\w'])", text[start:])
    if not match:
        return None
    letter, end = match[1], start + match.end()
    if (letter.islower() or letter in "AI") and not _ENDS.match(text[end:]):
        return None
    if _may_be_cut_off(letter, text[:end], text[end:]):
        return None
    return letter.upper(), end


def _may_be_cut_off(letter: str, before: str, after: str) -> bool:
    """Whether a text ends with a bare "a" or "i", which may be a word with nothing after it."""
    return letter in "ai" and not after.strip() and before[-2:-1] not in "([\"'"


def _with_listed(text: str, found: tuple[str, int]) -> Iterable[str]:
    """The letter, and those joined to it as in "B and C"."""
    letter, end = found
    yield letter
    while joint := _LISTED.match(text[end:]):
        following = _letter_at(text, end + joint.end())
        if not following:
            return
        letter, end = following
        yield letter


def _announced(pattern: str, text: str) -> list[str]:
    letters: list[str] = []
    for match in re.finditer(pattern, text, re.IGNORECASE):
        found = _letter_at(text, match.end())
        if found and not _NEGATION.search(text[: match.start()]):
            letters += _with_listed(text, found)
    return letters


def _confirmed(text: str) -> list[str]:
    return [
        match[1].upper()
        for match in re.finditer(_CONFIRMED, text)
        if not _NEGATION.search(text[: match.start()])
    ]


def _concluded(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if line.strip()]
    letters = [_whole(lines[-1])] if len(lines) > 1 else []
    end = re.search(rf"{_CONCLUSION}[(\[]?([A-Z])[)\]]?\W*$", text, re.IGNORECASE)
    cut = end and _may_be_cut_off(end[1], text[: end.end(1)], text[end.end(1) :])
    if end and not cut and not _NEGATION.search(text[: end.start(1)]):
        letters.append(end[1].upper())
    return [letter for letter in letters if letter]


def _whole(text: str) -> str | None:
    """The letter that is the whole text, brackets and punctuation aside."""
    match = re.fullmatch(r"\W*([A-Za-z])\W*", text, re.ASCII)
    foreign = re.search(r"[^\W\d_A-Za-z]", text)
    return match[1].upper() if match and not foreign else None


def _lead(text: str, options: Sequence[str]) -> str | None:
    """The letter that opens the text as a label, unless it opens a copy of the options."""
    if whole := _whole(text):
        return whole
    label = re.match(
        r"[\s\"'“]*(?:[(\[]([A-Za-z])[)\]]|([A-Z])(?:[).:,](?![A-Z]\.)|\s+-\s)"
        r"|([A-Z])\s*\n|([a-z])[).:](?=\s|$))",
        text,
    )
    if label:
        letter = next(group for group in label.groups() if group).upper()
        start = label.start(label.lastindex or 0)
        joined = list(_with_listed(text, (letter, start + 1)))
        copied = len(set(joined)) > 1 or _copies_options(text, letter, options)
        return None if copied else letter
    naked = re.match(r"\s*([A-Z])\s+(\S.*)", text, re.DOTALL)
    if naked:
        index = ord(naked[1]) - ord("A")
        named = mentioned(naked[2], [_words(option) for option in options])
        return naked[1] if named == index else None
    return None


def _copies_options(text: str, lead: str, options: Sequence[str]) -> bool:
    """Whether the text repeats the options from the first on, as "A. red B. blue".

    A bracketed "(B)" may also be a mention, as in "(A) since (B) is red": it is a copy where its
    option follows, nothing stands between, or a third label goes on.
    """
    labels = list(re.finditer(r"(?<![\w'])([(\[])?([A-Z])[).:\]](?=\s+\w|\s+[(\[]|$)", text))
    if lead != "A" or len(labels) < 2 or [label[2] for label in labels[:2]] != ["A", "B"]:
        return False
    between = text[labels[0].end() : labels[1].start()]
    rest = _words(text[labels[1].end() :])
    option = _words(options[1]) if len(options) > 1 else ""
    return (
        (not labels[1][1] and bool(rest))
        or not between.strip()
        or (len(labels) > 2 and labels[2][2] == "C")
        or (bool(option) and rest.startswith(option))
    )


def _bracketed(text: str) -> list[str]:
    return [
        match[1]
        for match in re.finditer(r"[(\[]([A-Z])[)\]]", text)
        if not _NEGATION.search(text[: match.start()])
    ]


def _words(option: str) -> str:
    """An option without its own label, its words in lower case."""
    text = re.sub(r"^\s*(?:[(\[][A-Za-z][)\]]|[A-Z][).:])\s*", "", option.replace("<image>", " "))
    return " ".join(re.findall(r"\w+", text.casefold()))
