"""Where two strategies are the same: verdicts on made-up answers, and the command on any model."""

from __future__ import annotations

import pandas as pd
import pytest
from commands import run

from analysis.equivalence import EQUIVALENT, HIGHER, LOWER, UNDECIDED, cells, page, pooled


def answers(changed: float, n: int, *, better: bool = False) -> pd.DataFrame:
    """FOCUS is right in half of the questions; composed differs from it in a share of them."""
    lines = []
    for i in range(n):
        exact = i % 2 == 0
        ours = better if i < changed * n else exact
        for strategy, right in (("plain", False), ("focus", exact), ("composed", ours)):
            lines.append({"model": "internvl-guessing", "questions": "scenes", "split": "test",
                          "id": f"{i}", "cluster": f"{i}", "num_images": 2, "strategy": strategy,
                          "candidate": str(right), "candidate_right": right, "text": str(right),
                          "text_right": right, "divergence": 0.1, "on_target_right": 1.0,
                          "off_target_commits": 0.2})  # fmt: skip
    return pd.DataFrame(lines)


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
    (row,) = cells(answers(changed, n, better=better), margin=0.02).query(
        "reading == 'candidates'").to_dict("records")  # fmt: skip
    assert row["verdict"] == expected
    assert (row["plain"], row["exact"], row["n"]) == (0, 0.5, n)
    assert row["agree"] == pytest.approx(1 - changed / 2, abs=0.01)


def test_all_questions_of_a_kind_decide_where_cells_do_not():
    small = [answers(0.0, 60).assign(questions=f"set {k}") for k in range(12)]
    (row,) = pooled(pd.concat(small), ["kind"], margin=0.02).to_dict("records")
    assert (row["kind"], row["verdict"], row["n"]) == ("guessing", EQUIVALENT, 720)


def test_the_page_says_what_was_found():
    found = answers(0.3, 400)
    text = page(found, cells(found, margin=0.02), margin=0.02, origin="`command`")
    assert "guessing lower (-0.150" in text
    assert "FOCUS 1.00 / 0.20" in text


def test_the_command_runs_on_any_model_and_benchmark_and_goes_on(tmp_path):
    arguments = ["questions=[{benchmark: indexed, world: scenes, num_images: [2, 3]}]",
                 "max_new_tokens=2", "limits={dev: 2, test: 4}", f"results={tmp_path}/r",
                 f"output={tmp_path}/o", "logger=csv", f"logger.folder={tmp_path}"]  # fmt: skip
    for _ in range(2):
        ran = run("experiments.equivalence", "models=[tiny_qwen3_vl]", *arguments)
        assert ran.returncode == 0, ran.stderr
    stored = sorted(p.name.rsplit("-", 1)[0] for p in (tmp_path / "r").rglob("*.parquet"))
    assert stored == [f"scenes_indexed-num_images{n}-{split}" for n in (2, 3)
                      for split in ("dev", "test")]  # fmt: skip
    table = pd.read_csv(tmp_path / "o" / "cells.csv")
    assert set(table["ours"]) == {"composed", "composed_isolated", "masked", "masked_isolated",
                                  "plain_isolated"}  # fmt: skip
    assert {2, 3} == set(table["num_images"])
    told = pd.read_csv(tmp_path / "equivalence-samples.csv")
    assert set(told["strategy"]) >= {"plain", "focus", "composed"}
    assert told["question"].str.contains("<image>").all()
    assert (tmp_path / "o" / "equivalence.png").stat().st_size > 10_000
    ran = run("experiments.equivalence", "models=[nobody]", *arguments)
    assert ran.returncode != 0
    assert "nobody" in ran.stderr
    assert "internvl_guessing" in ran.stderr
