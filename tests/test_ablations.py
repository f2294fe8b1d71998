"""Ablation tables on cases that can be checked by hand; no model."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from analysis.ablations import (
    adaptive_curve,
    answers_frame,
    by_label,
    choose,
    pareto,
    values_of,
)
from analysis.resampling import mean_interval
from analysis.rules import RULES, agreement, apply_rule, divergence, moved
from analysis.statistics import clustered_interval, paired_difference, wilson_interval
from focus.aggregation import AGGREGATIONS
from focus.contrast import combine
from focus.errors import InvalidValueError, UnknownNameError
from focus.evidence import Evidence
from focus.marks import CANDIDATES, TEXT, AnswerKey, read, right_probability
from focus.records import read_records, write_records
from focus.scoring import Reference

IDS = {"red": 0, "blue": 1, "green": 2, "unknown": 3, "square": 4}
ASKED = [
    Reference("red", ("red", "blue", "green"), ("blue",)),
    Reference("blue", ("red", "blue", "green")),
]


def test_answers_are_read_over_the_vocabulary_and_among_the_candidates():
    key = AnswerKey.of(ASKED, IDS, "unknown")
    logits = torch.tensor([[1.0, 2.0, 0.0, 3.0, 9.0], [0.0, 1.0, 0.5, 2.0, 0.0]])
    assert read(logits, key, TEXT) == "-?"  # a square is no answer; "unknown" is told apart
    assert read(logits, key, CANDIDATES) == "x+"  # blue is true of another image; blue is right
    with pytest.raises(InvalidValueError, match="reading"):
        read(logits, key, "letters")
    with pytest.raises(UnknownNameError, match="purple"):
        AnswerKey.of([Reference("purple", ("purple",))], IDS, "unknown")


def test_tokens_beyond_the_key_are_no_answers():
    """Model vocabularies are padded to a round number."""
    key = AnswerKey.of(ASKED[:1], IDS, "unknown")
    assert read(torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0, 7.0]]), key, TEXT) == "+"


def test_expected_accuracy_at_a_temperature():
    key = AnswerKey.of(ASKED[:1], IDS, "unknown")
    logits = torch.tensor([[math.log(3.0), 0.0, -math.inf, -math.inf, -math.inf]])
    assert right_probability(logits, key, TEXT, 1.0) == pytest.approx([3 / 4])
    assert right_probability(logits, key, TEXT, 0.5) == pytest.approx([9 / 10])
    with pytest.raises(InvalidValueError, match="temperature"):
        right_probability(logits, key, TEXT, 0.0)


def test_intervals_agree_with_the_thorough_ones():
    rng = np.random.default_rng(0)
    a, b = (rng.random(200) < 0.7).astype(float), (rng.random(200) < 0.6).astype(float)
    pairs = [k // 2 for k in range(200)]
    for labels in (None, pairs):
        thorough = paired_difference(a, b, labels)
        fast = mean_interval(a - b, labels, bounds=(-1.0, 1.0))
        assert fast == pytest.approx((thorough.low, thorough.high), abs=0.012)
        thorough_mean = clustered_interval(a, range(200) if labels is None else labels)
        assert mean_interval(a, labels) == pytest.approx(thorough_mean, abs=0.012)


def test_clusters_widen_an_interval():
    values = np.repeat([0.0, 1.0], 50)
    low, high = mean_interval(values)
    wide_low, wide_high = mean_interval(values, [k // 10 for k in range(100)])
    assert wide_high - wide_low > 1.5 * (high - low)


def test_an_interval_never_claims_certainty():
    assert mean_interval(np.zeros(0)) == (0.0, 1.0)
    low, high = mean_interval(np.ones(50))
    assert (low, high) == (pytest.approx(1 - wilson_interval(0, 50)[1]), 1.0)
    with pytest.raises(InvalidValueError, match="clusters"):
        mean_interval(np.ones(3), [1, 2])


def line(rule: str, marks: str, world: str = "scenes", **settings) -> dict:
    return {
        "record": "answers",
        "model": "m",
        "questions": f"{world}-q",
        "world": world,
        "kind": "indexed",
        "rule": rule,
        "reading": TEXT,
        "marks": marks,
        **settings,
    }


def questions(world: str = "scenes", clusters=(0, 1, 2, 3)) -> dict:
    return {"record": "questions", "questions": f"{world}-q", "clusters": list(clusters)}


def test_a_line_is_compared_with_plain_decoding_question_by_question():
    records = [questions(), line("plain", "+x--"), line("sum", "+++-", alpha=0.3)]
    frame = answers_frame(records).set_index("rule")
    assert frame.loc["plain", "value"] == 0.25
    assert frame.loc["sum", ["value", "delta", "n"]].tolist() == [0.75, 0.5, 4]
    assert frame.loc["sum", "p_value"] == 0.5  # exact McNemar: two questions, both for FOCUS
    assert frame.loc["sum", "delta_low"] < 0.5 < frame.loc["sum", "delta_high"]
    assert np.isnan(frame.loc["plain", "delta"])
    leaks = answers_frame(records, metric="leakage").set_index("rule")
    assert leaks["value"].tolist() == [0.25, 0.0]


def test_a_line_without_a_plain_one_has_no_difference():
    other = line("plain", "++++") | {"model": "other"}
    frame = answers_frame([questions(), other, line("sum", "+++-")])
    assert frame["delta"].isna().all()


def test_worlds_are_pooled_question_by_question():
    records = [questions("scenes"), questions("digits", (0, 1))]
    records += [line("plain", "----"), line("plain", "+-", "digits")]
    records += [line("sum", "++--"), line("sum", "--", "digits")]
    frame = answers_frame(records, pooled=["world"]).set_index("rule")
    assert frame.loc["sum", "n"] == 6
    assert frame.loc["sum", "value"] == pytest.approx(2 / 6)
    assert frame.loc["sum", "delta"] == pytest.approx((2 - 1) / 6)
    assert frame.loc["sum", "clusters"] == 6  # cluster 0 of one world is not that of the other


def test_pairs_of_questions_are_one_unit():
    records = [questions(clusters=(0, 0, 1, 1)), line("plain", "----"), line("sum", "++--")]
    frame = answers_frame(records).set_index("rule")
    assert frame.loc["sum", "clusters"] == 2
    assert frame.loc["sum", "p_value"] == 1.0  # one moved pair says nothing


def test_p_values_are_adjusted_over_the_whole_table():
    records = [questions(clusters=range(10)), line("plain", "-" * 10)]
    records += [line("sum", "+" * 10), line("max", "+" * 9 + "-")]
    frame = answers_frame(records).set_index("rule")
    assert frame.loc["sum", "p_holm"] == pytest.approx(2 * frame.loc["sum", "p_value"])


def test_sampled_lines_hold_expected_scores():
    record = {"scores": [100, 25], "record": "answers"}
    assert values_of(record).tolist() == [1.0, 0.25]
    with pytest.raises(InvalidValueError, match="metric"):
        values_of(record, "leakage")
    with pytest.raises(InvalidValueError, match="metric"):
        values_of({"marks": "+"}, "speed")


def test_accuracy_by_label():
    frame = by_label(line("sum", "++-+"), ["one", "two", "two", "one"])
    assert frame[["label", "value", "n"]].values.tolist() == [["one", 1.0, 2], ["two", 0.5, 2]]
    with pytest.raises(InvalidValueError, match="labels"):
        by_label(line("sum", "++"), ["one"])


def test_the_smallest_of_the_best_settings_is_chosen():
    assert choose({0.7: 0.9, 0.3: 0.9, 0.0: 0.2}) == 0.3
    with pytest.raises(InvalidValueError, match="scores"):
        choose({})


def test_adaptive_curve_runs_from_plain_to_always():
    curve = adaptive_curve(
        np.array([0.1, 0.9]), np.array([0.0, 1.0]), np.array([1.0, 0.0]), branched_rows=3
    )
    assert curve["threshold"].tolist() == [0.0, 0.1, 0.9, math.inf]
    assert curve["value"].tolist() == [0.5, 0.5, 1.0, 0.5]
    assert curve["rows"].tolist() == [1.0, 1.0, 2.5, 3.0]


def test_pareto_front():
    frame = pd.DataFrame({"rows": [1, 2, 2, 3], "value": [0.5, 0.7, 0.6, 0.7]})
    assert pareto(frame, "rows").tolist() == [True, True, False, False]


def test_records_are_written_alike_and_read_back(tmp_path):
    records = [line("plain", "+-"), {"record": "choice", "chosen": math.inf}]
    write_records(tmp_path / "a.jsonl.gz", records)
    write_records(tmp_path / "b.jsonl.gz", records)
    assert list(read_records(tmp_path / "a.jsonl.gz")) == records
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
    assert list(read_records(tmp_path / "none.jsonl.gz")) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.jsonl.gz", "b.jsonl.gz"]


def evidence(plain, reference, branches, target=None) -> Evidence:
    """Evidence of one question from probabilities."""
    log = [torch.tensor(p, dtype=torch.float64).log() for p in (plain, reference)]
    rows = torch.stack([torch.tensor(p, dtype=torch.float64).log() for p in branches])
    known = None if target is None else torch.tensor([target])
    return Evidence(log[0][None], log[1][None], rows[:, None], known)


RANDOM = Evidence(
    plain=torch.randn(5, 7, generator=torch.manual_seed(0)),
    reference=torch.randn(5, 7, generator=torch.manual_seed(1)),
    branches=torch.randn(3, 5, 7, generator=torch.manual_seed(2)),
    target=torch.tensor([0, 1, 2, 0, 1]),
)


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_rules_of_the_method_are_those_of_the_method(name):
    expected = combine(RANDOM.branches, RANDOM.reference, alpha=0.4, aggregation=name)
    torch.testing.assert_close(apply_rule(name, RANDOM, 0.4), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", RULES)
def test_rules_answer_every_question_by_itself(name):
    whole = apply_rule(name, RANDOM, 0.4)
    assert whole.shape == (5, 7)
    one = Evidence(
        RANDOM.plain[3:4], RANDOM.reference[3:4], RANDOM.branches[:, 3:4], RANDOM.target[3:4]
    )
    torch.testing.assert_close(whole[3:4], apply_rule(name, one, 0.4))


@pytest.mark.parametrize("name", [rule for rule in RULES if rule != "oracle"])
def test_adding_a_constant_to_a_row_changes_no_answer(name):
    """Logits are known up to a constant; a rule that depends on it depends on nothing real."""
    moved_rows = Evidence(RANDOM.plain + 3, RANDOM.reference - 2, RANDOM.branches + 5, None)
    before, after = (apply_rule(name, e, 0.4).softmax(-1) for e in (RANDOM, moved_rows))
    torch.testing.assert_close(before, after)


@pytest.mark.parametrize("name", ["anchored", "anchored_max", "anchored_agreeing"])
def test_anchored_rules_without_evidence_are_plain_decoding(name):
    torch.testing.assert_close(apply_rule(name, RANDOM, 0.0).softmax(-1), RANDOM.plain.softmax(-1))


def test_the_oracle_takes_the_asked_branch():
    expected = RANDOM.branches[2, 2] - 0.4 * RANDOM.reference[2]
    torch.testing.assert_close(apply_rule("oracle", RANDOM, 0.4)[2], expected)
    with pytest.raises(InvalidValueError, match="target"):
        apply_rule("oracle", Evidence(RANDOM.plain, RANDOM.reference, RANDOM.branches), 0.4)
    with pytest.raises(UnknownNameError, match="median"):
        apply_rule("median", RANDOM, 0.4)


# Words: right, other, unknown.
BLIND = [[0.05, 0.05, 0.90]]


def test_divergence_and_agreement_by_hand():
    found = evidence([0.5, 0.5], [0.5, 0.5], [[0.5, 0.5], [1.0 - 1e-12, 1e-12]])
    assert divergence(found)[:, 0].tolist() == pytest.approx([0.0, math.log(2)], abs=1e-6)
    assert moved(found)[:, 0].tolist() == pytest.approx([0.0, 0.5], abs=1e-6)
    assert agreement(found)[:, 0].tolist() == pytest.approx([0.5, 0.5], abs=1e-6)


def test_abstaining_branches_outvote_the_sum_and_not_a_gate():
    """Three branches say "unknown", one has seen: the sum without contrast believes the three."""
    seen = [0.90, 0.05, 0.05]
    found = evidence([0.4, 0.5, 0.1], BLIND[0], [seen, *(BLIND * 3)])
    assert apply_rule("sum", found, 0.0).argmax() == 2
    for name in ("gated", "agreeing", "anchored", "anchored_max", "anchored_agreeing"):
        assert apply_rule(name, found, 0.7).argmax() == 0, name


def test_answering_branches_tie_and_plain_decoding_decides():
    """Each branch names its own image with the same confidence."""
    own = [[0.90, 0.05, 0.05], [0.05, 0.90, 0.05]]
    found = evidence([0.55, 0.40, 0.05], BLIND[0], own)
    tied = apply_rule("sum", found, 0.3)[0]
    assert tied[0] == pytest.approx(float(tied[1]))
    for name in ("agreeing", "anchored", "anchored_max", "anchored_agreeing"):
        assert apply_rule(name, found, 0.7).argmax() == 0, name
