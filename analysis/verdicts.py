"""All claims at a glance: what an interval says of each test on each model, before the details."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.ablation_tables import difference, markdown
from analysis.ablations import Record
from analysis.claims import CLAIMS, Claim, Outcome, outcome
from analysis.comparisons import ABOVE, ALIKE, BELOW, WORDS_TITLE, by_kind, word_counts

Outcomes = Sequence[Sequence[Outcome | None]]
"""For each claim what came of its tests; None where the experiment was not run."""


def claim_outcomes(
    records: Mapping[str, Sequence[Record]], claims: Sequence[Claim] = CLAIMS
) -> Outcomes:
    """What came of every test of every claim; it takes a minute or two on full records."""
    return [
        [outcome(t, records[t.experiment]) if t.experiment in records else None for t in c.tests]
        for c in claims
    ]


def telling_row(found: Outcome, model: str) -> Mapping[str, Any]:
    """The difference that decides the verdict of a model.

    All conditions put together or, where each must hold by itself, the one that is furthest from
    what the claim says.
    """
    rows = found.cells if found.test.every else found.whole
    rows = rows[rows["model"] == model]
    worst = {
        ABOVE: rows["delta_low"],
        BELOW: -rows["delta_high"],
        ALIKE: -rows[["delta_low", "delta_high"]].abs().max(axis=1),
    }
    return dict(rows.loc[worst[found.test.aim].idxmin()])


def verdict_frame(outcomes: Outcomes, kinds: Mapping[str, str]) -> pd.DataFrame:
    """One row for each test of a claim and model, models that abstain first.

    Returns:
        Columns claim (counted from 1), label, model, word, and the delta of `telling_row`.
    """
    rows = []
    for number, found in enumerate(outcomes, 1):
        for each in (one for one in found if one is not None):
            for model in by_kind(each.words, kinds):
                row = {"claim": number, "label": each.test.label, "model": model}
                delta = telling_row(each, model)["delta"]
                rows.append({**row, "word": each.words[model], "delta": delta})
    return pd.DataFrame(rows)


def verdict_table(outcomes: Outcomes, claims: Sequence[Claim] = CLAIMS) -> str:
    """A line for each test: on how many models it holds, and the differences' range over models."""
    lines = []
    for number, (claim, found) in enumerate(zip(claims, outcomes, strict=True), 1):
        for test, each in zip(claim.tests, found, strict=True):
            named = f"{number}. {claim.claim}" if test is claim.tests[0] else ""
            line = {"claim": named, "test": test.label}
            if each is None or not each.words:
                lines.append({**line, WORDS_TITLE: "not run"})
                continue
            told = sorted(
                (telling_row(each, model) for model in each.words), key=lambda row: row["delta"]
            )
            line |= {WORDS_TITLE: word_counts(list(each.words.values()))}
            lines.append(line | {"least": difference(told[0], True),
                                 "greatest": difference(told[-1], True)})  # fmt: skip
    return markdown(pd.DataFrame(lines).fillna("-"))
