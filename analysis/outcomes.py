"""What came of the tests of `analysis.claims`: verdicts, and tables of them.

Verdicts are words made from intervals (`analysis.comparisons.word`): an interval decides, not a
value. There is one for each model, from all conditions of a test put together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.ablation_tables import condition_name, difference, markdown, sorted_settings
from analysis.ablations import Record, of_kind
from analysis.claims import Claim, Test
from analysis.comparisons import (
    ABOVE,
    ALIKE,
    BELOW,
    HOLDS,
    WORDS,
    WORDS_TITLE,
    by_kind,
    compare,
    overall,
    selected,
    verdict,
    word,
    word_counts,
)


@dataclass(frozen=True)
class Outcome:
    """What came of a test.

    Args:
        test: which one.
        words: `HOLDS`, `REVERSED` or `OPEN`, by model.
        whole: one row per model, all conditions put together.
        cells: one row per model and condition.
        kinds: one row per kind of models, all conditions put together or, where each must hold by
            itself, per kind and condition; a question that several models answer is one unit.
        reason: what the branches said: a sentence, or nothing.
    """

    test: Test
    words: Mapping[str, str]
    whole: pd.DataFrame
    cells: pd.DataFrame
    kinds: pd.DataFrame
    reason: str


Find = Callable[[Test], Outcome | None]
"""What came of a test; None where its experiment was not run."""


def outcome(test: Test, records: Sequence[Record], kinds: Mapping[str, str]) -> Outcome:
    """Result of a test; empty where nothing can be compared.

    Args:
        test: which one.
        records: of its experiment.
        kinds: by model.
    """
    known = [{**r, "learned": kinds.get(r["model"])} if "model" in r else r for r in records]

    def compared(*by: str) -> pd.DataFrame:
        return compare(known, test.first, test.second, by=by, metric=test.metric,
                       reading=test.reading, tested=False)  # fmt: skip

    whole, cells = compared("model"), compared("model", test.across)
    together = compared("learned", *([test.across] if test.every else []))
    words: dict[str, str] = {}
    for model in whole["model"] if len(whole) else ():
        rows = cells if test.every else whole
        words[model] = overall(words_of(rows[rows["model"] == model], test.aim))
    return Outcome(test, words, whole, cells, together, because(test, words, records))


def words_of(frame: pd.DataFrame, aim: str) -> list[str]:
    """What each interval says."""
    ends = zip(frame["delta_low"], frame["delta_high"], strict=True)
    return [word(low, high, aim) for low, high in ends]


def because(test: Test, words: Mapping[str, str], records: Sequence[Record]) -> str:
    """What the branches said where a test holds and where it does not: a sentence, or nothing.

    Where a question names an image these are the branches that do not show it, else all of them.
    """
    rows = [row for row in of_kind(records, "rows")
            if selected(row, {k: v for k, v in test.first.items() if k in row})]  # fmt: skip
    role = "off target" if any(row["role"] == "off target" for row in rows) else "branch"
    # Questions that name no single attribute have no answer of another image to count.
    named = any(row["own"] for row in rows)
    parts = []
    for each in WORDS:
        of_word = [r for r in rows if r["role"] == role and words.get(r["model"]) == each]
        total = sum(row["total"] for row in of_word)
        if total:
            share = {name: sum(row[name] for row in of_word) / total
                     for name in ("unknown", "own", "right")}  # fmt: skip
            own = f", their own image's answer in {share['own']:.0%}" if named else ""
            parts.append(
                f'where it is {each.replace(HOLDS, "true")}, "unknown" in {share["unknown"]:.0%}'
                f"{own}, the right answer in {share['right']:.0%}"
            )
    if not parts:
        return ""
    who = "Branches that do not show the asked image" if role != "branch" else "Branches"
    return f"{who} say, {'; '.join(parts)}."


def sentence(found: Outcome, kinds: Mapping[str, str]) -> str:
    """The label of a test and its verdict."""
    return f"{found.test.label}: {verdict(found.words, kinds)}."


def outcome_table(found: Outcome, kinds: Mapping[str, str]) -> str:
    """Differences: models down, conditions across, and how many models hold in each condition."""
    test, cells = found.test, found.cells
    conditions = sorted_settings(cells[test.across])
    lines = []
    for model in by_kind(found.words, kinds):
        part = cells[cells["model"] == model].set_index(test.across)
        (whole,) = found.whole[found.whole["model"] == model].to_dict("records")
        line = {"model": model, "kind": kinds[model], "n": str(whole["n"])}
        if not test.every and len(conditions) > 1:
            line["all"] = difference(whole, bold=True)
        for condition in conditions:
            shown = part.loc[condition] if condition in part.index else None
            column = condition_name(test.across, condition)
            line[column] = "-" if shown is None else difference(shown, bold=True)
        lines.append({**line, "verdict": found.words[model]})
    counts = {"model": WORDS_TITLE}
    for condition in conditions:
        words = words_of(cells[cells[test.across] == condition], test.aim)
        counts[condition_name(test.across, condition)] = word_counts(words)
    return markdown(pd.DataFrame([*lines, counts]).fillna(""))


def telling(rows: pd.DataFrame, aim: str) -> Mapping[str, Any]:
    """Of several differences the one that is furthest from what a claim says."""
    worst = {
        ABOVE: rows["delta_low"],
        BELOW: -rows["delta_high"],
        ALIKE: -rows[["delta_low", "delta_high"]].abs().max(axis=1),
    }
    return dict(rows.loc[worst[aim].idxmin()])


def telling_row(found: Outcome, model: str) -> Mapping[str, Any]:
    """The difference that decides the verdict of a model.

    All conditions put together or, where each must hold by itself, the one that is furthest from
    what the claim says.
    """
    rows = found.cells if found.test.every else found.whole
    return telling(rows[rows["model"] == model], found.test.aim)


def verdict_frame(
    numbered: Iterable[tuple[int, Outcome]], kinds: Mapping[str, str]
) -> pd.DataFrame:
    """One row for each test of a claim and model, models that abstain first.

    Args:
        numbered: outcomes, each with the number of its claim.
        kinds: by model.

    Returns:
        Columns claim, label, model, word, and the delta of `telling_row`.
    """
    rows = []
    for number, found in numbered:
        for model in by_kind(found.words, kinds):
            row = {"claim": number, "label": found.test.label, "model": model}
            delta = telling_row(found, model)["delta"]
            rows.append({**row, "word": found.words[model], "delta": delta})
    return pd.DataFrame(rows)


def outcome_line(found: Outcome) -> dict[str, str]:
    """Least n of a model, the deciding difference of each kind of models, and how many hold.

    Where each condition must hold by itself, the deciding one is named.
    """
    test = found.test
    line = {"n": str(found.whole["n"].min())}
    for kind, rows in sorted(found.kinds.groupby("learned"), key=lambda each: str(each[0])):
        row = telling(rows, test.aim)
        named = f" ({condition_name(test.across, row[test.across])})" if test.every else ""
        line[str(kind)] = difference(row, bold=True) + named
    return {**line, WORDS_TITLE: word_counts(list(found.words.values()))}


def claim_table(tests: Iterable[Test], find: Find) -> str:
    """A line for each test: n, differences by kind of models, verdicts."""
    lines = []
    for test in tests:
        found = find(test)
        told = outcome_line(found) if found is not None and found.words else {}
        lines.append({"test": test.label, **(told or {WORDS_TITLE: "not run"})})
    return _lined(lines)


def glance_table(claims: Sequence[Claim], find: Find) -> str:
    """A line for each claim: its verdict over all tests and models, and its first test."""
    lines = []
    for number, claim in enumerate(claims, 1):
        found = [each for each in map(find, claim.tests) if each is not None and each.words]
        words = [word for each in found for word in each.words.values()]
        told = outcome_line(found[0]) if found else {}
        counts = {f"all tests: {WORDS_TITLE}": word_counts(words)} if words else {}
        line = {"claim": f"{number}. {claim.claim}", "verdict": claim_word(words)}
        line["first test"] = found[0].test.label if found else "-"
        lines.append({**line, **told, **counts})
    return _lined(lines)


def claim_word(words: Sequence[str]) -> str:
    """One word for a claim, of its verdicts on all models in all tests.

    >>> claim_word(["holds"]), claim_word(["holds", "open"]), claim_word(["reversed", "open"])
    ('holds', 'depends', 'fails')
    """
    if not words:
        return "not run"
    if HOLDS not in words:
        return "fails"
    return HOLDS if set(words) == {HOLDS} else "depends"


def _lined(lines: Sequence[Mapping[str, str]]) -> str:
    """Lines as a table; counts of verdicts stand last."""
    frame = pd.DataFrame(lines)
    counts = [name for name in frame if str(name).endswith(WORDS_TITLE)]
    return markdown(frame[[*(n for n in frame if n not in counts), *counts]].fillna("-"))
