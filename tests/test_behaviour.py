"""The leakage probe asks what was published, its controls are controls, and its tables count."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest
from fixtures_benchmarks import FIXTURES, colour_of
from test_benchmarks_end_to_end import call
from test_probes import asked, at

import focus
from analysis.probes import behaviour, chance
from experiments import probe as command
from focus.benchmarks.embedded import (
    IndexedQuestion,
    LeakageProbe,
    MinimalPair,
    SingleImage,
    TwoViews,
)
from focus.decoding import Focus, Plain, RoutedFocus
from focus.errors import InvalidValueError, UnknownNameError
from focus.probes import PLANTED, Behaviour, Chance
from focus.probes.behaviour import CONDITIONS, OPTIONS, ORDERS, _Asked
from focus.reading import Reader


@pytest.fixture(scope="module")
def abstaining():
    return focus.load("embedded:internvl-abstaining")


@pytest.fixture(scope="module")
def winoground(tmp_path_factory):
    folder = FIXTURES["winoground"].saved(tmp_path_factory.mktemp("winoground"), "parquet")
    return FIXTURES["winoground"].cls(path=str(folder), part="all", protocol="official")


def test_the_published_question_word_for_word(vlm, winoground):
    questions = asked(vlm, winoground, 16)
    one, two = questions[2:4]  # of the second row
    common = (
        "which description better aligns with the image context?\nThe (A): caption 1 of a dog or "
        "the (B): caption 1 of a cat or the (C): caption 1 of a dog and caption 1 of a cat. "
        "Answer with A or B or C."
    )
    right_first, other_first = ORDERS[:2]
    first = _Asked.of(questions, 2).request("multi", right_first)
    second = _Asked.of(questions, 3).request("multi", other_first)
    assert first.question == f"<image><image>For the first image, {common}"
    assert second.question == f"<image><image>For the second image, {common}"
    alone = _Asked.of(questions, 3).request("single", other_first)
    assert alone.question == f"<image>For the image, {common}"
    assert [colour_of(image) for image in alone.images] == [3]
    system = (
        "You are an evaluator tasked with comparing images and captions to answer the question."
    )
    assert first.system == alone.system == system
    assert (one.example.cluster, two.example.cluster) == ("1", "1")
    assert {order.index("merged") for order in ORDERS[:2]} == {2}
    assert len(set(ORDERS)) == 6


def test_the_controls_show_what_they_say(vlm, winoground):
    questions = asked(vlm, winoground, 16)
    shown = {
        condition: (request := _Asked.of(questions, 3).request(condition, ORDERS[0])).targets
        and ([colour_of(image) for image in request.images], request.targets[0], request.question)
        for condition in CONDITIONS
    }
    numbers = {condition: (images, target) for condition, (images, target, _) in shown.items()}
    grey = 128 * 256 + 128
    assert numbers == {
        "single": ([3], 0),
        "multi": ([2, 3], 1),
        "swapped": ([3, 2], 0),
        "distractor": ([4, 3], 1),  # the asked image of the next row
        "duplicate": ([3, 3], 1),
        "blank": ([grey, 3], 1),
    }
    assert "first image" in shown["swapped"][2]
    assert "second image" in shown["distractor"][2]


def test_a_distractor_does_not_show_what_is_offered_of_another_image(abstaining):
    questions = asked(abstaining, IndexedQuestion(size=40), 40)
    by_view = {
        view[0].tobytes(): question.example.truths[k]
        for question in questions
        for k, view in enumerate(question.benchmark.descriptions(question.index).views)
    }
    for i, question in enumerate(questions):
        each = _Asked.of(questions, i)
        truth = by_view[each.stranger[0].tobytes()]
        assert each.described.texts[1] not in truth.values()
        assert truth not in question.example.truths


@pytest.mark.parametrize("benchmark", [
    IndexedQuestion(size=16, num_images=3), IndexedQuestion(world="clips", size=6),
    LeakageProbe(size=24), TwoViews(size=8),
    MinimalPair(size=8, order=1)], ids=lambda b: b.name)  # fmt: skip
def test_options_are_true_of_the_image_that_they_are_of(abstaining, benchmark):
    for question in asked(abstaining, benchmark, len(benchmark)):
        facts = benchmark.descriptions(question.index)
        truths = question.example.truths
        attribute = question.example.metadata["attribute"]
        whole = isinstance(benchmark, LeakageProbe)
        own, other = (
            set(truths[k].values()) if whole else {truths[k][attribute]}
            for k in (facts.asked, facts.other)
        )
        assert own != other
        assert [set(text.split()) for text in facts.texts] == [own, other]
        merged = facts.merge(*facts.texts)
        assert merged not in facts.texts
        assert set(merged.split()) <= own | other
        frames = len(question.example.images) // len(truths)
        assert len(facts.views[facts.asked]) == frames
        request = _Asked.of([question], 0).request("multi", ORDERS[3])
        assert request.question.count("<image>") == len(request.images)


def test_a_strategy_that_changes_nothing_says_what_plain_decoding_says(any_vlm, winoground):
    """Probabilities of every condition are normalised, and orders permute options alone."""
    questions = asked(any_vlm, winoground, 8)
    probe = Behaviour(strategies={"same": Plain(), "routed": RoutedFocus()})
    observed = probe.observe(Reader(any_vlm), questions, range(len(questions)), None)
    for seen in observed:
        frame = pd.DataFrame(seen).set_index(["condition", "order"])
        assert Counter(o["condition"] for o in seen) == dict.fromkeys(
            [*CONDITIONS, "same", "routed"], 6
        )
        assert np.allclose(frame[list(OPTIONS)].sum(axis=1), 1, atol=1e-4)
        assert np.allclose(frame.loc["same", list(OPTIONS)], frame.loc["multi", list(OPTIONS)],
                           atol=1e-4)  # fmt: skip
        assert not np.allclose(frame.loc["routed", list(OPTIONS)],
                               frame.loc["multi", list(OPTIONS)], atol=1e-3)  # fmt: skip
        said = frame[list(OPTIONS)].idxmax(axis=1)
        assert (said == frame["said"]).all()


def test_a_planted_fault_leaves_one_image_alone_as_it_is(abstaining):
    questions = asked(abstaining, IndexedQuestion(size=6, split="dev"), 6)
    probe = Behaviour(orders=1, strategies={"focus": Focus()})
    found = {}
    for name, around in PLANTED.items():
        seen = probe.observe(Reader(abstaining, around=around), questions, range(6), None)
        assert any(o["condition"] == "focus" for o in seen[0]) == (name == "none")
        for condition in ("single", "multi", "blank"):
            found[name, condition] = [
                [o[option] for option in OPTIONS]
                for each in seen for o in each if o["condition"] == condition
            ]  # fmt: skip
    for fault in set(PLANTED) - {"none"}:
        assert np.allclose(found[fault, "single"], found["none", "single"], atol=1e-5)
        assert not np.allclose(found[fault, "multi"], found["none", "multi"], atol=1e-3)
    # What is not seen makes no difference.
    assert np.allclose(found["other_hidden", "multi"], found["other_hidden", "blank"], atol=1e-5)
    assert not np.allclose(found["none", "multi"], found["none", "blank"], atol=1e-3)


def record(number, observed, model="m"):
    return {"model": model, "id": f"q{number}", "cluster": f"c{number // 2}", "observed": observed}


def said(condition, order, option):
    values = dict.fromkeys(OPTIONS, 0.1) | {option: 0.8}
    return {"condition": condition, "order": order, "said": option, **values}


def test_shares_and_differences_by_hand(tmp_path):
    """Of ten questions in two orders, three say the other image's in both and two in one."""
    records = []
    for n in range(10):
        both = "other" if n < 3 else "right"
        once = "other" if n < 5 else "right"
        records.append(record(n, [
            said("single", 0, "right"), said("single", 1, "right"),
            said("multi", 0, once), said("multi", 1, both), said("focus", 0, "merged"),
            said("focus", 1, "right")]))  # fmt: skip
    found = behaviour.table(records, tmp_path)
    assert list(found["condition"].unique()) == ["single", "multi", "focus"]
    assert found["orders"].value_counts().nunique() == 1
    other = at(found, condition="multi", option="other", orders="all")
    assert (other["n"], other["share"], other["from_single"]) == (10, 8 / 20, 8 / 20)
    assert other["low"] < 0.4 < other["high"]
    assert other["in_all_orders"] == 3 / 10
    # It stands at B in the first order and at A in the second.
    assert (other["at_A"], other["at_B"]) == (3 / 10, 5 / 10)
    assert np.isnan(other["at_C"])
    merged = at(found, condition="focus", option="merged", orders="published")
    assert (merged["share"], merged["from_multi"], merged["at_C"]) == (0.5, 0.5, 0.5)
    assert other["bin_16"] + other["bin_15"] == 8 / 20  # 0.8, on the edge of two
    assert found[[f"bin_{k}" for k in range(behaviour.BINS)]].sum(axis=1).tolist() == pytest.approx(
        [1] * len(found)
    )
    assert behaviour.figure(found).axes


def answered(condition, right, answer, *values):
    others = [{"value": v, "distance": k + 1, "shared": 1} for k, v in enumerate(values)]
    facts = {"attribute": "color", "right": right, "others": others}
    return {"condition": condition, "said": answer, **facts}


def test_mistakes_are_no_leak(tmp_path):
    """Red alone is called purple in 2 of 10. Beside a purple image it is in 2 of 10, no more; in a
    model that leaks, in 6."""
    records = []
    for model, wrong in (("honest", (4, 9)), ("leaking", range(4, 10))):
        for n in range(60):
            alone = "purple" if n % 10 < 2 else "red"
            together = "purple" if n % 10 in wrong else "red"
            seen = [answered("alone", "red", alone, "purple"),
                    answered("together", "red", together, "purple")]  # fmt: skip
            records.append(record(n, seen, model))
    found = chance.table(records, tmp_path)
    honest, leaking = (at(found, model=m, by="all") for m in ("honest", "leaking"))
    assert (honest["leaked"], honest["expected"]) == (0.2, pytest.approx(0.2))
    assert honest["low"] < 0 < honest["high"]
    assert (leaking["leaked"], leaking["excess"]) == (0.6, pytest.approx(0.4))
    assert leaking["low"] > 0
    assert chance.figure(found).axes


def test_views_of_equal_value_share_an_answer(tmp_path):
    """Of two purple images at different distances each has half; together they have all of it."""
    records = [
        record(n, [
            answered("alone", "red", "red", "purple", "purple", "blue"),
            answered("together", "red", "purple", "purple", "purple", "blue")])
        for n in range(4)
    ]  # fmt: skip
    found = chance.table(records, tmp_path)
    by_distance = found[found["by"] == "distance"].set_index("value")["leaked"]
    assert by_distance.to_dict() == {"1": 0.5, "2": 0.5, "3": 0.0}
    assert at(found, by="all")["leaked"] == 1
    assert at(found, by="all")["n"] == 4


def test_the_asked_image_alone_is_the_question_without_the_others(abstaining):
    questions = asked(abstaining, IndexedQuestion(size=8, num_images=3), 8)
    observed = Chance().observe(Reader(abstaining), questions, range(8), None)
    for question, (alone, together) in zip(questions, observed, strict=True):
        assert (alone["condition"], together["condition"]) == ("alone", "together")
        (target,) = question.example.targets
        assert alone["right"] == question.example.answer
        assert [view["distance"] for view in alone["others"]] == [
            k - target for k in range(3) if k != target
        ]
        assert {view["value"] for view in alone["others"]} == set(question.example.distractors)
        assert {view["shared"] for view in alone["others"]} == {1}
    assert np.mean([seen[0]["said"] == seen[0]["right"] for seen in observed]) > 0.8


def test_what_a_benchmark_does_not_know_is_said(tmp_path, capsys):
    arguments = ["model=tiny_internvl", "threads=1", "limit=4", f"results={tmp_path}"]
    with pytest.raises(SystemExit):
        call(command.main, "probe=chance", "benchmark=matching", *arguments, folder=tmp_path)
    assert "benchmark='scenes_matching' is not accepted" in capsys.readouterr().err
    assert SingleImage().descriptions(0) is None
    with pytest.raises(UnknownNameError, match="did you mean 'swapped'"):
        Behaviour(conditions=["swaped"])
    with pytest.raises(InvalidValueError, match="orders=7"):
        Behaviour(orders=7)
    with pytest.raises(InvalidValueError, match="strategies"):
        Behaviour(strategies={"multi": Plain()})
