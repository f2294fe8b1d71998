"""Accuracy by part of a benchmark, worked out by hand."""

import pytest

from analysis.breakdown import breakdown


def record(identity: str, score: float, **extra: object) -> dict:
    labels = {"benchmark": "b", "model": "m", "decoding": "focus", "id": identity}
    fields = {"category": "c", "metadata": {"task": "counting"}, "num_images": 2}
    return {**labels, **fields, "score": score, "order": 0, "seed": None, **extra}


def part(rows: list[dict], by: str, name: str) -> dict:
    (found,) = [row for row in rows if row["by"] == by and row["part"] == name]
    return found


RECORDS = [
    record("a", 1.0),
    record("b", 0.0),
    record("c", 1.0, metadata={"task": "ordering"}, num_images=4),
    record("d", 1.0, metadata={"task": "ordering"}, num_images=4),
]


def test_by_task_and_by_number_of_images():
    rows = breakdown(RECORDS)
    assert part(rows, "task", "counting")["value"] == 0.5
    assert part(rows, "task", "ordering")["value"] == 1.0
    assert part(rows, "task", "ordering")["n"] == 2
    assert part(rows, "num_images", "4")["value"] == 1.0
    counting = part(rows, "task", "counting")
    assert 0 < counting["ci_low"] < 0.5 < counting["ci_high"] < 1


def test_the_mean_over_tasks_weighs_them_alike():
    unequal = [*RECORDS, *(record(f"e{k}", 0.0) for k in range(6))]
    mean = part(breakdown(unequal), "task", "mean")
    assert mean["value"] == pytest.approx((1 / 8 + 1) / 2)
    assert mean["n"] == 10


def test_without_a_task_the_category_names_the_part():
    assert part(breakdown([record("a", 1.0, metadata={})]), "task", "c")["n"] == 1


def test_other_orders_and_seeds_are_left_out():
    repeats = [record("a", 0.0, order=1), record("a", 0.0, seed=1)]
    assert part(breakdown([*RECORDS, *repeats]), "task", "counting")["n"] == 2


def test_graded_scores_are_averaged():
    graded = part(breakdown([record("a", 0.25), record("b", 0.75)]), "task", "counting")
    assert graded["value"] == 0.5
    assert 0.25 <= graded["ci_low"] < graded["ci_high"] <= 0.75
