"""Where two strategies are the same: verdicts on made-up answers."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest

from analysis.ablation_tables import measured_points
from analysis.equivalence import (
    CELL,
    EQUIVALENT,
    HIGHER,
    LOWER,
    UNDECIDED,
    compared,
    equivalence_figure,
    pairs,
    sections,
)

KINDS = {"internvl-guessing": "guessing"}


def records(changed: float, n: int, *, better: bool = False, name: str = "scenes") -> list[dict]:
    """FOCUS is right in half of the questions; composed differs from it in a share of them."""
    exact = ["+" if i % 2 == 0 else "-" for i in range(n)]
    ours = [("+" if better else "-") if i < changed * n else exact[i] for i in range(n)]
    common = {"questions": name, "kind": "indexed", "num_images": 2}
    asked = {**common, "record": "questions", "clusters": list(range(n)), "groups": list(range(n))}
    answer = {**common, "record": "answers", "model": "internvl-guessing", "reading": "candidates"}
    same = sum(a == b for a, b in zip(ours, exact, strict=True)) / n
    rows = [
        {**common, "record": "rows", "model": "internvl-guessing", "role": role, "right": 3,
         "own": 1, "total": 4, **scheme}
        for role in ("plain", "on target", "off target")
        for scheme in ({}, {"scheme": "composed"})
    ]  # fmt: skip
    return [
        asked,
        {**answer, "rule": "plain", "marks": "-" * n},
        {**answer, "rule": "sum", "marks": "".join(exact)},
        {**answer, "rule": "sum", "marks": "".join(ours), "scheme": "composed", "same": same,
         "divergence": 0.1},
        *rows,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "n", "better", "expected"),
    [
        (0.0, 800, False, EQUIVALENT),
        (0.0, 60, False, UNDECIDED),  # no difference seen is not: there is none
        (0.3, 400, False, LOWER),
        (0.3, 400, True, HIGHER),
        (0.02, 100, False, UNDECIDED),
    ],
)
def test_verdicts(changed, n, better, expected):
    paired = pairs(records(changed, n, better=better), KINDS)
    (row,) = compared(paired, (*CELL, "kind", "ours")).to_dict("records")
    assert row["verdict"] == expected
    assert (row["plain"], row["exact"], row["n"], row["kind"]) == (0, 0.5, n, "guessing")
    assert row["same"] == pytest.approx(1 - changed / 2, abs=0.01)


def test_all_questions_of_a_kind_decide_where_cells_do_not():
    small = [line for k in range(12) for line in records(0.0, 60, name=f"set {k}")]
    paired = pairs(small, KINDS)
    (row,) = compared(paired, ("kind", "ours")).to_dict("records")
    assert (row["kind"], row["verdict"], row["n"]) == ("guessing", EQUIVALENT, 720)
    assert set(compared(paired, (*CELL, "ours"))["verdict"]) == {UNDECIDED}


def test_cost_is_that_of_the_rows_that_answer():
    """Adaptive decoding costs a plain answer, and all of the other where it branches."""
    found = records(0.3, 40)
    (plain, exact, composed) = [line for line in found if line["record"] == "answers"]
    found += [
        {**plain, "rule": "adaptive_focus", "rows": 1 + 0.25 * 3, "scheme": "composed"},
        *({"record": "cost", "kind": "indexed", "num_images": 2, "model": "internvl-guessing",
           "rule": rule, "over_plain": cost}
          for rule, cost in (("plain", 1.0), ("sum", 3.0), ("composed sum", 2.0))),
    ]  # fmt: skip
    for line in (plain, exact, composed):
        line["rows"] = 1
    points = measured_points(found, "indexed", 2).set_index("rule")
    assert points["seconds"].to_dict() == {
        "plain": 1.0, "sum": 3.0, "composed sum": 2.0, "composed adaptive_focus": 1.5,
    }  # fmt: skip
    assert points.loc["sum", "value"] == 0.5


def test_the_page_says_what_was_found():
    found = records(0.3, 400)
    text = "\n".join(sections(found, KINDS))
    assert "guessing lower (-0.150" in text
    assert "FOCUS 0.75 / 0.25, composed, flow kept 0.75 / 0.25" in text
    assert sections([line for line in found if line["record"] == "questions"], KINDS) == []
    figure = equivalence_figure(compared(pairs(found, KINDS), (*CELL, "kind", "ours")))
    assert len(figure.axes[0].collections) >= 1
    plt.close(figure)
