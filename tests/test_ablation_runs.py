"""Ablations end to end on tiny untrained models: the rows are the method's, dev is not test."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures_embedded import SIZES
from PIL import Image

from analysis.ablations import PLAIN, of_kind
from analysis.rules import apply_rule
from experiments import ablate
from experiments.ablation_bench import Bench
from experiments.ablation_cells import RowStore
from experiments.ablation_choice import Chooser
from experiments.ablation_costs import cost_records
from experiments.ablation_models import Model, models_of
from experiments.ablation_questions import Questions, load_questions
from experiments.ablation_rows import Rows
from experiments.ablation_sweeps import OF_QUESTIONS, OF_ROWS, Sweep, listed
from experiments.config import CONF, compose_config, plain
from experiments.evaluation import make_console, progress_bars
from focus.benchmarks.embedded import AbstractEmbedded
from focus.decoding import (
    BlockAttention,
    CaptionThenAnswer,
    DelimiterScaling,
    GenerationSettings,
    Plain,
    Sofa,
    Vcd,
)
from focus.decoding.single_image import SingleImage
from focus.errors import InvalidValueError, UnknownNameError
from focus.evaluation import answered
from focus.evidence import Evidence
from focus.marks import CANDIDATES, TEXT, read
from focus.records import read_records
from focus.tinted import coloured_like
from focus.zoo.architectures import ARCHITECTURES, Architecture

ONE = GenerationSettings(max_new_tokens=1)
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("ablation_*.yaml"))


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Model]:
    """An untrained model of every embedded family, as a folder."""
    root = tmp_path_factory.mktemp("models")
    found = {}
    for family, architecture in ARCHITECTURES.items():
        patch = 10 if family.startswith("llava") else 8
        # Delimiters scaled after a layer are felt two layers later.
        sizes = Architecture(**{**SIZES, "layers": 3}, family=family, patch=patch)
        folder = root / family
        architecture.build(sizes, seed=0).save_pretrained(folder)
        architecture.processor(sizes).save_pretrained(folder)
        found[family] = Model.at(family, folder)
    return found


@pytest.fixture
def model(models) -> Model:
    return models["internvl"]


def folder_of(model: Model) -> Path:
    return Path(json.loads(model.config)["source"])


SETS = (
    Questions("scenes", "indexed", "test", 3, num_images=3),
    Questions("clips", "matching", "test", 2),
)
ROWS = (
    Rows(),
    Rows(noise="speckle", scale=0.5, seed=4, sharing="branch"),
    Rows(noise="gaussian", sharing="run", targets="all"),
)


@pytest.mark.parametrize("family", ARCHITECTURES)
@pytest.mark.parametrize("rows", ROWS, ids=lambda rows: f"{rows.noise}-{rows.sharing}")
@pytest.mark.parametrize("questions", SETS, ids=lambda questions: questions.key)
def test_collected_rows_are_those_of_the_method(models, tmp_path, family, rows, questions):
    vlm = models[family].vlm
    found = RowStore(tmp_path).evidence(models[family], questions, rows)
    for q, request in enumerate(load_questions(questions).requests(rows)[:2]):
        decoded = rows.strategy.decode(vlm, request, ONE, keep_logits="first")
        expected = decoded.branch_logits[0][:, 0].log_softmax(-1)
        torch.testing.assert_close(found.reference[q], expected[0], rtol=0, atol=5e-5)
        torch.testing.assert_close(found.branches[:, q], expected[1:], rtol=0, atol=5e-5)
        spread = (expected[1:] - expected[0]).abs().amax()
        assert spread > 1e-3  # rows of an untrained model differ by more than the tolerance


@pytest.mark.parametrize("family", ARCHITECTURES)
def test_other_strategies_are_collected_as_they_decode(models, tmp_path, family):
    store = RowStore(tmp_path)
    for strategy in (Plain(), SingleImage(), Vcd()):
        found = store.first(models[family], SETS[0], strategy)
        assert_first_rows(models[family], SETS[0], strategy, found)


def assert_first_rows(model, questions, strategy, found) -> None:
    for q, request in enumerate(load_questions(questions).requests()[:2]):
        decoded = strategy.decode(model.vlm, request, ONE, keep_logits="first")
        expected = decoded.branch_logits[0][0, 0].log_softmax(-1)
        torch.testing.assert_close(found[q], expected, rtol=0, atol=5e-5)


CAPTIONS = {
    "caption_prompt": "first image : <image> describe the object .",
    "max_caption_tokens": 3,
    "template": " {caption} ",
}
ACTING = (
    Sofa(s=0.5),
    BlockAttention(),
    DelimiterScaling(factor=8.0),
    CaptionThenAnswer(**CAPTIONS),
)


@pytest.mark.parametrize("family", ARCHITECTURES)
@pytest.mark.parametrize("strategy", ACTING, ids=lambda strategy: strategy.name)
def test_strategies_that_change_the_forward_pass_are_collected_as_they_decode(
    models, tmp_path, family, strategy
):
    store = RowStore(tmp_path)
    # Prompts of two layouts, in turn: hooks of one must not meet another.
    for questions in (SETS[0], dataclasses.replace(SETS[0], num_images=4)):
        found = store.first(models[family], questions, strategy)
        assert_first_rows(models[family], questions, strategy, found)
        plain = store.first(models[family], questions, Plain())
        assert (found - plain).abs().amax() > 2e-4  # it does something
        again = RowStore(tmp_path / "again").first(models[family], questions, Plain())
        torch.testing.assert_close(again, plain, rtol=0, atol=0)  # and leaves the model as it was


@pytest.mark.parametrize("off", [{"max_caption_tokens": 0}, {"template": ""}])
def test_without_captions_plain_decoding_is_left(model, tmp_path, off):
    store = RowStore(tmp_path)
    found, captioned = (
        store.first(model, SETS[0], CaptionThenAnswer(**settings))
        for settings in ({**CAPTIONS, **off}, CAPTIONS)
    )
    plain = store.first(model, SETS[0], Plain())
    torch.testing.assert_close(found, plain, rtol=0, atol=0)
    assert not torch.equal(captioned, plain)  # control: with them something else is asked


def test_questions_with_other_numbers_of_images_go_together():
    few, many = (
        {label: torch.full((3,), float(k)) for k, label in enumerate(labels)}
        for labels in (("reference", "image 1", "image 2"),
                       ("reference", "image 1", "image 2", "image 3"))
    )  # fmt: skip
    both = Evidence.of(torch.zeros(2, 3), [few, many])
    assert both.numbers.tolist() == [2, 3]
    assert both.branches[:, :, 0].tolist() == [[1, 1], [2, 2], [0, 3]]  # filled with the reference
    assert both.reference[:, 0].tolist() == [0, 0]


def test_tinted_noise_has_the_colour_and_nothing_else():
    image = Image.new("RGB", (8, 8), (120, 120, 120))
    image.paste((250, 10, 10), (0, 0, 4, 4))
    noise = Image.effect_noise((8, 8), 20).convert("RGB")
    tinted = coloured_like(noise, image)
    red, green, _ = np.asarray(tinted).mean(axis=(0, 1))
    assert red > 200
    assert green < 60
    # The same picture upside down has the same colour: its shape is not told.
    assert tinted == coloured_like(noise, image.transpose(Image.Transpose.FLIP_TOP_BOTTOM))


def test_noise_has_the_colour_of_the_asked_image_wherever_it_stands(model):
    loaded, rows = load_questions(SETS[0]), Rows(tint="target")
    asked = [example.targets[0] for example in loaded.examples]
    assert len(set(asked)) == 3
    assert loaded.target(rows).tolist() == [0, 0, 0]
    for view, example, request in zip(asked, loaded.examples, loaded.requests(rows), strict=True):
        one = rows.strategy.one_pass(model.vlm, request)
        assert one.plan.labels[1] == f"image {view + 1}"  # the branch that `target` names
        noise = next(inputs for content, inputs in one.inputs.items() if content.kind == "noise")
        (drawn,) = model.vlm.family.views(model.vlm.processor, noise)
        plain = Image.new("RGB", (32, 32), (128, 128, 128))
        distances = [
            np.abs(np.subtract(*(np.asarray(i, float).mean((0, 1)) for i in (drawn, like)))).max()
            for like in (coloured_like(plain, image) for image in example.images)
        ]
        assert int(np.argmin(distances)) == view, distances


def test_tint_changes_the_rows_and_must_be_known(model, tmp_path):
    store = RowStore(tmp_path)
    untouched, own, target = (
        store.evidence(model, SETS[0], Rows(targets="named", tint=tint)).reference
        for tint in ("none", "own", "target")
    )
    assert not torch.allclose(untouched, own)
    assert not torch.allclose(own, target)
    with pytest.raises(UnknownNameError, match="tint"):
        Rows(tint="red")


def test_targets_say_which_views_share_a_branch():
    example = load_questions(Questions("scenes", "indexed", "dev", 4, num_images=4)).examples[2]
    request = load_questions(Questions("scenes", "indexed", "dev", 4, num_images=4)).requests()[2]
    units = {t: Rows(targets=t).request(request, example).targets for t in ("units", "pairs")}
    assert units == {"units": ((0,), (1,), (2,), (3,)), "pairs": ((0, 1), (2, 3))}
    assert [Rows(targets=t).target_branch(example) for t in ("units", "pairs", "named", "all")] == [
        *(2, 1, 0, None)
    ]
    clip = load_questions(Questions("clips", "indexed", "dev", 2))
    assert [len(r.targets) for r in clip.requests(Rows())] == [2, 2]
    assert [len(r.targets) for r in clip.requests(Rows(targets="all"))] == [16, 16]
    both = load_questions(Questions("scenes", "same", "dev", 2))
    with pytest.raises(InvalidValueError, match="no image is named"):
        both.requests(Rows(targets="named"))
    with pytest.raises(InvalidValueError, match="targets"):
        Rows(targets="some")


def test_sweeps_are_read_as_hydra_reads_them_and_leave_out_what_a_world_cannot_ask():
    sweep = Sweep.of({"kind": "indexed", "num_images": "2,4", "similarity": "range(4)"})
    found = sweep.question_sets(["scenes", "clips", "digits"], 2)
    by_world = {w: [(q.num_images, q.similarity) for q in found if q.world == w]
                for w in ("scenes", "clips", "digits")}  # fmt: skip
    assert by_world["scenes"] == [(n, s) for n in (2, 4) for s in range(4)]
    assert {n for n, _ in by_world["clips"]} == {2}  # sixteen frames are all that fit
    assert by_world["digits"] == [(2, 0), (2, 1), (4, 0), (4, 1)]
    for questions in found:
        assert len(questions.benchmark()) == 2
    assert Sweep.of({"kind": "indexed"}).rows == (Rows(),)
    rows = Sweep.of({"noise": "black,imagenet+uniform", "scale": "0.5,1", "alpha": "0.1,chosen"})
    assert [(r.noise, r.scale) for r in rows.rows] == [
        *(("black", 0.5), ("black", 1), ("imagenet+uniform", 0.5), ("imagenet+uniform", 1))
    ]
    assert rows.alphas == (0.1, "chosen")
    only = Sweep.of({"kind": "indexed", "world": "digits,photos"})
    assert {q.world for q in only.question_sets(["scenes", "digits"], 2)} == {"digits"}


def bench(tmp_path, tuning=(), alphas=(0.0, 0.7), strategies=None) -> Bench:
    store = RowStore(tmp_path / "rows")
    return Bench(store, Chooser(store, tuning, alphas), tmp_path / "cells", strategies or {})


DEV = Questions("scenes", "indexed", "dev", 6)
SWEEP = Sweep(
    rules=("sum", "anchored", "vcd", "single_image", "adaptive_focus", "adaptive_routed"),
    temperatures=(0.2,),
)


def test_finished_cells_are_not_computed_again(tmp_path, model, monkeypatch):
    questions = Questions("scenes", "indexed", "test", 4)
    first = bench(tmp_path, [DEV])
    records = first.cell(SWEEP, model, questions, Rows())
    computed = first.store.computed
    assert computed > 0
    again = bench(tmp_path, [DEV])
    assert again.cell(SWEEP, model, questions, Rows()) == records
    assert again.store.computed == 0
    assert not list(tmp_path.rglob("*.part"))
    # Other weights under the same name are another model.
    monkeypatch.setattr(Model, "fingerprint", "other")
    retrained = bench(tmp_path, [DEV])
    retrained.cell(SWEEP, model, questions, Rows())
    assert retrained.store.computed == computed


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, model, monkeypatch):
    questions = Questions("scenes", "indexed", "test", 4)
    whole = bench(tmp_path / "whole", [DEV])
    expected = whole.cell(SWEEP, model, questions, Rows())

    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("experiments.ablation_bench.row_records", fail)
        with pytest.raises(KeyboardInterrupt):
            bench(tmp_path / "cut", [DEV]).cell(SWEEP, model, questions, Rows())
    resumed = bench(tmp_path / "cut", [DEV])
    assert resumed.cell(SWEEP, model, questions, Rows()) == expected
    assert resumed.store.computed == 0  # every pass was kept; only reading them was left


def test_a_cell_goes_on_with_the_question_at_which_it_was_interrupted(
    tmp_path, models, monkeypatch
):
    model = Model.at("m", folder_of(models["internvl"]), batch=2)
    questions = dataclasses.replace(SETS[0], size=5)
    whole = RowStore(tmp_path / "whole").evidence(model, questions, Rows())
    asked = []

    def interrupted(cell, examples):
        asked.extend(example.id for example in examples)
        if len(asked) == 4:  # the second batch
            raise KeyboardInterrupt
        return answered(cell, examples)

    monkeypatch.setattr("experiments.ablation_cells.answered", interrupted)
    with pytest.raises(KeyboardInterrupt):
        RowStore(tmp_path / "cut").evidence(model, questions, Rows())
    resumed = RowStore(tmp_path / "cut").evidence(model, questions, Rows())
    again = [e.id for e in load_questions(questions).examples]
    assert asked == [*again[:4], *again[2:], *again]  # then plain decoding, of all
    torch.testing.assert_close(resumed.branches, whole.branches, rtol=0, atol=1e-5)


def test_lines_of_a_cell_are_what_the_rules_say(tmp_path, model):
    questions = Questions("scenes", "indexed", "test", 5)
    cells = bench(tmp_path, [DEV])
    records = of_kind(cells.cell(SWEEP, model, questions, Rows()), "answers")
    (line,) = [r for r in records if r["rule"] == "sum" and r["reading"] == CANDIDATES
               and "marks" in r]  # fmt: skip
    vlm, loaded = model.vlm, load_questions(questions)
    strategy = dataclasses.replace(Rows().strategy, alpha=line["alpha"])
    logits = torch.stack(
        [
            strategy.decode(vlm, request, ONE, keep_logits="first").combined_logits[0][0]
            for request in loaded.requests(Rows())
        ]
    )
    assert line["marks"] == read(logits, model.key(loaded), CANDIDATES)
    assert line["rows"] == 3
    rules = {r["rule"] for r in records}
    extras = ("vcd", "single_image", "adaptive_focus", "adaptive_routed")
    assert rules == {"sum", "anchored", "plain_matched", *extras}
    sampled = [r for r in records if r.get("temperature")]
    assert {r["rule"] for r in sampled} == {"sum", "anchored", "plain_matched"}
    assert all(0 <= score <= 100 for r in sampled for score in r["scores"])


def test_adaptive_answers_are_plain_where_it_is_sure(tmp_path, model, monkeypatch):
    questions = Questions("scenes", "indexed", "test", 6)
    cells = bench(tmp_path, [DEV])
    plain_line = {r["reading"]: r for r in cells.plain(SWEEP, model, questions) if "marks" in r}
    for threshold, rows in ((0.0, 1.0), (float("inf"), 3.0)):
        monkeypatch.setattr(Chooser, "threshold", lambda *_, t=threshold: t)
        found = cells.cell(SWEEP, model, questions, Rows())
        lines = {(r["rule"], r["reading"]): r for r in found if "marks" in r}
        for reading in (TEXT, CANDIDATES):
            adaptive = lines["adaptive_focus", reading]
            other = lines["sum", reading] if threshold else plain_line[reading]
            assert adaptive["marks"] == other["marks"]
            assert adaptive["rows"] == rows
            routed = lines["adaptive_routed", reading]
            alpha = cells.chooser.alpha(model, "routed", reading)
            logits = apply_rule("routed", cells.store.evidence(model, questions, Rows()), alpha)
            marks = read(logits, model.key(load_questions(questions)), reading)
            assert routed["marks"] == (marks if threshold else plain_line[reading]["marks"])
            assert routed["rows"] == (rows + 1 if threshold else rows)


def test_what_rows_say_is_counted_by_role(tmp_path, model):
    cells = bench(tmp_path, [DEV])
    sweep = Sweep(alphas=(0.3,))
    found = cells.cell(
        sweep, model, Questions("scenes", "indexed", "test", 6, num_images=3), Rows()
    )
    totals = {r["role"]: r["total"] for r in of_kind(found, "rows")}
    assert totals == {"plain": 6, "reference": 6, "on target": 6, "off target": 12}
    counting = Questions("scenes", "counting", "test", 5)
    found = of_kind(cells.cell(sweep, model, counting, Rows()), "rows")
    assert {r["role"] for r in found} == {"plain", "reference", "branch"}
    assert {r["answer"] for r in found} == {"zero", "one", "two", "three", "four"}


def test_choosing_reads_the_dev_split_alone(tmp_path, model, monkeypatch):
    """A setting chosen on test would be a leak of the other kind."""
    read_splits = set()
    original = AbstractEmbedded.__getitem__

    def spy(self, index):
        read_splits.add(self.split)
        return original(self, index)

    monkeypatch.setattr(AbstractEmbedded, "__getitem__", spy)
    load_questions.cache_clear()
    tuning = [dataclasses.replace(DEV, size=5), dataclasses.replace(DEV, kind="matching", size=4)]
    chooser = Chooser(RowStore(tmp_path), tuning, (0.0, 0.5))
    assert chooser.alpha(model, "sum", TEXT) in (0.0, 0.5)
    assert chooser.alpha(model, "oracle", CANDIDATES) in (0.0, 0.5)
    assert chooser.vcd(model, CANDIDATES).alpha in (0.0, 0.5)
    assert chooser.threshold(model, "sum", CANDIDATES) >= 0
    grid = [{"s": 0.0}, {"s": 1.0}]
    assert chooser.setting(model, "sofa", grid, TEXT) in grid
    assert read_splits == {"dev"}
    with pytest.raises(InvalidValueError, match="dev"):
        Chooser(RowStore(tmp_path), [dataclasses.replace(DEV, split="test")], (0.0,))


def test_the_best_setting_on_dev_is_taken(tmp_path, model, monkeypatch):
    """Planted: one weight makes every answer right."""

    def planted(rule, evidence, alpha):
        key = model.key(load_questions(DEV))
        right = torch.from_numpy(key.code == 1).float()
        return right if alpha == 0.5 else -right

    monkeypatch.setattr("experiments.ablation_choice.apply_rule", planted)
    chooser = Chooser(RowStore(tmp_path), [DEV], (0.0, 0.5, 1.0))
    assert chooser.alpha(model, "sum", TEXT) == 0.5
    (choice,) = chooser.records()
    assert choice["chosen"] == 0.5
    assert choice["dev"] == {"0.0": 0.0, "0.5": 1.0, "1.0": 0.0}
    assert chooser.threshold(model, "sum", TEXT) > 0  # branching pays


def test_other_strategies_answer_the_same_questions(tmp_path, model):
    questions = Questions("scenes", "indexed", "test", 3)
    strategies = {"sofa": [{"s": 0.0}], "block_attention": [{"layers": "all"}],
                  "caption_then_answer": [CAPTIONS]}  # fmt: skip
    sweep = Sweep(rules=tuple(strategies))
    cells = bench(tmp_path, [DEV], strategies=strategies)
    lines = cells.intervening(sweep, model, questions)
    base = {r["reading"]: r for r in cells.plain(sweep, model, questions)}
    assert [line["rule"] for line in lines] == [name for name in strategies for _ in range(2)]
    for line in lines[:2]:  # switched off, it is plain decoding
        assert line["marks"] == base[line["reading"]]["marks"]
    assert [line["rows"] for line in lines] == [1] * 4 + [3] * 2
    assert lines[-1]["setting"] == "max_caption_tokens 3"
    with pytest.raises(UnknownNameError, match="sofa"):  # the settings of another are unknown
        cells.intervening(Sweep(rules=("delimiter_scaling",)), model, questions)


def test_a_strategy_without_anything_to_act_on_leaves_a_note(tmp_path, model, monkeypatch):
    sweep, grid = Sweep(rules=("delimiter_scaling",)), {"delimiter_scaling": [{"factor": 2.0}]}
    monkeypatch.setattr(type(model.vlm.family), "delimiters", ("first", ""))
    asked = Questions("scenes", "indexed", "test", 3)
    lines = bench(tmp_path, strategies=grid).intervening(sweep, model, asked)
    assert {line["record"] for line in lines} == {"answers"}
    monkeypatch.setattr(type(model.vlm.family), "delimiters", ("tilted", ""))
    found = bench(tmp_path / "other", strategies=grid).intervening(sweep, model, asked)
    assert {record["record"] for record in found} == {"note"}
    assert "no image delimiter (tilted)" in found[0]["why"]


def test_the_best_setting_of_a_strategy_is_taken_for_each_reading(tmp_path, model, monkeypatch):
    """Planted: another setting makes every answer right in each reading."""

    def planted(self, model, questions, strategy):
        right = torch.from_numpy(model.key(load_questions(questions)).code == 1).float()
        # Above every candidate stands a word that is none, unless the second setting is taken.
        spoiled = right.clone()
        spoiled[:, model.vlm.processor.tokenizer.eos_token_id] = 2.0
        return {0.0: -right, 0.5: spoiled, 1.0: right}[strategy.s]

    monkeypatch.setattr(RowStore, "first", planted)
    chooser = Chooser(RowStore(tmp_path), [DEV], ())
    grid = [{"s": 0.0}, {"s": 0.5}, {"s": 1.0}]
    assert chooser.setting(model, "sofa", grid, CANDIDATES) == {"s": 0.5}  # of equal ones the first
    assert chooser.setting(model, "sofa", grid, TEXT) == {"s": 1.0}
    assert chooser.setting(model, "sofa", grid[:1], TEXT) == {"s": 0.0}
    assert [list(choice["dev"].values()) for choice in chooser.records()] == [
        *([0.0, 1.0, 1.0], [0.0, 0.0, 1.0])
    ]


def test_costs_are_relative_to_plain_decoding(model):
    found = cost_records(
        model,
        Questions("scenes", "indexed", "test", 2),
        {"focus": {"targets": "named"}, "naive": {"strategy": "focus", "sharing": "branch",
         "prefill": "naive"}, "single_image": {}},
        repeats=1,
    )  # fmt: skip
    by_rule = {record["rule"]: record for record in found}
    assert by_rule["plain"]["over_plain"] == 1
    assert [by_rule[r]["rows"] for r in ("plain", "focus", "naive", "single_image")] == [1, 3, 3, 1]
    assert [by_rule[r]["encoded"] for r in ("plain", "focus", "naive")] == [2, 4, 6]


def test_models_are_found_by_name(models):
    weights = str(folder_of(models["internvl"]).parent)
    assert [m.name for m in models_of(None, weights)] == sorted(models)
    assert [m.name for m in models_of(["internvl"], weights)] == ["internvl"]
    with pytest.raises(UnknownNameError, match="gpt"):
        models_of(["gpt"], weights)


@pytest.mark.parametrize(
    ("axes", "named"),
    [({"rule": "sum,median"}, "median"), ({"reading": "x"}, "x"), ({"split": "train"}, "train"),
     ({"rulez": "sum"}, "did you mean 'rule'"), ({"alpha": "best"}, "alpha"),
     ({"noise": ["black", "gray"]}, "noise"), ({"alpha": "interval(0,1)"}, "alpha"),
     ({"noise": "black,("}, "noise")],
)  # fmt: skip
def test_sweeps_refuse_what_does_not_exist(axes, named):
    with pytest.raises((UnknownNameError, InvalidValueError), match=named):
        Sweep.of(axes)


TINY = {
    "size": 2,
    "dev_size": 2,
    "alphas": [0.0, 0.7],
    "worlds": ["scenes", "clips"],
    "threads": 1,
}


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_runs(experiment, models, tmp_path_factory):
    shared = tmp_path_factory.getbasetemp() / "ablations"  # as the commands share their cells
    settings = plain(compose_config("ablate", [f"experiment={experiment}"]))
    settings |= {**TINY, "results": str(shared), "output": str(shared / "records")}
    assert f"ablation_{settings['name']}" == experiment
    with progress_bars(make_console()) as progress:
        records, _ = ablate.run(first_of_each(settings), [models["internvl"]], progress)
        again, computed = ablate.run(first_of_each(settings), [models["internvl"]], progress)
    lines = of_kind(records, "answers")
    known = {r["questions"] for r in of_kind(records, "questions")}
    assert {line["questions"] for line in lines} <= known
    assert {line["questions"] for line in lines if line["rule"] == PLAIN} == known
    assert computed == 0
    assert of_kind(again, "answers") == lines


def first_of_each(settings: dict) -> dict:
    """The same experiment with the first two values of every axis that asks the model."""

    def cut(axes: dict) -> dict:
        return {
            name: ",".join(map(str, listed(name, value)[:2]))
            if name in (*OF_QUESTIONS, *OF_ROWS) and name != "world" and value is not None
            else value
            for name, value in axes.items()
        }

    costs = [{**cost, "size": 1, "repeats": 1} for cost in settings["costs"]]
    return {**settings, "sweeps": [cut(axes) for axes in settings["sweeps"]], "costs": costs}


def test_the_command_writes_its_records(models, tmp_path, capsys, monkeypatch):
    weights = str(folder_of(models["internvl"]).parent)
    monkeypatch.setattr(
        "sys.argv",
        ["ablate", "experiment=ablation_targets", f"weights={weights}", "models=[internvl]",
         "size=2", "dev_size=2", "alphas=[0.3]", "worlds=[scenes]", f"results={tmp_path}",
         f"output={tmp_path}/docs", f"hydra.run.dir={tmp_path}/hydra"],
    )  # fmt: skip
    ablate.main()
    assert "targets.jsonl.gz" in capsys.readouterr().out
    records = list(read_records(tmp_path / "docs" / "targets.jsonl.gz"))
    assert {r["targets"] for r in of_kind(records, "answers") if r["rule"] == "sum"} == {
        *("units", "named", "pairs")
    }


def test_records_of_models_that_are_not_asked_stay():
    def lines(model, *marks):
        return [{"record": "answers", "model": model, "marks": mark} for mark in marks]

    asked = {"record": "questions", "questions": "q"}
    known = [asked, *lines("a", "+", "-"), *lines("b", "x")]
    again = [asked, *lines("a", "?")]
    assert ablate.merged(known, again, ["a"]) == [asked, *lines("b", "x"), *lines("a", "?")]
