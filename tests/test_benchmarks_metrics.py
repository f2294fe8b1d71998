"""Scores against values worked out by hand: pairs and groups, categories, graded metrics."""

from __future__ import annotations

import datasets
import pytest
from fixtures_benchmarks import FIXTURES

from analysis.summary import summarise
from focus.benchmarks.base import AbstractBenchmark
from focus.errors import InvalidValueError
from focus.evaluation import score_fields
from focus.parsing.longbench import (
    after_prefix,
    choice_index,
    class_number,
    contains,
    counts,
    document_score,
    f1,
    last_yes_no,
    normalise,
    rouge_l,
)
from focus.scoring import Reference, Score, score_parsed

datasets.disable_progress_bars()


def records(benchmark: AbstractBenchmark, answers: dict[str, str], parser: str) -> list[dict]:
    """Records as a run writes them, with the given answer to each question (else none)."""
    rows = []
    for example in benchmark:
        text = answers.get(example.id, "")
        score = benchmark.score(text, example.reference, parser=parser)
        rows.append({
            "benchmark": benchmark.name, "model": "m", "decoding": "plain", "id": example.id,
            "group": example.group, "cluster": example.cluster, "category": example.category,
            "text": text, **score_fields(score), "traceable": False, "seconds": 0.1,
            "answer": example.answer, "choice_answer": None,
            "choices": list(example.choices), "distractors": [],
            "metadata": dict(example.metadata),
        })  # fmt: skip
    return rows


def values(rows: list[dict]) -> dict[str, float]:
    return {row["metric"]: row["value"] for row in summarise(rows)}


@pytest.fixture
def four_pairs(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    FIXTURES["winoground"].dataset().select(range(4)).to_parquet(tmp_path / "test.parquet")
    return FIXTURES["winoground"].cls(part="all", path=str(tmp_path))


def test_text_image_and_group_scores(four_pairs):
    """Pair 0 all right, 1 only text, 2 only image, 3 one question of each: 2/4, 2/4, 1/4."""
    right = {
        **{f"0-{d}-{k}": a for d, pair in (("text", "AB"), ("image", ("First", "Second")))
           for k, a in enumerate(pair)},
        "1-text-0": "A", "1-text-1": "B", "1-image-0": "Second", "1-image-1": "Second",
        "2-text-0": "B", "2-text-1": "B", "2-image-0": "First", "2-image-1": "Second",
        "3-text-0": "A", "3-text-1": "A", "3-image-0": "First", "3-image-1": "First",
    }  # fmt: skip
    found = values(records(four_pairs, right, "strict"))
    assert found["text score"] == 2 / 4
    assert found["image score"] == 2 / 4
    assert found["group score"] == 1 / 4
    assert found["accuracy"] == (4 + 3 + 3 + 2) / 16
    assert found["unparsed rate"] == 0


def test_saying_nothing_under_both_parsers(four_pairs):
    """The official fallback makes half the questions right; no pair, since one of two is wrong."""
    official = values(records(four_pairs, {}, "official"))
    strict = values(records(four_pairs, {}, "strict"))
    assert (official["accuracy"], strict["accuracy"]) == (0.5, 0.0)
    assert (official["unparsed rate"], strict["unparsed rate"]) == (1.0, 1.0)
    assert official["text score"] == official["group score"] == strict["group score"] == 0


def test_a_record_alone_is_enough_to_score_again(four_pairs):
    answers = {example.id: example.answer for example in four_pairs}
    old = records(four_pairs, answers, "strict")
    for record in old:
        for name, scorer in four_pairs.parsers().items():
            score = scorer(record["text"], Reference.from_record(record))
            assert score == four_pairs.score(
                record["text"], Reference.from_record(record), parser=name
            )
    again = [four_pairs.parsers()["strict"](r["text"], Reference.from_record(r)) for r in old]
    assert [score.correct for score in again] == [True] * 16


def test_mvh_metrics(tmp_path, monkeypatch):
    """Group 0 all right; 1 adversarial in one of its options, unread in the other, and yes to
    everything; 2 options right, the first pair right, one of the second wrong (no)."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    FIXTURES["mvh_bench"].dataset().select(range(3)).to_parquet(tmp_path / "test.parquet")
    mvh = FIXTURES["mvh_bench"].cls(part="all", path=str(tmp_path))
    answers = {example.id: f"{example.answer})" for example in mvh}
    (adversarial,) = next(e.distractors for e in mvh if e.id == "g1-0")
    answers |= {"g1-0": adversarial, "g1-1": "nothing", **{f"g1-{k}": "Yes" for k in range(2, 6)}}
    answers |= {"g2-5": "No"}
    for parser in ("official", "strict"):
        written = records(mvh, answers, parser)
        for record, example in zip(written, mvh, strict=True):
            record["traceable"] = bool(example.distractors)
        found = values(written)
        assert found["mc accuracy"] == 4 / 6
        assert found["mc pair accuracy"] == 2 / 3
        assert found["binary accuracy"] == 9 / 12
        assert found["binary pair accuracy"] == 3 / 6
        assert found["binary quad accuracy"] == 1 / 3
        assert found["adversarial error rate"] == 1 / 2
        assert found["yes error rate"] == 2 / 3
        assert "group score" not in found
    half = [record for record in written if record["id"] not in ("g0-0", "g0-5")]
    assert values(half)["binary pair accuracy"] == 2 / 5  # of those that are complete
    assert values(half)["mc pair accuracy"] == 1 / 2


def test_per_category(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    FIXTURES["muirbench"].dataset().select(range(6)).to_parquet(tmp_path / "test.parquet")
    muirbench = FIXTURES["muirbench"].cls(part="all", path=str(tmp_path))
    rows = records(muirbench, {"0": "A", "2": "(A)", "4": "B", "1": "D", "3": "none"}, "strict")
    by_task = {task: [r["correct"] for r in rows if r["category"] == task]
               for task in ("Counting", "Visual Retrieval")}  # fmt: skip
    assert by_task == {"Counting": [True, True, False], "Visual Retrieval": [True, False, False]}
    assert "group score" not in values(rows)
    assert values(rows)["accuracy"] == 0.5


def test_scores_carry_credit_and_fallback():
    assert Score("a", True).value == 1.0
    assert Score(None, False).value == 0.0
    assert Score("a", False, credit=0.25).value == 0.25
    with pytest.raises(InvalidValueError, match="credit"):
        Score("a", False, credit=1.5)
    known = Reference("A", ("A", "B"), ("B",))
    assert score_parsed("B", known).leaked
    silent = score_parsed(None, known, fallback="A")
    assert (silent.parsed, silent.correct, silent.unparsed) == ("A", True, True)
    assert not score_parsed("A", known, fallback="A").unparsed


# MMLongBench's functions


def test_normalising_in_two_orders():
    assert normalise("The-cat: a Dog!") == "thecat dog"
    assert normalise("The-cat: a Dog!", articles_first=True) == "cat dog"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Yes", 1), ("no.", 0), ("yes... no", 0), ("No. Yes!", 1), ("1", 1), ("nobody", None)],
)
def test_last_yes_no(text, expected):
    assert last_yes_no(text) == expected


def test_reading_counts_letters_and_labels():
    assert counts("[1, 2] then [3, 0]") == [3, 0]
    assert counts("[1, x] 4") == [1, 4]
    assert counts("none") == []
    assert choice_index("The answer is (B). C is wrong") == 1
    assert choice_index("Answer: D") == 3
    assert choice_index("A dog") == 0  # the article
    assert choice_index("nothing") is None
    assert class_number("label: 12, not 3") == 12
    assert class_number("3 or 4") == 4
    assert class_number("x7y") == 7
    assert class_number("") is None
    assert after_prefix("I think. Answer: yes", "Answer:") == "yes"
    assert after_prefix("yes", "Answer:") == "yes"


def test_contained_answers():
    assert contains("It is the Eiffel-Tower.", ["Eiffel-Tower"])
    assert contains("Paris, France", ["Rome", "paris"])
    assert not contains("Paris", ["Paris France"])


def test_f1_by_hand():
    """Two common words; precision 2/3, recall 2/4: 2 * (2/3 * 1/2) / (2/3 + 1/2) = 4/7."""
    assert f1("big red car", "red car near house") == pytest.approx(4 / 7)
    assert f1("car car", "car") == pytest.approx(2 / 3)
    assert f1("", "car") == 0


@pytest.mark.parametrize(
    ("gold", "text", "kind", "expected"),
    [
        ("3", "3 dogs or 5", "Integer", 1.0),
        ("3", "about 3.5", "Integer", 0.0),
        ("1,200", "1200", "Integer", 1.0),
        ("12.5%", "0.125", "Float", 1.0),
        ("12.5%", "12.6%", "Float", 1.0),
        ("12.5%", "13", "Float", 0.0),
        ("red car", "a red bus", "String", 0.5),
        ("2020-01-02", "on 2020-01-02.", "String", 1.0),
        ("2020-01-02", "2020", "String", 0.0),
        ("Not answerable", "Not answerable.", "None", 1.0),
        ('["red", "car", 4]', "4 red", "List", (0.5 + 1) / 2),
        ('["a@b.org"]', "write to a@b.org", "List", 1.0),
    ],
)
def test_document_scores(gold, text, kind, expected):
    assert document_score(gold, text, kind) == pytest.approx(expected)


def test_rouge_by_hand():
    """Longest common subsequence 3 of 4 and 5 words: 2 * 3 / (4 + 5); stemming joins the plural."""
    pytest.importorskip("rouge_score")
    assert rouge_l("the cats sat down", ["the cat is down here"]) == pytest.approx(6 / 9)
    assert rouge_l("cat", ["dog", "cats"]) == 1.0
