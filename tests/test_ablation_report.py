"""The report of the ablations says what the records say: pairs, comparisons, verdicts, pages."""

from __future__ import annotations

import re
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.stats
from rich.console import Console

from analysis import findings
from analysis.ablation_figures import adaptive_figure, cost_figure, heat_figure, lines_figure
from analysis.ablation_tables import (
    adaptive_frame,
    cells_frame,
    cost_points,
    label_frame,
    run_table,
    tables_markdown,
)
from analysis.ablation_views import VIEWS, pooled_frame
from analysis.ablations import (
    HEADLINE,
    IMAGE_SCORE,
    answers_frame,
    of_kind,
    unit_values,
)
from analysis.claims import (
    CLAIMS,
    FAILURES,
    OTHER_NOISE,
    ROUTED,
    SINGLE,
    Claim,
    Test,
    in_both_readings,
)
from analysis.comparisons import (
    ABOVE,
    ALIKE,
    BELOW,
    HOLDS,
    MARGIN,
    OPEN,
    REVERSED,
    compare,
    verdict,
    word,
)
from analysis.judging import judge, rule_cells
from analysis.kinds import KINDS as ALL_KINDS
from analysis.kinds import card_kinds, model_kinds, names_of, ordered
from analysis.outcomes import (
    claim_table,
    glance_table,
    outcome,
    outcome_table,
    sentence,
    telling_row,
    verdict_frame,
)
from analysis.resampling import sign_flip, t_test
from analysis.results import NOT_RUN, Found, Page
from analysis.results_figures import abstention_figure, effect_figure, verdict_figure
from analysis.statistics import paired_difference
from experiments.ablation_rows import Rows
from experiments.ablation_sweeps import Sweep
from experiments.config import CONF, compose_config, plain
from focus.errors import InvalidValueError
from focus.marks import CANDIDATES, TEXT

ROWS = Rows().columns
KINDS = {"a-abstaining": "abstaining", "b-answering": "answering"}
ALL_TESTS = [test for claim in (*CLAIMS, *FAILURES, ROUTED, SINGLE) for test in claim.tests]


def asked(name: str, *, groups: list[int] | None = None, size: int = 20, **settings) -> dict:
    numbers = list(range(size))
    return {
        "record": "questions", "questions": name, "kind": "indexed", "num_images": 2,
        "world": "scenes", "clusters": groups or numbers,
        "groups": groups or numbers, "target": [k % 2 for k in numbers],
        "domain": ["d"] * size, "answer": ["x"] * size, **settings,
    }  # fmt: skip


def line(name: str, rule: str, marks: str, model: str = "a-abstaining", **settings) -> dict:
    common = {"world": "scenes", "kind": "indexed", "num_images": 2, "split": "test"}
    return {
        "record": "answers", "model": model, "questions": name, **common, "rule": rule,
        "reading": TEXT, "marks": marks, "rows": 1, **settings,
    }  # fmt: skip


def said(model: str, role: str, *, name: str = "q", unknown: int, own: int, right: int = 0,
         total: int = 20, **settings) -> dict:  # fmt: skip
    return {
        **line(name, "sum", ""), **ROWS, "record": "rows", "model": model, "role": role,
        "answer": None, "total": total, "right": right, "unknown": unknown, "own": own, **settings,
    }  # fmt: skip


# -- Pairs ----------------------------------------------------------------------------------------


def test_a_pair_counts_once_and_only_if_both_captions_find_their_image():
    questions = asked("m", groups=[0, 0, 1, 1, 2, 2, 3, 3], size=8, kind="matching")
    both = line("m", "sum", "+++-x+-?", kind="matching")
    values, clusters = unit_values(both, questions, IMAGE_SCORE)
    assert values.tolist() == [1, 0, 0, 0]
    assert clusters == ["m/0", "m/1", "m/2", "m/3"]
    # Control: as single questions half of them are right.
    assert unit_values(both, questions, "accuracy")[0].mean() == 0.5


def test_pairs_are_found_by_their_group_not_by_their_place():
    questions = asked("m", groups=[0, 1, 0, 1], size=4, kind="matching")
    values, _ = unit_values(line("m", "sum", "+-+-", kind="matching"), questions, IMAGE_SCORE)
    assert values.tolist() == [1, 0]


def test_where_answers_are_sampled_both_must_be_drawn_right():
    questions = asked("m", groups=[0, 0], size=2, kind="matching")
    sampled = {"kind": "matching", "scores": [50, 80], "questions": "m"}
    assert unit_values(sampled, questions, IMAGE_SCORE)[0] == pytest.approx([0.4])


def pairs_records() -> list[dict]:
    questions = asked("m", groups=[k // 2 for k in range(20)], kind="matching")
    one = {"kind": "matching"}
    return [questions, line("m", "plain", "+-" * 10, **one),
            line("m", "sum", "++" * 9 + "+-", **one)]  # fmt: skip


def test_the_headline_of_pairs_is_the_image_score_and_of_the_rest_accuracy():
    records = [*pairs_records(), asked("q"), line("q", "plain", "+" * 10 + "-" * 10)]
    frame = answers_frame(records, metric=HEADLINE).set_index(["kind", "rule"])
    assert frame.loc[("matching", "plain"), ["metric", "value", "n"]].tolist() == [
        IMAGE_SCORE, 0.0, 10,
    ]  # fmt: skip
    assert frame.loc[("indexed", "plain"), ["metric", "value", "n"]].tolist() == [
        "accuracy", 0.5, 20,
    ]  # fmt: skip
    row = frame.loc[("matching", "sum")]
    assert (row["delta"], row["clusters"]) == (pytest.approx(0.9), 10)
    expected = paired_difference([True] * 9 + [False], [False] * 10)
    assert row["p_value"] == pytest.approx(expected.p_value)  # exact McNemar over pairs
    with pytest.raises(InvalidValueError, match="metric"):
        unit_values(line("q", "plain", "+" * 20), asked("q"), IMAGE_SCORE)


def test_every_cell_has_every_metric_that_its_kind_has():
    records = [*pairs_records(), asked("q"), line("q", "plain", "+x" * 10)]
    frame = cells_frame(records)
    of = {kind: set(part["metric"]) for kind, part in frame.groupby("kind")}
    assert of == {
        "matching": {"accuracy", "abstained", IMAGE_SCORE},
        "indexed": {"accuracy", "abstained", "leakage"},
    }


# -- Tests and comparisons ------------------------------------------------------------------------


def test_the_exact_sign_flip_is_mcnemar_where_units_are_single():
    rng = np.random.default_rng(1)
    a, b = rng.random(300) < 0.7, rng.random(300) < 0.6
    exact = sign_flip(a.astype(float) - b)
    assert exact == pytest.approx(paired_difference(a, b).p_value)
    assert sign_flip(np.zeros(5)) == 1.0


def test_the_exact_sign_flip_is_that_of_scipy_where_units_are_clusters():
    values = np.array([1, 1, 0, 1, -1, 0, 1, 0, 1, 1, -1, -1, 1, 1.0])
    clusters = [k // 2 for k in range(14)]
    sums = values.reshape(7, 2).sum(axis=1)
    expected = scipy.stats.permutation_test(
        (sums,), lambda x, axis: x.sum(axis=axis), permutation_type="samples", vectorized=True,
        n_resamples=np.inf,
    )  # fmt: skip
    assert sign_flip(values, clusters) == pytest.approx(expected.pvalue)
    assert sign_flip(values, clusters) != pytest.approx(sign_flip(values))  # clusters matter
    assert sign_flip(np.array([0.25, 1.0])) is None


def test_a_small_p_value_survives_many_comparisons():
    """Sampled flips could not fall below one by their number, whatever the evidence."""
    assert sign_flip(np.ones(200), [k // 2 for k in range(200)]) < 1e-25


def test_expected_scores_are_tested_as_by_flipping_signs():
    rng = np.random.default_rng(2)
    clusters = [k // 2 for k in range(600)]
    for shift in (0.0, 0.01, 0.02):
        values = rng.normal(shift, 0.1, 300).repeat(2)  # two alike: half as many units as questions
        sums = values.reshape(300, 2).sum(axis=1)
        flipped = scipy.stats.permutation_test(
            (sums,), lambda x, axis: x.sum(axis=axis), permutation_type="samples",
            vectorized=True, n_resamples=5000, rng=rng,
        )  # fmt: skip
        assert t_test(values, clusters) == pytest.approx(flipped.pvalue, rel=0.15, abs=0.01)
    assert t_test(values) < t_test(values, clusters)  # clusters matter
    assert [t_test(np.zeros(5)), t_test(np.ones(1)), t_test(np.full(5, 0.1))] == [1, 1, 2 / 2**5]


def two_rules() -> list[dict]:
    """The maximum is right where the sum is, and in ten more of forty, in two worlds."""
    records = []
    for world in ("scenes", "digits"):
        records += [
            asked(world, world=world),
            line(world, "plain", "-" * 20, world=world),
            line(world, "sum", "+" * 5 + "-" * 15, world=world, alpha=0.3),
            line(world, "max", "+" * 10 + "-" * 10, world=world, alpha=0.7),
        ]
    return records


def test_a_comparison_pairs_lines_and_puts_worlds_together():
    (row,) = compare(two_rules(), {"rule": "max"}, {"rule": "sum"}).to_dict("records")
    assert (row["first"], row["second"], row["delta"]) == (0.5, 0.25, 0.25)
    assert (row["n"], row["clusters"]) == (40, 40)
    expected = paired_difference([1] * 20 + [0] * 20, [1] * 10 + [0] * 30)
    assert row["p_value"] == pytest.approx(expected.p_value)
    assert (row["delta_low"], row["delta_high"]) == pytest.approx(
        (expected.low, expected.high), abs=0.03
    )
    apart = compare(two_rules(), {"rule": "max"}, {"rule": "sum"}, by=("model", "world"))
    assert apart["world"].tolist() == ["scenes", "digits"]


def test_the_same_question_to_several_models_is_one_unit():
    records = two_rules()
    copies = [{**r, "model": "b-answering"} for r in of_kind(records, "answers")]
    (row,) = compare(records + copies, {"rule": "max"}, {"rule": "sum"}, by=("rule",)).to_dict(
        "records"
    )
    assert (row["n"], row["clusters"]) == (80, 40)


def test_a_comparison_needs_one_partner():
    records = [*two_rules(), line("scenes", "sum", "+" * 20, alpha=0.9)]
    with pytest.raises(InvalidValueError, match="one line"):
        compare(records, {"rule": "max"}, {"rule": "sum"})
    assert len(compare(records, {"rule": "max"}, {"rule": "sum", "alpha": 0.9})) == 1
    assert compare(records, {"rule": "max"}, {"rule": "median"}).empty
    # Another reading, or a sampled line, is no partner.
    other = [{**r, "reading": CANDIDATES} for r in of_kind(two_rules(), "answers")]
    assert compare([*two_rules(), *other], {"rule": "max"}, {"rule": "sum"})["n"].tolist() == [40]
    warm = line("scenes", "max", "", temperature=1.0, scores=[50] * 20)
    del warm["marks"]
    assert compare([*two_rules(), warm], {"rule": "max"}, {"rule": "sum"})["n"].tolist() == [40]


# -- Verdicts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "aim", "expected"),
    [
        (0.01, 0.2, ABOVE, HOLDS), (-0.2, -0.01, ABOVE, REVERSED), (-0.01, 0.2, ABOVE, OPEN),
        (0.0, 0.2, ABOVE, OPEN),  # zero itself is not excluded
        (0.01, 0.2, BELOW, REVERSED), (-0.2, -0.01, BELOW, HOLDS), (-0.2, 0.0, BELOW, OPEN),
        (-0.9 * MARGIN, 0.9 * MARGIN, ALIKE, HOLDS), (0.0, 1.1 * MARGIN, ALIKE, OPEN),
        (1.1 * MARGIN, 0.3, ALIKE, REVERSED), (-0.3, -1.1 * MARGIN, ALIKE, REVERSED),
        (0.1 * MARGIN, 0.9 * MARGIN, ALIKE, HOLDS),  # significant, and too small to matter
    ],
)  # fmt: skip
def test_the_interval_decides_the_word(low, high, aim, expected):
    assert word(low, high, aim) == expected
    with pytest.raises(InvalidValueError, match="aim"):
        word(low, high, "sideways")


def test_verdicts_count_models_and_their_kinds():
    words = {"a": HOLDS, "b": HOLDS, "c": REVERSED, "d": OPEN}
    kinds = {"a": "abstaining", "b": "abstaining", "c": "answering", "d": "answering"}
    assert verdict(words, kinds) == (
        "holds on 2 of 4 models, reversed on 1, open on 1 "
        "(abstaining: 2 of 2 hold; answering: 0 of 2 hold, 1 reversed, 1 open)"
    )
    assert verdict({"a": HOLDS}, kinds) == "holds on 1 of 1 models"
    assert verdict({}, {}) == "nothing to compare"


def gaining_and_losing() -> list[dict]:
    """One model gains ten of twenty questions, the other loses as many; branches say why."""
    records = [asked("q")]
    for model, marks in (("a-abstaining", "+" * 20), ("b-answering", "-" * 20)):
        records += [line("q", "plain", "+" * 10 + "-" * 10, model),
                    line("q", "sum", marks, model, **ROWS)]  # fmt: skip
    return [
        *records,
        said("a-abstaining", "off target", unknown=19, own=1),
        said("a-abstaining", "on target", unknown=0, own=0, right=20),
        said("b-answering", "off target", unknown=2, own=18),
    ]


GAIN = Test("FOCUS minus plain", "images", {"rule": "sum", "kind": "indexed"})


def test_each_reading_has_a_verdict_of_its_own():
    """Here every answer that is lost as text is won as a ranking."""
    records = gaining_and_losing()
    swapped = {"a-abstaining": "b-answering", "b-answering": "a-abstaining"}
    ranked = [{**record, "model": swapped[record["model"]], "reading": "candidates"}
              for record in records if record["record"] == "answers"]  # fmt: skip
    spoken, ranking = in_both_readings(GAIN)
    assert spoken == GAIN
    assert ranking.label == "FOCUS minus plain, read as a ranking of the candidates"
    words = [outcome(test, [*records, *ranked], KINDS).words for test in (spoken, ranking)]
    assert words[0] == {"a-abstaining": HOLDS, "b-answering": REVERSED}
    assert words[1] == {"a-abstaining": REVERSED, "b-answering": HOLDS}


def test_a_claim_holds_on_one_model_and_is_reversed_on_the_other_and_says_why():
    records = gaining_and_losing()
    found = outcome(GAIN, records, KINDS)
    assert found.words == {"a-abstaining": HOLDS, "b-answering": REVERSED}
    assert sentence(found, KINDS) == (
        "FOCUS minus plain: holds on 1 of 2 models, reversed on 1 "
        "(abstaining: 1 of 1 hold; answering: 0 of 1 hold, 1 reversed)."
    )
    assert found.reason == (
        'Branches that do not show the asked image say, where it is true, "unknown" in 95%, their '
        'own image\'s answer in 5%, the right answer in 0%; where it is reversed, "unknown" in '
        "10%, their own image's answer in 90%, the right answer in 0%."
    )
    table = outcome_table(found, KINDS)
    assert "+0.500 [" in table
    assert "-0.500 [" in table
    assert re.search(r"holds / reversed / open .* 1 / 1 / 0", table)
    # Control: were the marks the other way round, so were the verdicts.
    turned = [{**r, "model": {"a-abstaining": "b-answering"}.get(r["model"], "a-abstaining")}
              if "model" in r else r for r in records]  # fmt: skip
    assert outcome(GAIN, turned, KINDS).words == {"b-answering": HOLDS, "a-abstaining": REVERSED}


def seeds(deltas: dict[int, int]) -> list[dict]:
    """Lines of several seeds, so many of 400 questions more or fewer right than with the first."""
    records = [asked("q", size=400), line("q", "sum", "+" * 200 + "-" * 200, seed=0)]
    for seed, delta in deltas.items():
        right = 200 + delta
        records.append(line("q", "sum", "+" * right + "-" * (400 - right), seed=seed))
    return records


def test_settings_that_must_be_alike_must_each_be():
    test = Test("seeds", "seeds", {"rule": "sum", "seed": [1, 2]}, {"rule": "sum", "seed": 0},
                across="seed", aim=ALIKE, every=True)  # fmt: skip
    assert outcome(test, seeds({1: 2, 2: -2}), KINDS).words == {"a-abstaining": HOLDS}
    # Opposite differences cancel out in the mean, and still are differences.
    assert outcome(test, seeds({1: 100, 2: -100}), KINDS).words == {"a-abstaining": REVERSED}
    assert outcome(test, seeds({1: 15, 2: 0}), KINDS).words == {"a-abstaining": OPEN}


def test_claims_look_where_records_are():
    """A setting that no experiment computes would be a claim that can never be decided."""
    computed = {}
    for experiment in {test.experiment for test in ALL_TESTS}:
        config = plain(compose_config("ablate", [f"experiment=ablation_{experiment}"]))
        sweeps = [Sweep.of(axes) for axes in config["sweeps"]]
        rules = {rule for sweep in sweeps for rule in (*sweep.rules, "plain")}
        rules |= {"plain_matched"} if any(sweep.temperatures for sweep in sweeps) else set()
        kinds = {q.kind for sweep in sweeps for q in sweep.question_sets(config["worlds"], 2)}
        computed[experiment] = rules, kinds
    for test in ALL_TESTS:
        rules, kinds = computed[test.experiment]
        for side in (test.first, test.second):
            for name, known in (("rule", rules), ("kind", kinds)):
                value = side.get(name, [])
                assert {value} <= known if isinstance(value, str) else set(value) <= known, test


# -- Rules ----------------------------------------------------------------------------------------


def judged_records(wins: int, losses: int, size: int = 100, split: str = "dev") -> list[dict]:
    """A rule that beats the sum on one question set and loses on another by so many questions."""
    records = []
    for name, delta in (("easy", wins), ("hard", -losses)):
        base, key = size // 2, f"{name}-{split}"
        kind = {"easy": "indexed", "hard": "probe"}[name]
        for rule, right in (("sum", base), ("gated", base + delta), ("oracle", size)):
            marks = "+" * right + "-" * (size - right)
            records.append(line(key, rule, marks, split=split, kind=kind))
        records.append(asked(key, size=size))
    return records


def test_rules_are_judged_cell_by_cell_and_on_each_split():
    records = judged_records(40, 0) + judged_records(0, 40, split="test")
    found = judge(records).set_index("split")
    columns = ["rule", "cells", "won", "tied", "lost"]
    assert found.loc["dev", columns].tolist() == ["gated", 2, 1, 1, 0]
    assert found.loc["test", columns].tolist() == ["gated", 2, 0, 1, 1]
    assert found.loc["dev", "delta"] == pytest.approx(0.2)
    assert found.loc["dev", "delta_low"] > 0 > found.loc["test", "delta_high"]
    sentence_ = findings.judged_sentence(judge(records))
    assert sentence_ == "Rules that win cells and lose none: on dev gated; on test none."
    table = findings.judged_table({TEXT: judge(records)})
    assert "1 / 1 / 0" in table
    assert "0 / 1 / 1" in table


def test_an_oracle_is_no_candidate_and_a_split_may_be_missing():
    found = judge(judged_records(40, 0))
    assert set(found["rule"]) == {"gated"}
    assert findings.judged_sentence(found).endswith("on dev gated; on test not judged yet.")
    assert judge([]).empty
    # What wins here and loses there is safe nowhere.
    mixed = judge(judged_records(40, 40))
    assert mixed[["won", "lost"]].values.tolist() == [[1, 1]]
    assert "on dev none" in findings.judged_sentence(mixed)


def test_cells_are_counted_for_each_model_and_split():
    """The second model has them the other way round, and stands first: it abstains."""
    records = judged_records(40, 0) + judged_records(0, 40, split="test")
    swapped = {"dev": "test", "test": "dev"}
    named = {name: f"{name.split('-')[0]}-{swapped[name.split('-')[1]]}"
             for name in ("easy-dev", "hard-dev", "easy-test", "hard-test")}  # fmt: skip
    other = [{**r, "model": "z-abstaining", "split": swapped[r["split"]],
              "questions": named[r["questions"]]} for r in of_kind(records, "answers")]  # fmt: skip
    cells = {TEXT: rule_cells([*records, *other]), CANDIDATES: pd.DataFrame()}
    kinds = {"a-abstaining": "answering", "z-abstaining": "abstaining"}
    table = findings.by_model_table(cells, "gated", kinds).splitlines()
    assert "as generated text, dev" in table[0]
    assert re.search(r"z-abstaining .* abstaining .* 0 / 1 / 1 .* 1 / 1 / 0", table[2])
    assert re.search(r"a-abstaining .* answering .* 1 / 1 / 0 .* 0 / 1 / 1", table[3])
    assert findings.by_model_table(cells, "no such rule", kinds) == ""


def test_cells_are_adjusted_together():
    """Seven of seven discordant questions: p = 0.016 alone, nothing in a family of four."""
    assert rule_cells(judged_records(7, 0))["outcome"].tolist() == ["won", "tied"]
    many = judged_records(7, 0)
    extra = [{**r, "rule": "agreeing"} for r in of_kind(many, "answers") if r["rule"] == "gated"]
    cells = rule_cells([*many, *extra])
    assert cells["p_value"].min() == pytest.approx(2 / 2**7)
    assert set(cells["outcome"]) == {"tied"}


# -- Beyond the paper -----------------------------------------------------------------------------


def test_gain_is_set_beside_abstention():
    points = findings.abstention_points(gaining_and_losing())
    assert points.set_index("model")["unknown"].to_dict() == {
        "a-abstaining": 0.95, "b-answering": 0.1,
    }  # fmt: skip
    text = findings.abstention_sentence(points)
    assert "at least 50%, the sum gains in 1 of 1 and loses in 0" in text
    assert "less than 50%, the sum gains in 0 of 1 and loses in 1" in text
    blend = said("b-answering", "off target", unknown=20, own=0, scale=0.5)
    other = [blend, *gaining_and_losing()]
    assert findings.abstention_points(other)["unknown"].tolist() == points["unknown"].tolist()
    table = findings.models_table(gaining_and_losing(), KINDS)
    assert re.search(r"abstaining \| a-abstaining +\| 0.950 .* 0.050 .* 1.000", table)


def test_the_sum_falls_with_more_images():
    records = []
    for number, right in ((2, 18), (8, 4)):
        name = f"q{number}"
        records.append(asked(name, num_images=number))
        for rule, extra in (("plain", 0), ("sum", -2), ("max", 1)):
            marks = "+" * (right + extra) + "-" * (20 - right - extra)
            records.append(line(name, rule, marks, num_images=number))
    assert findings.number_sentence(records, KINDS) == [
        "- abstaining (1 model), read as generated text: mean accuracy from 2 to 8 images: "
        "plain 0.900 to 0.200, sum 0.800 to 0.100, maximum 0.950 to 0.250."
    ]
    ranked = [{**record, "reading": "candidates", "marks": "+" * 20}
              for record in records if "reading" in record]  # fmt: skip
    (told,) = findings.number_sentence([*records, *ranked], KINDS, "candidates")
    assert "read as a ranking of the candidates: mean" in told
    assert told.endswith("plain 1.000 to 1.000, sum 1.000 to 1.000, maximum 1.000 to 1.000.")


def test_the_front_leaves_out_what_is_dominated_and_what_knows_the_image():
    records = [asked("q")]
    for rule, right, rows in (("plain", 10, 1), ("sofa", 8, 1), ("vcd", 9, 2), ("sum", 15, 3),
                              ("oracle", 20, 3), ("single_image", 19, 1)):  # fmt: skip
        records.append(line("q", rule, "+" * right + "-" * (20 - right), rows=rows))
    assert cost_points(records, "indexed", 2).set_index("rule")["rows"].to_dict()["sum"] == 3
    table = findings.front_table(records, "indexed", 2)
    assert "plain 0.500 (1), FOCUS (sum) 0.750 (3)" in table
    assert not re.search("sofa|vcd|oracle|single", table)


# -- Pages ----------------------------------------------------------------------------------------


def test_tables_have_settings_down_and_models_across():
    frame = pooled_frame(gaining_and_losing(), VIEWS["aggregation"])
    text = tables_markdown(frame, ("num_images", "rule"))
    assert "### indexed: accuracy, read as generated text" in text
    header, _, *lines = text.split("\n\n")[1].splitlines()
    assert [cell.strip() for cell in header.strip("|").split("|")] == ["rule", "n", *KINDS]
    assert [cell.split()[1] for cell in lines] == ["plain", "FOCUS"]
    assert re.search(
        r"FOCUS \(sum\) +\| 20 +\| 1.000 \(\+0.500 \[.*\) +\| 0.000 \(-0.500 ", lines[1]
    )


def test_worlds_are_put_together_unless_the_page_tells_them_apart():
    frame = pooled_frame(two_rules(), VIEWS["aggregation"]).set_index("rule")
    assert frame.loc["max", "n"] == 40
    apart = pooled_frame(two_rules(), VIEWS["domains"])
    assert set(apart["n"]) == {20}


def test_the_table_of_the_readme_has_a_line_per_model_and_kind():
    indexed = [asked("q"), *(
        line("q", rule, marks, model)
        for model in ("b-answering", "a-abstaining")
        for rule, marks in (("plain", "+-" * 10), ("sum", "-" * 20), ("max", "+-" * 10),
                            ("routed", "+" * 20))
    )]  # fmt: skip
    ranked = [{**r, "reading": CANDIDATES} for r in of_kind(indexed, "answers")]
    lines = findings.headline_table([*indexed, *ranked], KINDS).splitlines()
    header, first, second = lines[0], *lines[2:]
    assert [cell.strip() for cell in header.split("|")[1:-1]] == [
        "questions", "model", "n", "plain", "FOCUS (sum)", "max", "routed FOCUS",
    ]  # fmt: skip
    assert re.search(
        r"indexed .* a-abstaining .* 20 .* 0.500 .* 0.000 \(-0.500.* 1.000 \(\+", first
    )
    assert "b-answering" in second


def test_a_label_counts_only_questions_that_have_it():
    records = [asked("q") | {"target": [None] * 10 + [0, 1] * 5}, line("q", "sum", "-+" * 10)]
    frame = label_frame(records, "target").set_index("label")
    assert frame["value"].to_dict() == {1: 0.0, 2: 1.0}
    assert frame["n"].to_dict() == {1: 5, 2: 5}


def test_adaptive_curves_run_from_plain_to_focus():
    records = [
        asked("q", size=4), line("q", "plain", "++--"), line("q", "sum", "-+++"),
        line("q", "adaptive_focus", "++--", margins=[0.9, 0.8, 0.1, 0.2]),
        line("q", "routed", "-++-"),
        line("q", "adaptive_routed", "++--", margins=[0.9, 0.8, 0.1, 0.2]),
    ]  # fmt: skip
    curves = dict(list(adaptive_frame(records).groupby("rule")))
    assert list(curves) == ["adaptive_focus", "adaptive_routed"]
    for (rule, curve), always, most, rows in zip(
        curves.items(), (0.75, 0.5), (1.0, 0.75), (3, 4), strict=True
    ):
        assert curve["value"].tolist()[0] == 0.5, rule
        assert curve["value"].tolist()[-1] == always
        assert curve["value"].max() == most  # branching where it is unsure
        assert curve["rows"].tolist()[0] == 1
        assert curve["rows"].tolist()[-1] == rows
    figure = adaptive_figure(adaptive_frame(records))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "plain", "adaptive FOCUS", "always FOCUS (sum)", "adaptive routed FOCUS",
        "always routed FOCUS",
    ]  # fmt: skip


def many_models(number: int) -> list[str]:
    return [f"family{k}-{('abstaining', 'answering')[k % 2]}" for k in range(number)]


def test_figures_hold_many_models():
    number = 10
    models = many_models(number)
    frame = pd.DataFrame(
        {"model": m, "case": c, "rule": r, "num_images": n, "value": 0.5, "ci_low": 0.4,
         "ci_high": 0.6, "delta": 0.1, "delta_low": 0.05, "delta_high": 0.2, "rows": n,
         "unknown": 0.5}
        for m in models for c in ("indexed", "which") for r in ("plain", "sum") for n in (2, 4)
    )  # fmt: skip
    lines = lines_figure(frame, "num_images")
    assert len([a for a in lines.axes if a.has_data()]) == 2 * number
    assert [t.get_text() for t in lines.legends[0].get_texts()] == ["plain", "FOCUS (sum)"]
    assert {a.get_ylabel().replace("\n", "-") for a in lines.axes} - {""} == set(models)
    one = frame[frame["case"] == "indexed"]
    wrapped = lines_figure(one, "num_images")
    assert {a.get_title() for a in wrapped.axes} - {""} == set(models)
    heat = heat_figure(frame[frame["num_images"] == 2], "rule")
    assert len(heat.axes) == 2 + 1  # and the colour bar
    assert heat.axes[0].texts[0].get_fontweight() == "bold"
    for figure in (lines, wrapped, heat, cost_figure(one), abstention_figure(frame)):
        width, height = figure.get_size_inches()
        assert width <= 16
        assert height <= 20
        figure.canvas.draw()
        plt.close(figure)


def test_labels_of_a_figure_do_not_overlap():
    frame = pd.DataFrame(
        {"model": m, "case": "c", "rule": f"a long name {r}", "delta": 0.1, "delta_low": -0.1,
         "delta_high": 0.2}
        for m in many_models(10) for r in range(12)
    )  # fmt: skip
    figure = heat_figure(frame, "rule")
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    plt.close(figure)


def page_of(records: dict[str, list[dict]], kinds: dict[str, str] = KINDS) -> Page:
    return Page({name: Found.of(name, each, kinds) for name, each in records.items()})


def test_without_records_the_results_say_what_to_run():
    text = page_of({}).text()
    for test in ALL_TESTS:
        assert NOT_RUN.format(test.experiment) in text
    for claim in CLAIMS:
        assert claim.claim in text
    assert "make ablation-rules" in text
    assert "## Beyond the paper" in text
    assert ".png" not in text
    assert not list(page_of({}).figures())


def test_any_part_of_the_experiments_makes_a_page():
    page = page_of({"images": gaining_and_losing()})
    text = page.text()
    assert NOT_RUN.format("strategies") in text
    assert re.search(r"\| abstaining +\| a-abstaining", text)
    seventh = text.partition("## 7. ")[2].partition("## 8. ")[0]
    assert re.search(
        r"by number of images +\| 20 +\| \*\*\+0.500 \[.* \*\*-0.500 \[.* 1 / 1 / 0", seventh
    )
    assert re.search(r"which-image, by number of images .* not run", seventh)
    assert '"unknown" in 95%' in seventh
    for name, figure in page.figures():  # what is shown is drawn, and nothing else
        assert f"(claims/{name}.png)" in text
        plt.close(figure)
    assert {name for name, _ in page.figures()} == set(re.findall(r"claims/([\w-]+)\.png", text))
    plt.close("all")


def test_what_goes_beyond_is_told_for_both_readings():
    records = gaining_and_losing()
    ranked = [{**record, "reading": "candidates"} for record in records if "reading" in record]
    text = page_of({"images": [*records, *ranked]}).text()
    beyond = text.partition("## Beyond the paper")[2]
    assert "Read as generated text. Over 2 points" in beyond
    assert "Read as a ranking of the candidates. Over 2 points" in beyond


def test_kinds_come_from_the_cards_and_else_from_the_name(monkeypatch):
    cards = card_kinds(CONF.parent / "focus" / "zoo" / "weights")
    names = [f"{model}-{kind}" for model in ("internvl", "x") for kind in ALL_KINDS]
    assert list(model_kinds(names, cards).values()) == [*ALL_KINDS] * 2
    # A card weighs more than a name.
    odd = [{"name": "odd-answering", "recipe": {"stages": [{"mixture": {"abstain_multi": 0.2,
            "abstain_single": 0}}]}}]  # fmt: skip
    monkeypatch.setattr("analysis.kinds.read_models", lambda _: odd)
    assert model_kinds(["odd-answering"], card_kinds(CONF)) == {"odd-answering": "abstaining"}


def test_abstaining_models_stand_first():
    records = [{"record": "questions"}, {"model": "b"}, {"model": "c"}, {"model": "a"}]
    kinds = {"a": "answering", "b": "answering", "c": "abstaining"}
    found = ordered(records, kinds)
    assert [r.get("model") for r in found] == [None, "c", "a", "b"]


def test_every_experiment_has_a_view():
    experiments = {path.stem.removeprefix("ablation_")
                   for path in (CONF / "experiment").glob("ablation_*.yaml")}  # fmt: skip
    assert set(VIEWS) == experiments


# -- At a glance ----------------------------------------------------------------------------------


def a_claim(test: Test) -> Claim:
    return Claim("Focusing helps.", "On the same questions.", (test,))


def test_a_glance_has_the_word_and_the_difference_of_every_model():
    claims = (a_claim(GAIN), a_claim(replace(GAIN, label="not asked", experiment="noise")))
    found = outcome(GAIN, gaining_and_losing(), KINDS)
    frame = verdict_frame([(1, found)], KINDS)
    assert frame[["claim", "model", "word", "delta"]].values.tolist() == [
        [1, "a-abstaining", HOLDS, 0.5], [1, "b-answering", REVERSED, -0.5],
    ]  # fmt: skip
    table = glance_table(claims, lambda test: found if test == GAIN else None).splitlines()
    assert re.search(
        r"1\. Focusing helps.*depends.*20 .*\+0\.500 \[.*-0\.500 \[.*1 / 1 / 0.*1 / 1 / 0", table[2]
    )
    assert re.search(r"2\. Focusing helps.*not run", table[3])


def test_a_claim_of_each_condition_shows_the_one_that_is_furthest_from_it():
    """Seed 2 loses more than seed 3 gains: what is said of seeds fails there first."""
    records = seeds({1: 4, 2: -60, 3: 50})
    alike = Test("other seed", "seeds", {"rule": "sum", "seed": [1, 2, 3]},
                 {"rule": "sum", "seed": 0}, across="seed", aim=ALIKE, every=True)  # fmt: skip
    for test, expected in (
        (alike, -60), (replace(alike, aim=BELOW), 50), (replace(alike, aim=ABOVE), -60),
    ):  # fmt: skip
        found = outcome(test, records, KINDS)
        told = telling_row(found, "a-abstaining")
        assert told["delta"] == pytest.approx(expected / 400)
        assert found.words["a-abstaining"] == word(told["delta_low"], told["delta_high"], test.aim)
    together = telling_row(outcome(replace(alike, every=False), records, KINDS), "a-abstaining")
    assert together["delta"] == pytest.approx(-6 / 1200)


def test_models_of_one_kind_are_put_together_and_a_shared_question_is_one_unit():
    """Two abstaining models: one gains ten of twenty questions, the other none."""
    records = gaining_and_losing()
    same = [{**r, "model": "c-abstaining", "marks": "+" * 10 + "-" * 10}
            for r in of_kind(records, "answers") if r["model"] == "a-abstaining"]  # fmt: skip
    kinds = {**KINDS, "c-abstaining": "abstaining"}
    found = outcome(GAIN, [*records, *same], kinds)
    together = found.kinds.set_index("learned")
    assert together.loc["abstaining", ["delta", "n", "clusters"]].tolist() == [0.25, 40, 20]
    assert together.loc["answering", ["delta", "n", "clusters"]].tolist() == [-0.5, 20, 20]
    (line,) = claim_table([GAIN], lambda _: found).splitlines()[2:]
    assert re.search(r"\| 20 +\| \*\*\+0.250 \[.*\| \*\*-0.500 \[.*\| 1 / 1 / 1 +\|", line)


def test_where_each_condition_must_hold_the_deciding_one_is_named():
    test = Test("seeds", "seeds", {"rule": "sum", "seed": [1, 2]}, {"rule": "sum", "seed": 0},
                across="seed", aim=ALIKE, every=True)  # fmt: skip
    found = outcome(test, seeds({1: 2, 2: -100}), KINDS)
    assert re.search(
        r"\*\*-0.250 \[.*\]\*\* \(seed 2\) .* 0 / 1 / 0", claim_table([test], lambda _: found)
    )


def test_the_figure_of_a_claim_has_a_panel_for_each_test_and_a_colour_for_each_kind():
    found = outcome(GAIN, gaining_and_losing(), KINDS)
    figure = effect_figure([found, replace(found, test=replace(GAIN, label="again"))], KINDS)
    assert [axes.get_title() for axes in figure.axes] == ["FOCUS minus plain", "again"]
    heights = {bars.get_label(): bars[0].get_ydata()[0] for bars in figure.axes[0].containers}
    assert heights == {"abstaining": 0.5, "answering": -0.5}
    assert len({bars[0].get_color() for bars in figure.axes[0].containers}) == 2
    plt.close(figure)


def test_the_figure_of_all_claims_colours_words_and_leaves_out_what_was_not_run():
    frame = verdict_frame([(1, outcome(GAIN, gaining_and_losing(), KINDS))], KINDS)
    more = frame.iloc[:1].assign(claim=2, label="only one model", word=OPEN, delta=0.25)
    figure = verdict_figure(pd.concat([frame, more]))
    (image,) = figure.axes[0].images
    names = [OPEN if v == 2 else REVERSED if v == 1 else HOLDS
             for v in np.ma.compressed(np.ma.masked_invalid(image.get_array()))]  # fmt: skip
    assert names == [HOLDS, REVERSED, OPEN]
    assert [text.get_text() for text in figure.axes[0].texts] == ["+0.50", "-0.50", "+0.25"]
    plt.close(figure)


def test_panels_of_other_questions_are_not_drawn_empty():
    """Plain decoding has a line for every set of questions, whichever a figure is about."""
    records = [*two_rules(), asked("four", num_images=4), line("four", "plain", "+" * 20,
               num_images=4)]  # fmt: skip
    view = VIEWS["contrast"]
    records = [{**r, **ROWS, "split": "dev", "alpha": 0.5} if r.get("rule") == "sum" else r
               for r in records]  # fmt: skip
    figure = view.figures["noise"](records, pooled_frame(records, view))
    assert [axes.get_title() for axes in figure.axes if axes.axison] == ["a-abstaining"]
    plt.close(figure)


def test_what_rows_say_is_told_apart_by_the_number_of_images():
    two = said("a-abstaining", "off target", unknown=20, own=0)
    four = said("a-abstaining", "off target", unknown=0, own=20, num_images=4)
    records = [{**row, "similarity": 0} for row in (two, four)]
    view = VIEWS["similarity"]
    figure = view.figures["rows"](records, pd.DataFrame())
    heights = {bars.get_label(): bars[0].get_height() for bars in figure.axes[0].containers}
    assert (heights["unknown"], heights["own image"]) == (1.0, 0.0)
    plt.close(figure)
    assert view.figures["rows"]([], pd.DataFrame()) is None


# -- The table at the end of a run ----------------------------------------------------------------


def shown(table) -> str:
    console = Console(width=160)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_a_run_ends_with_plain_focus_and_their_difference():
    text = shown(run_table(gaining_and_losing(), "images", ROWS))
    assert re.search(r"a-abstaining .* indexed .* 2 .* 20 .* 0.500 .* 1.000 .* \+0.500 \[", text)
    assert re.search(r"b-answering .* 0.500 .* 0.000 .* -0.500 \[", text)


def test_other_rows_are_not_taken_for_focus():
    records = gaining_and_losing()
    other = [line("q", "sum", "-" * 20, **{**ROWS, "noise": "black"})]
    assert shown(run_table(records + other, "noise", ROWS)) == shown(
        run_table(records, "noise", ROWS)
    )


def test_a_grid_of_weights_shows_the_best_one():
    records = [asked("q"), line("q", "plain", "+-" * 10)]
    for alpha, marks in ((0.0, "-" * 20), (0.5, "+" * 20), (1.0, "+-" * 10)):
        records.append(line("q", "sum", marks, alpha=alpha, **ROWS))
    text = shown(run_table(records, "contrast", ROWS))
    assert re.search(r"indexed .* 0.5 .* 20 .* 0.500 .* 1.000", text)
    assert text.count("a-abstaining") == 1


def test_a_long_table_stays_on_a_screen():
    records = []
    for model in many_models(10):
        for kind in ("indexed", "which"):
            for number in range(2, 9):
                name = f"{kind}{number}"
                settings = {"kind": kind, "num_images": number}
                records += [asked(name, **settings),
                            line(name, "plain", "+-" * 10, model, **settings),
                            line(name, "sum", "+" * 20, model, **settings, **ROWS)]  # fmt: skip
    table = run_table(records, "images", ROWS)
    assert len(table.rows) == 20
    assert [c.header for c in table.columns][:3] == ["model", "split", "kind"]


def test_models_are_those_that_answered():
    assert names_of([*gaining_and_losing(), {"record": "cost", "model": "c"}]) == list(KINDS)
    assert OTHER_NOISE


def test_scales_are_shown_of_noise_that_has_several():
    records = [asked("q"), line("q", "plain", "+-" * 10)]
    for noise, scale in (("black", 1.0), ("black", 0.5), ("gray", 1.0)):
        records.append(line("q", "sum", "+" * 20, **{**ROWS, "noise": noise, "scale": scale}))
    view = VIEWS["noise"]
    figure = view.figures["scales"](records, pooled_frame(records, view))
    assert figure is not None
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["plain", "black"]
    plt.close(figure)
    assert view.figures["scales"](records[:2], pooled_frame(records[:2], view)) is None
