"""Scores of MMLongBench's metrics: as the authors of FOCUS port them, and read strictly."""

from __future__ import annotations

import re
from collections.abc import Callable

from focus.benchmarks.prompting import letters
from focus.parsing import final_answer, named_choice, number, option_letter, plain
from focus.parsing.longbench import (
    after_prefix,
    choice_index,
    class_number,
    contains,
    counts,
    document_score,
    last_yes_no,
    rouge_l,
)
from focus.scoring import Reference, Score, score_parsed

_YES_NO = ("no", "yes")


def score_official(text: str, reference: Reference) -> Score:
    """The better of the whole answer and of what follows its prefix, as published.

    * DEFECT: without a yes or no, the answer to a haystack question is what a fixed cycle of no,
      yes, yes, no has at its row (``metadata["default"]``).
    * DEFECT: without a number the sum is 0, which is right where nothing is to be counted.
    * DEFECT: the last stand-alone capital A to J is an option, so "A dog" is option A.
    """
    meta, metric = reference.metadata, str(reference.metadata["metric"])
    text = text.split("</think>")[-1].strip()
    part = after_prefix(text, str(meta["prefix"])) or text
    golds = [str(gold) for gold in meta["golds"]]
    if metric == "yes_no":
        label = last_yes_no(text)
        parsed = None if label is None else _label(label)
        return score_parsed(parsed, reference, fallback=_YES_NO[int(meta["default"])])
    if metric == "rouge":
        return _graded(part, rouge_l(part, golds))
    if metric == "document":
        kind = str(meta["answer_format"])
        return _graded(part, document_score(golds[0], part, kind, articles_first=True))
    right: Callable[[str], bool] = {
        "contained": lambda said: contains(said, golds, articles_first=True),
        "sum": lambda said: sum(counts(said)) == sum(map(int, golds)),
        "letter": lambda said: choice_index(said) == reference.choices.index(reference.answer),
        "label": lambda said: class_number(said) == int(golds[0]),
    }[metric]
    return Score(part or None, right(text) or right(part))


def score_strict(text: str, reference: Reference) -> Score:
    """The same metrics; an answer that cannot be read is wrong."""
    meta, metric = reference.metadata, str(reference.metadata["metric"])
    said = plain(text)
    part = after_prefix(said, str(meta["prefix"]))
    golds = [str(gold) for gold in meta["golds"]]
    if metric == "yes_no":
        return score_parsed(named_choice(text, ("yes", "no")), reference)
    if metric == "letter":
        return score_parsed(option_letter(text, letters(len(reference.choices))), reference)
    if metric == "label":
        labels = {int(label) for label in re.findall(r"label:\s*(\d+)", said, re.IGNORECASE)}
        parsed = str(labels.pop()) if len(labels) == 1 else None if labels else number(text)
        return Score(parsed, parsed is not None and parsed == golds[0])
    if metric == "sum":
        values = counts(final_answer(said))
        parsed = str(sum(values)) if values else None
        return Score(parsed, bool(values) and sum(values) == sum(map(int, golds)))
    if not part:
        return Score(None, False)
    if metric == "contained":
        return Score(part, contains(said, golds))
    if metric == "rouge":
        return _graded(part, rouge_l(part, golds))
    return _graded(part, document_score(golds[0], part, str(meta["answer_format"])))


def _label(value: int) -> str:
    return _YES_NO[value] if value in (0, 1) else str(value)


def _graded(parsed: str, credit: float) -> Score:
    credit = min(1.0, credit)
    return Score(parsed or None, credit == 1.0, credit=credit)
