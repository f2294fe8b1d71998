"""Probes see what is there: planted faults, exact limits, and every family and benchmark."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from fixtures_benchmarks import FIXTURES
from test_benchmarks_end_to_end import call

import focus
from analysis.figures import COLUMN
from analysis.probes import VIEWS
from analysis.probes.account import orders
from analysis.probes.linear import probe as linear_probe
from analysis.probes.linear import read_states
from experiments import probe as command
from experiments.config import CONF, build, compose_config
from focus.benchmarks.embedded import IndexedQuestion
from focus.decoding import ComposedFocus, Focus, GenerationSettings, MaskedFocus, Plain
from focus.errors import InvalidValueError, UnknownNameError
from focus.evaluation import request_of
from focus.hooks import captured, edge, knocked_out
from focus.models.tiny import BUILDERS, build_tiny
from focus.probes import PLANTED, AbstractProbe, Account, Knockout, Lens, Linear, Question, facts
from focus.probes.account import EXACT, STEPS, combinations
from focus.probes.entanglement import pair_cosine
from focus.probes.knockout import EDGES
from focus.reading import Reader

mpl.use("Agg")
#: Settings with which each probe is quick and still finds what is planted.
QUICK = {
    "behaviour": ["probe.orders=2"],
    "knockout": ["probe.windows=1", "probe.edges=[image to image]"],
    "patching": ["probe.changed=other image", "probe.tokens=[asked image]"],
    "entanglement": ["probe.untrained=false"],
    "linear": ["probe.places=3"],
    "lens": ["probe.places=3"],
}


@cache  # Hydra takes longer to compose one than most of them take to look
def probe_of(name: str) -> AbstractProbe:
    return build(compose_config("probe", [f"probe={name}", *QUICK.get(name, [])]).probe)


def asked(vlm, benchmark, size) -> list[Question]:
    found = [
        Question.of(vlm, benchmark, i, example, request_of(benchmark, example))
        for i, example in zip(range(size), benchmark, strict=False)
    ]
    return [question for question in found if question is not None]


def with_any_tokens(benchmark) -> list[Question]:
    """Its questions for a model that does not know the words of its answers."""
    return [
        Question(benchmark, i, example, request_of(benchmark, example),
                 tuple(range(20, 20 + len(example.choices))))
        for i, example in enumerate(benchmark)
    ]  # fmt: skip


def seen(probe, vlm, questions, folder, around="none"):
    reader = Reader(vlm, batch=64, around=PLANTED[around])
    observed = probe.observe(reader, questions, range(len(questions)), folder)
    return [
        {"model": vlm.name, "benchmark": q.benchmark.name, **facts(q), "observed": each}
        for q, each in zip(questions, observed, strict=True)
    ]


def at(table: pd.DataFrame, **where) -> pd.Series:
    """The one line of a table that this describes."""
    for column, value in where.items():
        table = table[table[column] == value]
    (line,) = [row for _, row in table.iterrows()]
    return line


def moved_between_images(table):
    """Answers, leaked or right, that need images to look at each other."""
    line = at(table, edge="image to image", layers="all")
    return (line["leaked_moved"] * line["leaked_n"] + line["right_moved"] * line["right_n"]) / line[
        "n"
    ]


def recovered_from_the_asked_image(table):
    """What another image says, out of the tokens of the asked one."""
    return at(table, changed="other image", tokens="asked image", place=3)["recovery"]


def said_by_the_asked_image(table):
    """How likely another image's answer is, out of the tokens of the asked one."""
    return at(table, tokens="asked image", place=4)["leaked"]


def moved_by_company(table):
    """How far the states of an image depend on the others."""
    return 1 - at(table, condition="other company", place=3)["cosine"]


def read_behind_the_first_image(records, folder):
    """What the first image shows, out of the delimiters and the second image."""
    names = records[0]["observed"][0]["tokens"]
    shown = np.array([record["observed"][0]["values"][0] for record in records])
    states = read_states(records, folder, 2)
    return np.mean(
        [linear_probe(states[:, names.index(n)], shown) for n in ("delimiters", "image 2")]
    )


def chosen_of_another_image(table):
    """How likely the other image's option is among images."""
    return at(table, condition="multi", option="other", orders="all")["probability"]


def beyond_mistakes(table):
    """Answers that are true of another image, mistakes aside."""
    return at(table, condition="together", by="all")["excess"]


def changed_by_isolating(table):
    """Answers that become right or wrong where images do not see each other."""
    return at(table, part="isolated", measure="accuracy")["moved"]


def mixed(table):
    """The same, as a summary of a model."""
    return table["mixing"].item()


#: What a leak raises and isolation lowers, and by how much at least; of answers, what hiding the
#: asked image raises and hiding the other one lowers.
SIGNS = {
    "behaviour": (chosen_of_another_image, 0.1, 0.2),
    "chance": (beyond_mistakes, 0.3, 0.1),
    "knockout": (moved_between_images, 0.1, 0.01),
    "patching": (recovered_from_the_asked_image, 0.02, 0.01),
    "account": (changed_by_isolating, 0.03, 0.01),
    "entanglement": (moved_by_company, 0.02, 0.001),
    "linear": (read_behind_the_first_image, 0.1, 0.1),
    "lens": (said_by_the_asked_image, 0.05, 0.01),
    "origin": (mixed, 0.02, 0.001),
}


@pytest.fixture(scope="module")
def abstaining():
    vlm = focus.load("embedded:internvl-abstaining")
    return vlm, asked(vlm, IndexedQuestion(size=40, split="dev"), 40)


def test_every_probe_has_a_view_a_file_and_a_planted_fault_to_find():
    files = {path.stem for path in (CONF / "probe").glob("*.yaml")} - {"all"}
    assert files == set(VIEWS) == set(SIGNS)
    everything = compose_config("probe", ["probe=all"]).probe
    assert [build(node).name for node in everything.values()] == list(VIEWS)


@pytest.mark.parametrize("name", SIGNS)
def test_planted_faults_are_told_from_the_normal_model(abstaining, tmp_path, name):
    sign, raised, lowered = SIGNS[name]
    vlm, questions = abstaining
    many = {"account": 12, "behaviour": 20, "entanglement": 20}  # passes over each
    questions = questions[: many.get(name)]
    found = {}
    told = ("asked_hidden", "other_hidden") if name in ("behaviour", "chance") else (
        "leak", "isolation")  # fmt: skip
    for around in ("none", *told):
        records = seen(probe_of(name), vlm, questions, tmp_path / around, around)
        if name == "linear":
            found[around] = sign(records, tmp_path / around)
        else:
            found[around] = sign(VIEWS[name].table(records, tmp_path / around))
    assert found[told[0]] > found["none"] + raised
    assert found["none"] > found[told[1]] + lowered
    if name in (
        "knockout",
        "patching",
        "account",
        "entanglement",
        "origin",
    ):  # no way is left, so nothing moves
        assert found["isolation"] == pytest.approx(0, abs=1e-3)


def test_every_combination_is_the_strategy_that_does_so(any_vlm):
    """Of every family: masks and exchanged states give what engines give, FOCUS among them."""
    questions = with_any_tokens(IndexedQuestion(size=3, num_images=3))
    reader, settings = Reader(any_vlm), GenerationSettings(max_new_tokens=1)
    focused = Focus(alpha=0.5)
    same = {
        (): Plain(),
        ("hidden", "pooled"): MaskedFocus(alpha=0),
        ("hidden", "pooled", "contrast"): MaskedFocus(alpha=0.5),
        ("hidden", "noise"): ComposedFocus(alpha=0, targets="named"),
        ("hidden", "pooled", "noise", "contrast"): ComposedFocus(alpha=0.5),
        (*STEPS, EXACT): focused,
    }
    for question in questions[:2]:
        answers = Account(focused).answers(reader, question)
        assert [*answers] == [*combinations(), (*STEPS, EXACT)]
        assert len(answers) == 21
        for steps, decoding in same.items():
            (answer,) = decoding.decode_many(
                reader.engine, [question.request], settings, keep_logits="first"
            )
            wanted = answer.combined_logits[0][0].float().cpu()
            torch.testing.assert_close(answers[steps], wanted, atol=1e-4, rtol=1e-4)
            if steps:  # control: this step moves something
                assert not torch.allclose(answers[steps[:-1]], wanted, atol=1e-3, rtol=1e-3)


def test_the_parts_add_up_to_what_focus_brings(abstaining, tmp_path):
    vlm, questions = abstaining
    records = seen(Account(), vlm, questions[:24], tmp_path)
    table = VIEWS["account"].table(records, tmp_path)
    told = [{tuple(o["steps"]): o["kind"] for o in record["observed"]} for record in records]
    for measure, kind in (("accuracy", "right"), ("leakage", "leaked")):
        change = table[table["measure"] == measure].set_index("part")["change"]
        whole = np.mean([(t[*STEPS, EXACT] == kind) - (t[()] == kind) for t in told])
        assert change["focus"] == pytest.approx(whole)
        assert change[[*STEPS, EXACT]].sum() == pytest.approx(whole)
        assert change["hidden"] != 0
    assert len(list(orders())) == 40
    with pytest.raises(InvalidValueError, match="sharing=sample"):
        Account(Focus(sharing="branch"))


def test_isolating_images_that_are_isolated_changes_nothing(abstaining, tmp_path):
    """To the last digit: every answer is that without the step."""
    vlm, questions = abstaining
    for around, same in (("isolation", True), ("none", False)):
        reader = Reader(vlm, around=PLANTED[around])
        equal = []
        for question in questions[:6]:
            answers = Account().answers(reader, question)
            equal += [
                torch.allclose(answers[steps], answers[steps[1:]], atol=1e-4)
                for steps in combinations()
                if "isolated" in steps
            ]
        assert all(equal) == same


def test_what_is_cut_from_everything_cannot_be_told(abstaining):
    """No way is left for the other image, so it may as well show something else."""
    vlm, questions = abstaining
    reader = Reader(vlm)
    for question in questions[:4]:
        (target,) = question.request.targets
        images = question.benchmark.counterfactual(question.index, 1 - target)
        one = reader.reading(question.request)
        other = reader.reading(replace(question.request, images=images))
        with knocked_out(vlm, EDGES["other images to rest"](one)):
            cut = [reader.logits([reading]) for reading in (one, other)]
        assert torch.equal(*cut)
        assert not torch.allclose(reader.logits([one]), reader.logits([other]), atol=1e-3)


def test_the_isolated_model_does_not_mix_images_and_the_leaking_one_does(abstaining):
    vlm, questions = abstaining
    request = replace(questions[1].request, targets=[1])
    images = questions[1].benchmark.counterfactual(1, 0)
    apart = {}
    for name, around in PLANTED.items():
        reader = Reader(vlm, around=around)
        pair = [reader.reading(request), reader.reading(replace(request, images=images))]
        with captured(vlm) as states:
            reader.logits(pair)
        states = {place: each[:, pair[0].image(1)] for place, each in states.items()}
        apart[name] = max(float((s[0] - s[1]).norm() / s.norm()) for s in states.values())
    assert apart["isolation"] == pytest.approx(0, abs=1e-5)  # rows of a batch round differently
    assert apart["leak"] > 2 * apart["none"] > 0.01


def test_edges_are_those_that_attention_has(abstaining):
    vlm, questions = abstaining
    second = Reader(vlm).reading(questions[1].request)  # about the second image
    pairs = {name: made(second).tril() for name, made in EDGES.items()}
    assert not pairs["asked image to other images"].any()
    assert pairs["other images to asked image"].equal(pairs["image to image"])
    first, second_image = second.image(0), second.image(1)
    assert pairs["other images to text"].any(0).equal(first)
    assert pairs["asked image to rest"].any(0).equal(second_image)
    assert not edge(first, first).diagonal().any()
    probe = Knockout(windows=2, edges=["image to image"])
    (observed,) = probe.observe(Reader(vlm), questions, [1], Path())
    assert [(o["edge"], o["layers"]) for o in observed] == [
        ("nothing", []),
        *(("image to image", layers) for layers in ([0, 1, 2, 3], [0, 1], [2, 3])),
    ]


def test_the_lens_ends_with_what_the_model_says(abstaining):
    vlm, questions = abstaining
    reader = Reader(vlm)
    for question, observed in zip(
        questions[:3], Lens().observe(reader, questions, range(3), Path()), strict=True
    ):
        (logits,) = reader.logits([reader.reading(question.request)])
        last = [o for o in observed if o["tokens"] == "last token"][-1]
        assert last["place"] == reader.num_places - 1
        assert last["leads"] == question.kind(question.said(logits))
        right = question.log_probabilities(logits).exp()[
            question.example.choices.index(question.example.answer)
        ]
        assert last["right"] == pytest.approx(float(right), rel=1e-3)


def test_cosine_is_a_mean_over_pairs_and_one_for_equal_images():
    states = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 0.0]])
    assert pair_cosine(states) == pytest.approx(1 / 3)
    assert pair_cosine(torch.ones(5, 3, 2)).tolist() == pytest.approx([1] * 5)


def test_a_linear_probe_reads_what_is_there_and_nothing_else():
    rng = np.random.default_rng(0)
    labels = np.array(list("abcd") * 30)
    nothing = rng.normal(size=(120, 16))
    planted = nothing + 4 * np.eye(16)[[ord(label) - ord("a") for label in labels]]
    assert linear_probe(planted, labels).mean() > 0.8
    for states, told in ((nothing, labels), (planted, rng.permutation(labels))):
        assert linear_probe(states, told).mean() < 0.4  # chance 0.25, four deviations of 0.04


def test_images_of_different_questions_are_put_together(abstaining, tmp_path):
    """What one image shows says nothing about another."""
    vlm, questions = abstaining
    observed = Linear(attribute="shape").observe(Reader(vlm), questions, [0, 39], tmp_path)
    shapes = [[truth["shape"] for truth in q.example.truths] for q in questions]
    assert [o[0]["values"] for o in observed] == [
        [shapes[0][0], shapes[1][1]],
        [shapes[39][0], shapes[0][1]],
    ]
    with pytest.raises(UnknownNameError, match="did you mean 'shape'"):
        Linear(attribute="shap").observe(Reader(vlm), questions, [0], tmp_path)


def test_a_counterfactual_changes_one_image_in_one_thing():
    benchmark = IndexedQuestion(size=4, num_images=3)
    for index in range(4):
        own, other = benchmark[index].images, benchmark.counterfactual(index, 1)
        assert [a.tobytes() == b.tobytes() for a, b in zip(own, other, strict=True)] == [
            True, False, True,
        ]  # fmt: skip
    with pytest.raises(InvalidValueError, match="slot=3"):
        benchmark.counterfactual(0, 3)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Winoground and VisMin on disk, their questions of two images first."""
    root = tmp_path_factory.mktemp("pairs")
    return {
        name: FIXTURES[name].cls(
            path=str(FIXTURES[name].saved(root / name, "parquet")), protocol="official", part="all"
        )
        for name in ("winoground", "vismin")
    }


@pytest.mark.parametrize("turn", [0, 1])
@pytest.mark.parametrize("name", list(VIEWS))
def test_every_probe_runs_on_any_family_and_benchmark_and_leaves_no_trace(
    stored, ask, tmp_path, name, turn
):
    """Every probe meets two families and either benchmark, every family three probes or four."""
    place = list(VIEWS).index(name) + 2 * turn
    any_vlm = build_tiny(list(BUILDERS)[place % len(BUILDERS)])
    modules = list(any_vlm.model.modules())
    reader = Reader(any_vlm)  # `transformers` sets up hooks of its own in the first pass
    reader.logits([reader.reading(ask(2))])
    before = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)
    benchmark = list(stored.values())[(list(VIEWS).index(name) + turn) % 2]
    questions = asked(any_vlm, benchmark, 12)
    assert len(questions) == 6  # those of two images
    known = [probe_of(name).asks(question) for question in questions]
    unknown = name in ("chance", "origin")  # what they show
    assert known == [not unknown] * 6
    if not all(known):
        questions = with_any_tokens(IndexedQuestion(size=6))
    records = seen(probe_of(name), any_vlm, questions, tmp_path)
    json.dumps(records)
    found = VIEWS[name].table(records, tmp_path)
    assert not VIEWS[name].headline(found).empty
    drawn = VIEWS[name].figure(found)
    assert drawn.axes
    assert drawn.get_figwidth() <= COLUMN
    mpl.pyplot.close("all")
    after = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)
    assert after == before


def test_the_command_writes_once_and_goes_on(tmp_path, capsys):
    arguments = ["probe=knockout", *QUICK["knockout"], "model=internvl_answering", "threads=1",
                 f"results={tmp_path}", "logger=csv",
                 f"logger.folder={tmp_path}"]  # fmt: skip
    call(command.main, *arguments, "limit=3", folder=tmp_path / "hydra")
    (records,) = tmp_path.glob("knockout-*/records.jsonl")
    first = records.read_text()
    call(command.main, *arguments, "limit=5", folder=tmp_path / "hydra")
    assert records.read_text().startswith(first)
    assert len(records.read_text().splitlines()) == 5
    assert "image to image" in capsys.readouterr().out
    assert (records.parent / "table.csv").exists()
    told = pd.read_csv(tmp_path / "probe-knockout.csv")
    assert len(told) == 2 * len(pd.read_csv(records.parent / "table.csv"))  # of both calls
    assert (records.parent / "figure.pdf").exists()
    with pytest.raises(SystemExit):
        call(command.main, *arguments, "planted=leek", folder=tmp_path / "hydra")
    assert "did you mean 'leak'" in capsys.readouterr().err


def test_images_are_probed_at_the_size_at_which_an_evaluation_asks_them(abstaining, monkeypatch):
    vlm, _ = abstaining
    monkeypatch.setattr(IndexedQuestion, "published_size", (48, 48))
    for budget, size in (("published", (48, 48)), ("checkpoint", (32, 32))):
        (asked,) = command.questions(replace(vlm, budget=budget), IndexedQuestion(size=9), 1)
        assert [image.size for image in asked.request.images] == [size] * 2


def test_unknown_edges_are_answered_with_the_known_ones():
    with pytest.raises(UnknownNameError, match="did you mean 'image to image'"):
        Knockout(edges=["image to imag"])
