"""The summary states what the records say, on hand-made records."""

import io

import pytest
from rich.console import Console

from analysis.summary import summarise
from analysis.tables import (
    markdown_table,
    paired_lines,
    paired_markdown,
    paired_table,
    power_note,
    summary_table,
)


def records(decoding: str, correct: list[bool], **extra: object) -> list[dict]:
    return [
        {
            "benchmark": "b",
            "model": "m",
            "decoding": decoding,
            "id": f"q{index}",
            "group": f"q{index}",
            "cluster": f"q{index}",
            "category": "colour",
            "parsed": "red" if right else None,
            "answer": "red",
            "choice_answer": "red" if right or index % 2 else "blue",
            "correct": right,
            "score": float(right),
            "unparsed": not right,
            "leaked": False,
            "traceable": True,
            "seconds": 0.5,
            **extra,
        }
        for index, right in enumerate(correct)
    ]


def row(rows: list[dict], decoding: str, metric: str) -> dict:
    (found,) = [r for r in rows if r["decoding"] == decoding and r["metric"] == metric]
    return found


def test_accuracy_and_paired_difference():
    plain, ours = [True] * 60 + [False] * 40, [True] * 90 + [False] * 10
    rows = summarise(records("plain", plain) + records("focus", ours))
    assert row(rows, "plain", "accuracy")["value"] == pytest.approx(0.6)
    assert "delta" not in row(rows, "plain", "accuracy")
    accuracy = row(rows, "focus", "accuracy")
    assert accuracy["value"] == pytest.approx(0.9)
    assert accuracy["n"] == 100
    assert accuracy["ci_low"] < 0.9 < accuracy["ci_high"]
    assert accuracy["delta"] == pytest.approx(0.3)
    assert 0.2 < accuracy["delta_low"] < 0.3 < accuracy["delta_high"] < 0.4
    assert accuracy["p_value"] < 1e-6


def test_p_values_are_adjusted_over_the_comparisons_of_a_table():
    plain = [True] * 30 + [False] * 30
    better, alike = [True] * 42 + [False] * 18, plain
    everything = records("plain", plain) + records("focus", better) + records("vcd", alike)
    rows = summarise(everything)
    focus, vcd = row(rows, "focus", "accuracy"), row(rows, "vcd", "accuracy")
    assert focus["p_holm"] == pytest.approx(2 * focus["p_value"])
    assert vcd["p_holm"] == 1.0
    assert "p_holm" not in row(rows, "plain", "accuracy")


def test_the_power_note_shrinks_with_the_number_of_questions():
    def smallest(copies: int) -> float:
        plain, ours = [True, False, True, False] * copies, [True, True, False, False] * copies
        note = power_note(summarise(records("plain", plain) + records("focus", ours)))
        return float(note.split("below ")[1].split(" ")[0])

    assert smallest(200) < smallest(50) < 0.3
    assert power_note(summarise(records("plain", [True]))) == ""


def test_graded_scores_are_averaged_and_keep_their_interval():
    graded = [
        {**r, "score": s}
        for r, s in zip(records("plain", [False] * 4), (0.2, 0.4, 0.6, 0.8), strict=True)
    ]
    accuracy = row(summarise(graded), "plain", "accuracy")
    assert accuracy["value"] == pytest.approx(0.5)
    assert 0.2 <= accuracy["ci_low"] < 0.5 < accuracy["ci_high"] <= 0.8


def test_pairing_is_by_question_not_by_position():
    """Reversing the order of one strategy's records must change nothing."""
    plain, ours = [True, False] * 20, [True, True] * 20
    forward = summarise(records("plain", plain) + records("focus", ours))
    backward = summarise(records("plain", plain) + records("focus", ours)[::-1])
    assert row(forward, "focus", "accuracy") == row(backward, "focus", "accuracy")


def test_leakage_counts_only_where_it_can_be_told():
    leaking = records("plain", [False] * 4, leaked=True, parsed="blue")
    silent = [{**r, "id": r["id"] + "x", "traceable": False} for r in records("plain", [True] * 4)]
    leakage = row(summarise(leaking + silent), "plain", "leakage rate")
    assert (leakage["value"], leakage["n"]) == (1.0, 4)
    none = summarise(silent)
    assert not [r for r in none if r["metric"] == "leakage rate"]


def test_a_group_counts_only_if_all_its_questions_are_right():
    answers = [True, True, True, False, False, False]
    paired = [
        {**r, "group": f"p{i // 2}", "cluster": f"p{i // 2}", "category": "image"}
        for i, r in enumerate(records("plain", answers))
    ]
    rows = summarise(paired)
    score = row(rows, "plain", "image score")
    assert score["value"] == pytest.approx(1 / 3)
    assert score["n"] == 3
    assert row(rows, "plain", "accuracy")["value"] == pytest.approx(0.5)


def test_text_image_and_group_scores():
    """Winoground: the group score needs both directions of a pair."""
    right = {"image": [True, True, True, True], "text": [True, True, True, False]}
    rows = []
    for category, answers in right.items():
        for i, r in enumerate(records("plain", answers)):
            pair = f"p{i // 2}"
            labels = {"group": f"{pair}-{category}", "cluster": pair, "category": category}
            rows.append({**r, "id": f"{category}{i}", **labels})
    summary = summarise(rows)
    assert row(summary, "plain", "image score")["value"] == 1.0
    assert row(summary, "plain", "text score")["value"] == 0.5
    assert row(summary, "plain", "group score")["value"] == 0.5


def test_the_most_likely_candidate_is_scored_beside_the_text():
    """An answer that evades ("unknown") is wrong as text, but its candidates are still ranked."""
    rows = summarise(records("plain", [True, False, False, False]))
    assert row(rows, "plain", "accuracy")["value"] == 0.25
    assert row(rows, "plain", "choice accuracy")["value"] == 0.75
    assert row(rows, "plain", "unparsed rate")["value"] == 0.75


def test_the_table_has_one_line_per_strategy():
    rows = summarise(records("plain", [True] * 5) + records("focus", [False] * 5))
    table = summary_table(rows)
    assert list(table.columns[0].cells) == ["b", "m"]
    assert list(table.columns[1].cells) == ["plain", "focus"]
    assert len(markdown_table(rows).splitlines()) == 4


def test_plain_decoding_stands_beside_each_strategy_in_percent():
    plain, focus = records("plain", [True] * 2 + [False] * 3), records("focus", [True] * 5)
    columns, (line,) = paired_lines(summarise(plain + focus))
    assert columns == ("benchmark", "model", "n", "score", "difference [95%]", "ranked", "leakage")
    assert line[:4] == ("b", "m", "5", "40 → 100")
    assert line[4].startswith("+60 [")
    assert line[5:] == ("60 → 100", "0 → 0")
    other = [{**record, "decoding": "vcd"} for record in focus]
    _, lines = paired_lines(summarise(plain + focus + other))
    assert [line[2] for line in lines] == ["focus", "vcd"]


def test_minimal_pairs_are_judged_by_pairs():
    def paired(decoding: str, correct: list[bool]) -> list[dict]:
        return [
            {**r, "group": f"p{i // 2}", "cluster": f"p{i // 2}", "category": "image"}
            for i, r in enumerate(records(decoding, correct, traceable=False))
        ]

    plain = paired("plain", [True, False] * 4)
    ours = paired("focus", [True, True] * 3 + [False, True])
    _, (line,) = paired_lines(summarise(plain + ours))
    assert line[2:4] == ("4", "0 → 75")
    assert line[6] == "-"


def test_a_line_per_model_fits_a_terminal():
    """The longest names of models and benchmarks in this project."""
    values = {"value": 0.95, "delta": -0.25, "delta_low": -0.35, "delta_high": -0.15, "n": 300}
    rows = [
        {"benchmark": benchmark, "model": model, "decoding": decoding, "metric": metric, **values}
        for benchmark in ("scenes_indexed", "scenes_matching")
        for model in ("llava_onevision-abstaining", "internvl-guessing")
        for decoding in ("plain", "focus")
        for metric in ("accuracy", "choice accuracy", "leakage rate")
    ]
    shown = io.StringIO()
    Console(file=shown, width=100).print(paired_table(rows, title="t"))
    lines = [line for line in shown.getvalue().splitlines() if "scenes_" in line]
    assert len(lines) == 4
    for line in lines:
        assert line.split()[1].endswith(("-abstaining", "-guessing"))
        assert "95 → 95" in line
        assert "-25 [-35, -15]" in line
    assert len(paired_markdown(rows).splitlines()) == 2 + 4
