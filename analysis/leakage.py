"""What each row of a question says, and whether it said it because of another image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

#: Kinds of first word a row can say, from harmless to harmful.
KINDS = ("right answer", "abstains", "another image's answer", "other")
ABSTENTION = "unknown"


def row_behaviour(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """How often each kind of row says what first, on questions about one named image.

    The sum over branches is decided by the on-target branch only if the off-target ones do not
    vote: a branch whose clean image is not the asked one should abstain. What it says instead tells
    why FOCUS helps or fails.

    Args:
        records: of a strategy with branches, with one target image and traceable answers; others
            are left out.

    Returns:
        Columns model, row (``on target``, ``off target``, ``reference``), kind (see `KINDS`),
        share (of the rows of that sort) and n (rows).
    """
    observed = []
    for record in records:
        tops = record.get("row_tops")
        if not tops or len(tops) < 2 or not record["traceable"] or len(record["targets"]) != 1:
            continue
        for label, top in tops.items():
            row = _sort_of_row(label, record["targets"][0])
            observed.append(
                (record["model"], row, kind_of_word(top, record["answer"], record["distractors"]))
            )
    frame = pd.DataFrame(observed, columns=["model", "row", "kind"])
    if frame.empty:
        return pd.DataFrame(columns=["model", "row", "kind", "share", "n"])
    counts = frame.groupby(["model", "row"])["kind"].value_counts(normalize=True)
    rows = frame.groupby(["model", "row"]).size().rename("n")
    index = pd.MultiIndex.from_product(
        [frame["model"].unique(), frame["row"].unique(), KINDS], names=["model", "row", "kind"]
    )
    return (
        counts.reindex(index, fill_value=0.0)
        .rename("share")
        .reset_index()
        .join(rows, on=["model", "row"])
    )


def _sort_of_row(label: str, target: int) -> str:
    if label == "reference":
        return label
    return "on target" if label == f"image {target + 1}" else "off target"


def kind_of_word(said: str, right: str, leaks: Sequence[str]) -> str:
    """Which of `KINDS` a word is, where another image would make any of `leaks` true."""
    if said == right:
        return "right answer"
    if said == ABSTENTION:
        return "abstains"
    return "another image's answer" if said in leaks else "other"
