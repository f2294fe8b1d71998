"""What becomes of a run: shared plain answers, shards, locks, failed questions, speed settings."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from PIL import Image
from test_benchmarks_end_to_end import call
from test_interruption import without_times

from experiments import evaluate, evaluation
from experiments.config import (
    CONF,
    build,
    build_settings,
    compose_config,
    explain_experiment,
)
from experiments.evaluate import main
from focus.benchmarks.base import Example
from focus.benchmarks.embedded import IndexedQuestion
from focus.benchmarks.mirb import MIRB
from focus.benchmarks.muirbench import MuirBench
from focus.decoding import Focus, GenerationSettings, Plain, official_settings
from focus.engines import LocalEngine
from focus.errors import (
    BranchMemoryError,
    InvalidValueError,
    RecordsConflictError,
    RecordsLockedError,
    TooManyFailuresError,
    UnknownNameError,
)
from focus.models import Checkpoint
from focus.models.tiny import TinyModel, build_tiny
from focus.records import RecordFile, Shard

TINY = ("model=tiny_internvl", "settings.max_new_tokens=1", "threads=1")


@pytest.fixture(autouse=True)
def whole_errors(monkeypatch):
    """Errors as they are, instead of one line on the terminal."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")


def records_of(results: Path, name: str = "*") -> list[dict]:
    (path,) = results.glob(f"scenes_indexed-{name}/records.jsonl")
    return [json.loads(line) for line in path.open()]


def test_a_sweep_loads_its_model_once_and_answers_plainly_once(tmp_path, monkeypatch):
    loads, plain = [], []
    load, decode = TinyModel.load, Plain.decode_many
    monkeypatch.setattr(TinyModel, "load", lambda *a, **kw: loads.append(1) or load(*a, **kw))

    def counted(self, engine, requests, *args, **kwargs):
        plain.extend(requests)
        return decode(self, engine, requests, *args, **kwargs)

    monkeypatch.setattr(Plain, "decode_many", counted)
    monkeypatch.setattr(evaluate, "_loaded", {})
    for alpha, limit in ((0.1, 3), (0.2, 5), (0.3, 4)):
        arguments = (f"decoding.alpha={alpha}", f"limit={limit}", f"results={tmp_path}/{alpha}")
        call(main, *TINY, *arguments[:2], f"results={tmp_path}", folder=tmp_path)
    assert (len(loads), len(plain)) == (1, 5)
    folders = sorted(tmp_path.glob("scenes_indexed-*/records.jsonl"))
    counts = [[json.loads(line)["decoding"] for line in path.open()] for path in folders]
    assert sorted(len(found) for found in counts) == [6, 8, 10]
    assert all(found.count("plain") == found.count("focus") for found in counts)


def test_shards_of_two_processes_merge_to_what_one_would_have_written(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    settings = (*TINY, "limit=7", "orders=1", "noise_seeds=2")
    call(main, *settings, f"results={one}", folder=one)
    (expected,) = one.glob("scenes_indexed-*/records.jsonl")
    for k in (2, 0, 0):  # the second call for a shard computes nothing
        call(main, *settings, f"results={two}", f"shard={k}/3", folder=two)
        assert not list(two.glob("scenes_indexed-*/records.jsonl"))
    with pytest.raises(RecordsConflictError, match="divided into shards"):
        call(main, *settings, f"results={two}", "baseline=null", folder=two)
    call(main, *settings, f"results={two}", "shard=1/3", folder=two)
    (merged,) = two.glob("scenes_indexed-*/records.jsonl")
    assert without_times(merged) == without_times(expected)
    assert (merged.parent / "summary.json").exists()
    assert not list(two.rglob("records-*-of-3.jsonl"))
    before = merged.read_bytes()
    call(main, *settings, f"results={two}", "shard=1/3", folder=two)
    assert merged.read_bytes() == before


def test_one_process_writes_a_file(tmp_path):
    with RecordFile(tmp_path, {"a": 1}), pytest.raises(RecordsLockedError, match=r"shard=0/2"):
        RecordFile(tmp_path, {"a": 1})
    with RecordFile(tmp_path, {"a": 1}) as records:  # control: free again
        records.append({"id": "x"})
    for text in ("4/4", "1", "-1/3", "a/b", 3):
        with pytest.raises(InvalidValueError, match="k/n with k from 0"):
            Shard.parse(text)


def test_settings_of_speed_are_no_part_of_a_run(tmp_path):
    config = {"decoding": {"alpha": 0.3, "encode_batch": 8}, "model": {"device": "cuda:0"}}
    with RecordFile(tmp_path, config) as records:
        records.append({"id": "x"})
        name = records.config_hash
    faster = {"decoding": {"alpha": 0.3, "encode_batch": 1}, "model": {"device": "cpu"}}
    with RecordFile(tmp_path, faster) as records:
        assert (len(records.records), records.config_hash) == (1, name)
    other = {"decoding": {"alpha": 0.4, "encode_batch": 8}, "model": {"device": "cuda:0"}}
    with pytest.raises(RecordsConflictError, match=r"decoding\.alpha: 0\.3 -> 0\.4"):
        RecordFile(tmp_path, other)


def test_after_running_out_of_memory_a_run_goes_on_with_smaller_batches(tmp_path, monkeypatch):
    generate, calls = LocalEngine.generate, []

    def scarce(engine, prompts, settings):
        calls.extend(prompts)
        if max(prompt.encode_batch for prompt in prompts) > 1 and len(calls) > 5:
            raise BranchMemoryError("out of memory; lower encode_batch")
        return generate(engine, prompts, settings)

    monkeypatch.setattr(LocalEngine, "generate", scarce)
    settings = (*TINY, "limit=4", f"results={tmp_path}", "engine.batch=1")
    with pytest.raises(BranchMemoryError):
        call(main, *settings, folder=tmp_path)
    assert len(records_of(tmp_path)) == 5
    call(main, *settings, "decoding.encode_batch=1", folder=tmp_path)
    assert len(records_of(tmp_path)) == 8
    assert len(calls) == 8 + 1  # the one that ran out


def stretched(monkeypatch, *bad: int) -> None:
    """Makes the images of some questions ones that every processor refuses."""
    getitem = IndexedQuestion.__getitem__

    def broken(self, index: int) -> Example:
        example = getitem(self, index)
        if index in bad:
            example.images[1].paste(0, (0, 0, *example.images[1].size))
            object.__setattr__(example, "images", (example.images[0], Image.new("RGB", (5000, 4))))
        return example

    monkeypatch.setattr(IndexedQuestion, "__getitem__", broken)


def test_a_question_that_cannot_be_processed_is_recorded_and_the_run_goes_on(tmp_path, monkeypatch):
    stretched(monkeypatch, 2)
    settings = ("model=tiny_qwen2_5_vl", *TINY[1:], "limit=24", f"results={tmp_path}")
    call(main, *settings, folder=tmp_path)
    records = records_of(tmp_path)
    failed = [record for record in records if record["error"]]
    assert len(records) == 48
    assert [record["index"] for record in failed] == [2, 2]
    assert not any(record["correct"] for record in failed)
    assert "ImageError: image 2 of 2, 5000 x 4 pixels" in failed[0]["error"]
    (summary,) = tmp_path.glob("scenes_indexed-*/summary.json")
    rates = [r for r in json.loads(summary.read_text())["rows"] if r["metric"] == "failed rate"]
    assert [row["value"] for row in rates] == [pytest.approx(1 / 24)] * 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda e: {"images": (e.images[0].transpose(Image.Transpose.ROTATE_180), *e.images[1:])},
         "from before it changed .images_hash"),
        (lambda e: {"id": f"new-{e.id}"}, "answers to other questions"),
    ],
)  # fmt: skip
def test_a_run_on_questions_that_were_edited_is_refused(tmp_path, monkeypatch, change, said):
    """Repainted or renamed: old answers would stand in the table beside new ones."""
    settings = (*TINY, "limit=3", f"results={tmp_path}")
    call(main, *settings, folder=tmp_path)
    before = records_of(tmp_path)
    read = IndexedQuestion.__getitem__
    monkeypatch.setattr(IndexedQuestion, "__getitem__",
                        lambda self, i: replace(e := read(self, i), **change(e)))  # fmt: skip
    with pytest.raises(RecordsConflictError, match=said):
        call(main, *settings, folder=tmp_path)
    assert records_of(tmp_path) == before


def test_a_run_ends_when_too_much_fails(tmp_path, monkeypatch):
    stretched(monkeypatch, 1, 2)
    settings = ("model=tiny_qwen2_5_vl", *TINY[1:], "limit=24", f"results={tmp_path}")
    with pytest.raises(TooManyFailuresError, match=r"2 of 3 .* \(2 x ImageError\), more than 5%"):
        call(main, *settings, folder=tmp_path)


@pytest.mark.parametrize(
    ("setting", "accepted"),
    [
        *((f"{name}=-1", f"{name}=-1 .* positive") for name in ("limit", "threads", "orders")),
        ("noise_seeds=0", "noise_seeds=0 .* positive integer"),
        ("shard=4/4", "k/n with k from 0 to n - 1"),
        ("baseline=greedy", "known: null, plain, plain_official"),
    ],
)
def test_settings_are_checked_before_anything_is_loaded(tmp_path, monkeypatch, setting, accepted):
    monkeypatch.setattr(Checkpoint, "load", lambda self: pytest.fail("loaded"))
    with pytest.raises((InvalidValueError, UnknownNameError), match=accepted):
        call(main, setting, f"results={tmp_path}", folder=tmp_path)


def test_results_must_be_writable(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidValueError, match="a folder that can be made and written to"):
        call(main, f"results={tmp_path}/file/below", folder=tmp_path)


def test_an_experiment_is_run_by_its_own_command():
    wrong = explain_experiment("evaluate", ["experiment=ablation_noise"])
    assert "python -m experiments.ablate experiment=ablation_noise" in wrong
    assert "experiments.evaluate experiment=smoke" in explain_experiment(
        "ablate", ["experiment=smoke"]
    )
    assert explain_experiment("evaluate", ["experiment=smoke", "limit=2"]) is None


def test_a_command_line_is_answered_without_the_slow_imports():
    """Seconds earlier; torch alone takes two."""
    code = (
        "import sys; sys.argv = ['evaluate.py', 'decoding.alfa=1']\n"
        "from experiments.config import check_command_line\n"
        "try: check_command_line('config', '__main__')\n"
        "except SystemExit as e: print(e.code, {'torch', 'pandas'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "2 set()"
    assert "did you mean 'alpha'" in done.stderr


def test_a_weight_is_chosen_on_dev_and_read_by_other_runs(tmp_path, capsys):
    tuned = tmp_path / "tuned"
    settings = (*TINY, "benchmark=matching", "limit=6", f"results={tmp_path}/runs")
    for alpha in (0.4, 0.0, 0.2):
        call(main, *settings, f"tune={tuned}", f"decoding.alpha={alpha}", folder=tmp_path)
    (path,) = tuned.glob("*.json")
    assert path.name == "scenes_matching-words-tiny_internvl.json"
    choice = json.loads(path.read_text())
    assert list(choice["curve"]) == ["0.0", "0.2", "0.4"]
    best = max(point["value"] for point in choice["curve"].values())
    assert choice["alpha"] == min(
        float(alpha) for alpha, point in choice["curve"].items() if point["value"] == best
    )
    assert choice["metric"] == "image score"
    runs = [json.loads(p.read_text())["config"] for p in tmp_path.glob("runs/*/run.json")]
    assert {run["benchmark"]["split"] for run in runs} == {"dev"}
    capsys.readouterr()
    choice["alpha"] = 0.4
    path.write_text(json.dumps(choice))
    call(main, *settings, f"tuned={tuned}", f"results={tmp_path}/read", folder=tmp_path)
    (run,) = tmp_path.glob("read/*/run.json")
    assert json.loads(run.read_text())["config"]["decoding"]["alpha"] == 0.4
    assert json.loads(run.read_text())["config"]["benchmark"]["split"] == "test"
    assert "alpha 0.4, chosen on dev by image score" in capsys.readouterr().out
    call(main, *settings, f"tuned={tmp_path}/none", f"results={tmp_path}/read", folder=tmp_path)
    assert "alpha 0.3 as configured: none was chosen on dev" in capsys.readouterr().out


def test_the_official_table_is_the_published_protocol():
    config = compose_config("config", ["experiment=main_table_official"])
    assert build(config.benchmark).protocol == "official"
    assert build(config.decoding) == Focus.official()
    assert build_settings(config.settings, 0) == official_settings()
    assert build(evaluate.plain_decoding(config.baseline)).flat_images
    assert (config.model.budget, config.seed) == ("published", 42)
    strict = compose_config("config", ["experiment=main_table"])
    grids = [c.hydra.sweeper.params for c in map(OmegaConf.load, sorted(
        (CONF / "experiment").glob("main_table*.yaml")))]  # fmt: skip
    assert grids[0] == grids[1]
    assert (strict.baseline, strict.tuned) == ("plain", config.tuned)


def test_plain_decoding_by_itself_is_the_one_that_was_asked_for(tmp_path):
    """As published it gets a flat list, and must not be taken over from the fair one."""
    settings = ("model=tiny_llava_onevision", *TINY[1:], "limit=2", f"results={tmp_path}")
    for option in ("plain", "plain_official"):
        call(main, *settings, f"decoding={option}", folder=tmp_path)
    counts = {
        path.parent.name.split("-")[3]: json.loads(path.open().readline())["image_tokens"][0]
        for path in tmp_path.glob("scenes_indexed-*/records.jsonl")
    }
    assert counts["plain_official"] > counts["plain"]


def test_the_published_budget_squares_the_images_that_the_published_code_does(monkeypatch):
    vlm = build_tiny("qwen2_5_vl")
    settings = GenerationSettings(max_new_tokens=1)
    benchmark = IndexedQuestion(size=1)
    cell = evaluation.Cell(LocalEngine(vlm), benchmark, Plain(), settings, "plain")
    squared = replace(cell, engine=LocalEngine(replace(vlm, budget="published")))
    tokens = {}
    for size in (None, (48, 48)):
        monkeypatch.setattr(IndexedQuestion, "published_size", size)
        for each in (cell, squared):
            request = each.request(benchmark[0])
            decoded = each.decoding.decode(each.vlm, request, settings)
            tokens[size, each.vlm.budget] = list(decoded.image_tokens)
    assert tokens[(48, 48), "published"] == [9, 9]
    assert all(found == [4, 4] for key, found in tokens.items() if key != ((48, 48), "published"))
    assert MuirBench.published_size == MIRB.published_size == (512, 512)
