"""Cleaning an answer before it is read: thinking blocks, markdown, LaTeX, wide characters."""

from __future__ import annotations

import re
import unicodedata

_TAGS = "think|thinking|thought|reasoning"
_CLOSING = re.compile(rf"</(?:{_TAGS})>", re.IGNORECASE)
_OPENING = re.compile(rf"<(?:{_TAGS})>", re.IGNORECASE)
_LATEX_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf|bf|rm)\s*\{([^{}]*)\}")
_LATEX_DELIMITERS = re.compile(r"\\[()\[\]]|\$+")
_MARKDOWN = re.compile(r"[*`#]+|(?<!\w)_+|_+(?!\w)")
#: Typographic quotes and dashes, and what they are on a keyboard.
_TYPOGRAPHY = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "-"}
)
#: Where a text says that what follows is its answer, the strongest wording first.
_MARKERS = (
    r"final answer\s*(?:is|:|=)+",
    r"(?:the|my) (?:correct |right )?answer\s*(?:is|:|=)+",
    r"\banswer\s*[:=]",
    r"\b(?:the )?answer is\b",
)
_MARKED = (re.compile(r"\\boxed\s*\{([^{}]*)\}"), re.compile(r"<answer>(.*?)</answer>", re.S))


def strip_thinking(text: str) -> str:
    """What stands outside thinking blocks: after the last one, and nothing of one left open.

    >>> strip_thinking("<think>A or B?</think> B")
    ' B'
    """
    return _OPENING.split(_CLOSING.split(text)[-1])[0]


def plain(text: str) -> str:
    r"""Text without thinking, emphasis and LaTeX dress; ``\boxed{..}`` and ``<answer>`` stay.

    Full-width and circled letters become ordinary ones (NFKC), typographic quotes and dashes those
    of a keyboard; look-alikes of other scripts stay what they are.

    >>> plain("**（Ｂ）**")
    '(B)'
    """
    text = unicodedata.normalize("NFKC", strip_thinking(text)).translate(_TYPOGRAPHY)
    text = _LATEX_TEXT.sub(r"\1", text)
    return _MARKDOWN.sub("", _LATEX_DELIMITERS.sub("", text)).strip()


def marked(text: str) -> list[str]:
    r"""Contents of ``\boxed{..}`` and ``<answer>..</answer>``, in a `plain` text."""
    return [content.strip() for pattern in _MARKED for content in pattern.findall(text)]


def final_answer(text: str) -> str:
    """What a `plain` text declares as its answer, to the end of that line; else the whole text.

    Of several declarations of the same strength the last counts.

    >>> final_answer("They differ. Final Answer: two dogs")
    'two dogs'
    """
    boxes = marked(text)
    if boxes:
        return boxes[-1]
    for marker in _MARKERS:
        found = list(re.finditer(marker, text, re.IGNORECASE))
        if found:
            rest = text[found[-1].end() :].strip()
            return rest.splitlines()[0].strip() if rest else ""
    return text.strip()


def bare(text: str) -> str:
    """Lower case, single spaces, no quotes or punctuation around it.

    >>> bare(' "The  Thinker". ')
    'the thinker'
    """
    return " ".join(text.translate(_TYPOGRAPHY).casefold().split()).strip(" .,;:!?\"'()[]")
