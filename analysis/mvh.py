"""The metrics of MVH-Bench, from records of it or of its embedded twin.

After the public loader (`open-compass/VLMEvalKit`, `vlmeval/dataset/mvh_bench.py`, commit 0fa345d),
which gives them for each type of hallucination apart (`benchmark.mvh_type`) and adds the first five
up to one score.
"""

from __future__ import annotations

import pandas as pd

from focus.benchmarks.mvh_bench import CHOICE, YES_NO

#: Questions that count together: a pair of either form, and the four of the second.
PAIR, QUAD = 2, 4


def is_mvh(benchmark: str) -> bool:
    """Whether a benchmark has its structure.

    >>> is_mvh("mvh_bench"), is_mvh("digits_mvh"), is_mvh("blink")
    (True, True, False)
    """
    return benchmark == "mvh_bench" or benchmark.endswith("_mvh")


def mvh_metrics(records: pd.DataFrame) -> dict[str, pd.Series]:
    """Per metric, one value for each unit that it is measured on, by the id of its first question.

    Args:
        records: of one cell: id, category, group, cluster, correct, leaked, parsed.

    Returns:
        ``mc accuracy``, ``mc pair accuracy`` (both questions right), ``binary accuracy``, ``binary
        pair accuracy``, ``binary quad accuracy`` (all four right); ``adversarial error rate``, the
        share of the wrong answers among options that are true of the other view, and ``yes error
        rate``, the share of the wrong answers by yes or no that are yes. Groups of which not all
        questions were asked are left out; a rate of errors is left out where there are none.
    """
    found: dict[str, pd.Series] = {}
    for form in (CHOICE, YES_NO):
        own = records[records["category"] == form]
        right = own.set_index("id")["correct"].astype(bool)
        found[f"{form} accuracy"] = right.astype(float)
        found[f"{form} pair accuracy"] = _all_right(own, "group", PAIR)
        if form == YES_NO:
            found[f"{form} quad accuracy"] = _all_right(own, "cluster", QUAD)
        wrong = own[~own["correct"].astype(bool)].set_index("id")
        if form == CHOICE:
            found["adversarial error rate"] = wrong["leaked"].astype(float)
        else:
            said = wrong["parsed"].fillna("").str.lower()
            found["yes error rate"] = (said == "yes").astype(float)
    return {name: values for name, values in found.items() if len(values)}


def _all_right(records: pd.DataFrame, by: str, size: int) -> pd.Series:
    """Whether all of a group are right, of those that are complete."""
    groups = records.groupby(by, sort=False)
    found = groups.agg(id=("id", "first"), right=("correct", "all"), asked=("id", "size"))
    complete = found[found["asked"] == size].set_index("id")
    return complete["right"].astype(float)
