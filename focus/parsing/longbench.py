"""Readings and metrics of MMLongBench (`EdinburghNLP/MMLongBench`, `utils.py`).

The authors of FOCUS carry a port of them (`eval/mmlongbench.py`, commit 8e04e89) that differs in
one point: articles go before punctuation (`articles_first`), so that "the-cat" becomes "cat" there
and "thecat" in the original.
"""

from __future__ import annotations

import json
import math
import re
import string
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from focus.parsing.optional import optional_module

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_UNITS = (
    *("kg", "meters", "acres", "minutes", "miles", "mile", "feet"),
    *("million", "thousand", "billion", "mm", "m"),
)
#: Answers that are compared as they stand: links, files, pages, times, dates, addresses.
_VERBATIM = (
    r"https://",
    r".*\.(py|ipynb)$",
    r"^page",
    r"^\d+(-\d+|\s\d+)?$",
    r"(a\.m\.|p\.m\.)",
    r"^\d{4}[-/\s]\d{1,2}[-/\s]\d{1,2}$",
    r"^\d{1,2}[-/\s]\d{1,2}[-/\s]\d{2,4}$",
    r"^\d{4}[-/\s]\d{1,2}$",
    r"^[a-zA-Z0-9._%+-]+@[a-zA-Z0-9.-]+\.[a-zA-Z]{2,}$",
)


def after_prefix(text: str, prefix: str) -> str:
    """What follows the first ``Answer:`` (or ``label:``, ``Summary:``), else the whole text.

    >>> after_prefix("It is here. answer: Answer: yes", "Answer:")
    'yes'
    """
    match = re.search(f"{re.escape(prefix)}(.*)", text, re.IGNORECASE | re.DOTALL)
    rest = (match[1] if match else text).strip()
    return re.sub(f"^{re.escape(prefix)}", "", rest, flags=re.IGNORECASE).strip()


def normalise(text: str, *, articles_first: bool = False) -> str:
    """Lower case without articles, punctuation and surplus spaces.

    >>> normalise("The-cat, a dog."), normalise("The-cat", articles_first=True)
    ('thecat dog', 'cat')
    """
    text = text.lower()
    if articles_first:
        text = _ARTICLES.sub(" ", text).translate(_PUNCTUATION)
    else:
        text = _ARTICLES.sub(" ", text.translate(_PUNCTUATION))
    return " ".join(text.split())


def contains(text: str, golds: Sequence[str], *, articles_first: bool = False) -> bool:
    """Whether a gold answer is part of the text, both normalised ("substring exact match")."""
    said = normalise(text, articles_first=articles_first)
    return any(normalise(gold, articles_first=articles_first) in said for gold in golds)


def last_yes_no(text: str) -> int | None:
    """1 for yes and 0 for no, whichever stands last; a bare number for itself."""
    text = " ".join(_ARTICLES.sub(" ", text.lower()).split())
    words = re.findall(r"\b(?:yes|no)\b", text)
    if words:
        return int(words[-1] == "yes")
    return int(text) if text.isdigit() else None


def counts(text: str) -> list[int]:
    """Numbers of the last bracketed list, or all digits of the text.

    >>> counts("I see [1, 2], so [2, 0]"), counts("two 3 and 4")
    ([2, 0], [3, 4])
    """
    text = " ".join(_ARTICLES.sub(" ", text.lower()).split())
    for pattern in (r"\[[\d\s,]+\]", r"\[.*?\]"):
        lists = re.findall(pattern, text)
        try:
            values = json.loads(lists[-1]) if lists else None
        except json.JSONDecodeError:
            continue
        if values is not None:
            return [int(v) for v in values if str(v).lstrip("-").isdigit()]
    return [int(digits) for digits in re.findall(r"\d+", text)]


def choice_index(text: str) -> int | None:
    """Option A to J after "answer is" or "Answer:", else the last one that stands alone."""
    text = " ".join(text.split())
    match = re.search(r"answer is \(?([A-J])\)?", text) or re.search(r"[aA]nswer:\s*([A-J])", text)
    letters = [match[1]] if match else re.findall(r"\b[A-J]\b", text)
    return ord(letters[-1]) - ord("A") if letters else None


def class_number(text: str) -> int | None:
    """Number after ``label:``, else the last whole one, else the first digits."""
    text = " ".join(text.split())
    if match := re.search(r"label:\s*(\d+)", text, re.IGNORECASE):
        return int(match[1])
    whole = re.findall(r"\b\d+\b", text)
    parts = re.findall(r"\d+", text)
    return int(whole[-1]) if whole else int(parts[0]) if parts else None


def f1(text: str, gold: str, *, articles_first: bool = False) -> float:
    """F1 of the normalised words.

    >>> f1("a red car", "red bus")
    0.5
    """
    said = normalise(text, articles_first=articles_first).split()
    wanted = normalise(gold, articles_first=articles_first).split()
    common = sum((Counter(said) & Counter(wanted)).values())
    return 2 * common / (len(said) + len(wanted)) if common else 0.0


def document_score(gold: str, text: str, kind: str, *, articles_first: bool = False) -> float:
    """Score of a question about a document, in [0, 1].

    Args:
        gold: the right answer; a JSON list where `kind` is List.
        text: the answer.
        kind: Integer, Float (1% tolerance, also as a percentage), String or None (F1; links,
            dates and the like verbatim), or List (mean over its items, its texts joined).
        articles_first: see the module.
    """
    if kind == "Integer":
        wanted = int(float(_without_unit(gold)))
        return float(any(wanted == n for n in _numbers(_without_unit(text))))
    if kind == "Float":
        value = float(_without_unit(gold))
        scaled = (value / 100, value, value * 100)
        said = _numbers(_without_unit(text))
        return float(any(math.isclose(v, n, rel_tol=0.01) for v in scaled for n in said))
    if kind == "List":
        items = json.loads(gold)
        words = [item for item in items if _is_prose(item)]
        parts = ([" ".join(words).strip()] if words else []) + [i for i in items if i not in words]
        scores = [
            document_score(str(part), text, _kind(part), articles_first=articles_first)
            for part in parts
        ]
        return sum(scores) / len(scores) if scores else 0.0
    if any(re.search(pattern, gold) for pattern in _VERBATIM):
        return float(gold in text)
    return f1(text, gold, articles_first=articles_first)


@lru_cache(maxsize=1)
def _rouge() -> Any:
    module = optional_module(
        "rouge_score.rouge_scorer", extra="longbench", purpose="score summaries with ROUGE"
    )
    return module.RougeScorer(["rougeL"], use_stemmer=True)


def rouge_l(text: str, golds: Sequence[str]) -> float:
    """Best ROUGE-L F1 over the golds (`rouge_score`, stemmed)."""
    return max(float(_rouge().score(target=g, prediction=text)["rougeL"].fmeasure) for g in golds)


def _kind(item: object) -> str:
    if isinstance(item, int):
        return "Integer"
    if isinstance(item, float):
        return "Float"
    try:
        value = float(_without_unit(str(item)))
    except ValueError:
        return "String"
    return "Integer" if value.is_integer() and "%" not in str(item) else "Float"


def _is_prose(item: object) -> bool:
    verbatim = isinstance(item, str) and any(re.search(p, item) for p in _VERBATIM)
    return isinstance(item, str) and _kind(item) == "String" and not verbatim


def _without_unit(text: str) -> str:
    text = text.lower().strip().replace(",", "")
    for unit in _UNITS:
        text = re.sub(f"{unit}$", "", text).strip()
    text = re.sub(r"^['\"]|['\"]$", "", text).strip()
    for symbol in "$£%":
        text = text.strip().strip(symbol).strip()
    return text


def _numbers(text: str) -> list[float]:
    found = re.findall(r"-?\d+(?:\.\d*)?|-?\.\d+", text.replace(",", ""))
    return [value for value in map(float, found) if math.isfinite(value)]
