"""The doctor tells models apart, finds planted faults, and survives a check that breaks."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch
from test_benchmarks_end_to_end import call

import focus
from experiments import doctor as command
from focus import doctor
from focus.benchmarks.embedded import IndexedQuestion
from focus.decoding import Request
from focus.doctor import Check, attempt, verdict
from focus.doctor.behaviour import naming
from focus.evaluation import request_of
from focus.models.internvl import InternVL
from focus.models.tiny import TinyModel, build_tiny


@pytest.fixture(scope="module")
def benchmark():
    return IndexedQuestion(size=40)


@pytest.fixture(scope="module")
def requests(benchmark):
    return [request_of(benchmark, example) for example in doctor.several_images(benchmark, 2)]


@pytest.mark.parametrize(
    ("name", "expected", "own"),
    [
        ("abstaining-seed1", "name no candidate", 0),
        ("answering-seed1", "from their own images", 1),
        ("guessing", "do not commit themselves", 0.5),
    ],
)
def test_kinds_are_told_apart_by_what_their_branches_say(benchmark, name, expected, own):
    vlm = focus.load(f"embedded:internvl-{name}")
    check = doctor.behaviour(vlm, benchmark, request_of, size=20)
    assert check.data["off_target"]["own"] == pytest.approx(own, abs=0.1)
    assert check.data["on_target"]["right"] > 0.8
    assert check.data["best_branch"] > 0.8
    assert expected in verdict([check])


def test_a_sound_model_passes_in_either_precision(any_vlm, requests):
    half = replace(any_vlm, model=copy.deepcopy(any_vlm.model).bfloat16())
    for vlm in (any_vlm, half):
        assert doctor.environment_check(vlm).status == "ok"
        assert doctor.prompt_check(vlm, requests[0]).status == "ok"
        assert doctor.shared_is_naive(vlm, requests).status == "ok"
        plain = doctor.plain_is_generate(vlm, requests)
        assert plain.status == "ok" or (vlm is half and plain.status == "warn")
    assert "rounding_ratio" in doctor.shared_is_naive(half, requests).data


class Misplaced(InternVL):
    """Positions that are not the model's own."""

    def position_ids(self, model, input_ids, images):
        return super().position_ids(model, input_ids, images).flip(-1)


def test_planted_faults_are_found(requests):
    vlm = build_tiny("internvl")
    wrong = replace(vlm, family=Misplaced())
    assert doctor.shared_is_naive(wrong, requests).status == "fail"
    assert doctor.plain_is_generate(wrong, requests).status == "fail"
    vlm.model.generation_config.eos_token_id = None
    assert doctor.prompt_check(vlm, requests[0]).status == "warn"
    vlm.processor.chat_template = None
    check = attempt("prompt", lambda: doctor.prompt_check(vlm, requests[0]))
    assert check.status == "fail"
    assert "has no chat template" in check.lines[0]
    assert "prompt failed" in verdict([check])


def test_images_cost_what_they_cost(vlm, requests):
    check = doctor.cost(vlm, requests[0], questions=7200, numbers=(1, 2, 600), new_tokens=1)
    assert [row["images"] for row in check.data["rows"]] == [1, 2]
    assert check.data["limit"] == "600 images: ContextLengthError"
    seconds = check.data["rows"][1]["focus"]
    assert check.data["hours"]["focus"] == pytest.approx(2 * seconds)
    tokens = doctor.budgets(vlm).data["tokens"]
    assert tokens["checkpoint"]["512x512"] > tokens["compact"]["512x512"] == 4
    assert doctor.budgets(build_tiny("qwen2_5_vl")).data["tokens"]["compact"]["512x512"] == 16


def test_the_prompt_is_shown_with_its_images(vlm, images):
    request = Request(images[:2], "first <image> second <image> which is red ?", "x")
    lines = doctor.prompt_check(vlm, request).lines
    shown = [line.rpartition("]")[2].strip() for line in lines if "]  image " in line]
    assert [line.partition(":")[0] for line in shown] == ["image 1", "image 2"]
    assert any("which is red ?" in line for line in lines)


def test_a_checkpoint_row_is_never_that_of_another_budget():
    vlm = build_tiny("internvl")
    vlm.family.set_budget(vlm.processor, vlm.family.named_budget(vlm.processor, "compact"))
    tokens = doctor.budgets(replace(vlm, budget="compact")).data["tokens"]
    assert tokens == {"compact": dict.fromkeys(tokens["compact"], 4)}


def test_a_capitalised_answer_names_its_candidate():
    tokenizer = focus.load("embedded:internvl-answering").processor.tokenizer

    class Capitals:  # every text is a token of its own
        known = ("red", "Red", "blue", "Blue", "RED", "BLUE")

        def encode(self, text, **kwargs):
            return [self.known.index(text.strip())] if text.strip() in self.known else []

        def decode(self, ids):
            return self.known[ids[0]]

    assert naming(Capitals(), ["red", "blue"])[1] == "red"
    assert naming(Capitals(), ["red", "blue"])[3] == "blue"
    (token,) = tokenizer.encode("red", add_special_tokens=False)
    assert naming(tokenizer, ["red", "blue"])[token] == "red"
    assert naming(Capitals(), ["red", "Red"]) == {0: "red"}  # "Red" may be either


def test_no_gain_is_promised_where_no_branch_knows_or_none_can_be_read():
    other = {"right": 0.0, "own": 0.0, "wrong": 0.0, "other": 1.0}
    data = {"plain": 0.2, "leakage": 0.3, "n": 50, "focus": 0.2, "off_target": other}
    lost = {**data, "on_target": other, "on_target_ranks_right": 0.2}
    said = verdict([Check("behaviour", "ok", (), data=lost)])
    assert said.startswith("runs; on-target branches are right in only 20%")
    talkative = {**lost, "on_target_ranks_right": 0.9}
    said = verdict([Check("behaviour", "ok", (), data=talkative)])
    assert "is open" in said
    assert "plain 0.20, FOCUS 0.20" in said


def test_questions_of_another_benchmark_are_named(tmp_path, monkeypatch):
    for name in ("shared_is_naive", "plain_is_generate", "behaviour"):
        monkeypatch.setattr(doctor, name, lambda *args, **kw: Check("cheap", "ok", ()))
    counted = []
    monkeypatch.setattr(
        doctor, "cost", lambda *args, questions: counted.append(questions) or Check("c", "ok", ())
    )
    settings = ("model=tiny_internvl", "benchmark=muirbench", "benchmark.offline=true", "size=1")
    call(command.main, *settings, f"results={tmp_path}", folder=tmp_path)
    folder = tmp_path / "tiny-internvl-scenes_indexed"
    assert json.loads((folder / "doctor.json").read_text())["asked_for"] == "muirbench"
    assert "muirbench is not here" in (folder / "doctor.txt").read_text()
    assert counted == [2600]


def test_images_are_asked_at_the_size_at_which_an_evaluation_asks_them(tmp_path, monkeypatch):
    """The published budget squares those of some benchmarks."""
    sizes, load = [], TinyModel.load

    def behaviour(vlm, benchmark, asked, **kw):
        sizes.extend(image.size for image in asked(benchmark, benchmark[0]).images)
        return Check("behaviour", "ok", ())

    def first(vlm, requests, *args, **kw):
        one = requests if isinstance(requests, Request) else requests[0]
        sizes.extend(image.size for image in one.images)
        return Check("cheap", "ok", ())

    monkeypatch.setattr(doctor, "behaviour", behaviour)
    for name in ("prompt_check", "shared_is_naive", "plain_is_generate", "cost"):
        monkeypatch.setattr(doctor, name, first)
    monkeypatch.setattr(IndexedQuestion, "published_size", (48, 48))
    for budget, size in (("published", (48, 48)), ("checkpoint", (32, 32))):
        loaded = replace(load(TinyModel("internvl")), budget=budget)
        monkeypatch.setattr(TinyModel, "load", lambda self, loaded=loaded: loaded)
        sizes.clear()
        settings = ("model=tiny_internvl", "size=1", f"results={tmp_path}/{budget}")
        call(command.main, *settings, folder=tmp_path)
        assert sizes == [size] * 10


def test_without_labels_the_verdict_is_open():
    check = Check("behaviour", "ok", (), data={"plain": 0.4})
    assert "whether FOCUS helps is open" in verdict([check])
    sure = Check("behaviour", "ok", (), data={"plain": 0.97, "off_target": {"own": 0, "other": 0}})
    assert "hardly leaks" in verdict([sure])


def test_the_command_writes_what_it_shows_and_fails_with_a_check(tmp_path, capsys, monkeypatch):
    settings = ("model=tiny_internvl", "size=2", "threads=1", f"results={tmp_path}")
    settings += ("logger=csv", f"logger.folder={tmp_path}")
    monkeypatch.setattr(doctor, "cost", lambda *args, **kw: Check("cost", "ok", ("cheap",)))
    call(command.main, *settings, folder=tmp_path)
    (folder,) = tmp_path.glob("tiny-internvl-scenes_indexed")
    found = json.loads((folder / "doctor.json").read_text())
    assert [check["name"] for check in found["checks"]][:2] == ["environment", "prompt"]
    shown = capsys.readouterr().out
    assert found["verdict"][:30] in shown
    assert "shared prefixes" in (tmp_path / "doctor-checks.csv").read_text()
    assert "cheap" in (folder / "doctor.txt").read_text()

    def broken(*args: object) -> Check:
        raise RuntimeError("planted")

    monkeypatch.setattr(doctor, "budgets", broken)
    with pytest.raises(SystemExit) as stop:
        call(command.main, *settings, folder=tmp_path)
    assert stop.value.code == 1
    assert "RuntimeError: planted" in capsys.readouterr().out
    assert torch.is_grad_enabled()
