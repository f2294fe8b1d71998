"""The commands, run as a user runs them, on tiny random models."""

import dataclasses
import json
import math
from pathlib import Path

import pandas as pd
import pytest
from commands import run

import focus
from experiments import demo
from experiments.config import compose_config
from experiments.demo import model_configs
from focus.benchmarks.embedded import IndexedQuestion
from focus.decoding import Focus, GenerationSettings, Plain
from focus.engines import LocalEngine
from focus.errors import UnknownNameError
from focus.evaluation import Cell, answer_record
from focus.models import embedded_names

ROOT = Path(__file__).resolve().parent.parent
TINY = ["model=tiny_internvl", "settings.max_new_tokens=2"]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    overrides = [*TINY, f"results={folder}", "limit=4", f"hydra.run.dir={folder}/hydra"]
    finished = run("experiments.evaluate", *overrides)
    assert finished.returncode == 0, finished.stderr
    (cell,) = folder.glob("scenes_indexed-*")
    return finished, cell, overrides


def test_evaluate_writes_records_and_a_table(evaluated):
    finished, cell, _ = evaluated
    records = [json.loads(line) for line in (cell / "records.jsonl").open()]
    assert len(records) == 8
    assert {r["decoding"] for r in records} == {"plain", "focus"}
    assert {r["num_rows"] for r in records} == {1, 3}
    rows = json.loads((cell / "summary.json").read_text())["rows"]
    keys = {"benchmark", "model", "decoding", "metric", "value", "ci_low", "ci_high", "n"}
    assert all(keys <= set(row) for row in rows)
    focus = [r for r in rows if r["decoding"] == "focus" and r["metric"] == "accuracy"]
    assert {"delta", "delta_low", "delta_high", "p_value"} <= set(focus[0])
    assert "accuracy - plain" in finished.stdout


def test_a_second_call_computes_nothing_twice(evaluated):
    _, cell, overrides = evaluated
    before = (cell / "records.jsonl").read_bytes()
    assert run("experiments.evaluate", *overrides).returncode == 0
    assert (cell / "records.jsonl").read_bytes() == before


def test_an_interrupted_run_ends_as_an_uninterrupted_one(evaluated):
    """Times aside, the records are the same byte for byte."""
    _, cell, overrides = evaluated

    def without_times() -> list[dict]:
        lines = (cell / "records.jsonl").read_text().splitlines()
        return [{**json.loads(line), "seconds": None} for line in lines]

    complete = without_times()
    lines = (cell / "records.jsonl").read_bytes().splitlines(keepends=True)
    (cell / "records.jsonl").write_bytes(b"".join(lines[:5]) + lines[5][:40])
    assert run("experiments.evaluate", *overrides).returncode == 0
    assert without_times() == complete


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["decoding.alfa=1"], "did you mean 'alpha'"),
        (["+decoding.alfa=1", *TINY], "did you mean 'alpha'"),
        (["decoding.alpha=nan", *TINY], "alpha=nan is not accepted"),
        (["decoding.noise.name=gausian"], "imagenet+uniform"),
        (["benchmark=winnoground"], "indexed"),
    ],
)
def test_wrong_settings_fail_with_what_is_accepted(arguments, expected, tmp_path):
    finished = run("experiments.evaluate", *arguments, f"hydra.run.dir={tmp_path}")
    assert finished.returncode != 0
    assert expected in finished.stderr
    assert "Traceback" not in finished.stderr


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        *((c, ["benchmark.world=scnes", "model=internvl3_2b"]) for c in ("evaluate", "doctor")),
        ("probe", ["benchmark.world=scnes", "model=internvl3_2b"]),
        ("demo", ["benchmarks.indexed.world=scnes", "asked=[internvl3_2b]"]),
        ("ablate", ["experiment=ablation_noise", "benchmark=which", "benchmark.world=scnes"]),
    ],
)
def test_a_world_that_does_not_exist_is_told_before_anything_loads(command, arguments, tmp_path):
    """The model cannot be had here, which would be the error of a command that loads it first."""
    places = [f"results={tmp_path}/r"]
    finished = run(f"experiments.{command}", *arguments, *places, f"hydra.run.dir={tmp_path}/h")
    assert finished.returncode == 2
    assert "known: clips, digits, photos, scenes" in finished.stderr


def test_the_demo_asks_the_three_kinds_of_one_architecture():
    config = compose_config("demo")
    names = [node.name for node in model_configs(config.asked).values()]
    assert {name.partition("-")[0] for name in names} == {"internvl"}
    assert {name.partition("-")[2] for name in names} == {"abstaining", "guessing", "answering"}
    assert sorted(config.shown) == sorted(names)


def test_models_all_asks_every_embedded_model_and_keeps_its_own_results():
    config = compose_config("demo", ["lineup=all"])
    names = [node.name for node in model_configs(config.asked).values()]
    assert sorted(names) == sorted(embedded_names())
    assert config.results != compose_config("demo").results
    with pytest.raises(UnknownNameError, match=r"internvl_guesing.*did you mean.*known: all"):
        model_configs(["internvl_guesing"])


def test_the_contrast_weight_of_the_demo_is_the_best_on_dev():
    """Mean accuracy over the models that the demo asks, and both of its benchmarks."""
    config = compose_config("demo")
    sweep = pd.read_csv(ROOT / "docs/demo/contrast_weight_dev.csv")
    focus = sweep[(sweep["decoding"] == "focus") & (sweep["metric"] == "accuracy")]
    assert set(focus["model"]) == {node.name for node in model_configs(config.asked).values()}
    assert len(set(focus["benchmark"])) == len(config.benchmarks)
    alphas = focus["overrides"].str.extract(r"alpha=([\d.]+)")[0].astype(float)
    assert focus.groupby(alphas)["value"].mean().idxmax() == config.decodings.focus.alpha


def test_demo_shows_table_summary_and_figure(tmp_path):
    models = ("tiny-internvl", "tiny-llava_onevision")
    overrides = [
        *("asked=[tiny_internvl,tiny_llava_onevision]", f"shown=[{','.join(models)}]"),
        *("limit=3", "settings.max_new_tokens=2", f"results={tmp_path}/demo"),
    ]
    finished = run("experiments.demo", *overrides, f"hydra.run.dir={tmp_path}/hydra")
    assert finished.returncode == 0, finished.stderr
    _, _, shown = finished.stdout.partition("in percent")
    lines = [line.split() for line in shown.splitlines() if "tiny-" in line]
    benchmarks = ("scenes_indexed", "scenes_matching")
    assert [line[:2] for line in lines] == [[b, m] for b in benchmarks for m in models]
    records = [json.loads(line) for line in (tmp_path / "demo/records.jsonl").open()]
    assert len(records) == 2 * 2 * 2 * 3
    assert [record["decoding"] for record in records[:6]] == ["plain"] * 3 + ["focus"] * 3
    assert [record["index"] for record in records[:6]] == [0, 1, 2] * 2
    assert (tmp_path / "demo/figure.png").stat().st_size > 10_000
    rows = json.loads((tmp_path / "demo/summary.json").read_text())["rows"]
    assert {row["metric"] for row in rows} >= {"accuracy", "image score", "leakage rate"}


def test_the_figure_shows_one_telling_question_for_every_model(monkeypatch, tmp_path):
    """Where FOCUS puts most right: what leaks with most models, then what differs most."""
    vlm = focus.load("embedded:internvl-guessing")
    vlms = [dataclasses.replace(vlm, name=f"m{k}") for k in range(3)]
    benchmark = IndexedQuestion(size=5, num_images=2)
    settings = GenerationSettings(max_new_tokens=1)
    strategies = (Plain(), Focus(alpha=0.3))
    cells = [
        Cell(LocalEngine(vlm), benchmark, d, settings, d.name) for vlm in vlms for d in strategies
    ]
    # Per question: under FOCUS, right, unknown or leak; the models that leak when decoded plainly.
    told = {"m0": "ruuuu", "m1": "lrrrr", "m2": "llllu"}
    leaked = {"m0": (0, 1, 2, 3, 4), "m1": (0, 1, 2, 3, 4), "m2": (0, 2, 3, 4)}
    records = [
        {
            **{"benchmark": benchmark.name, "model": model, "decoding": d.name, "id": example.id},
            "text": {"r": example.answer, "u": "unknown", "l": example.distractors[0]}[said],
            "correct": d.name == "focus" and said == "r",
            "leaked": d.name == "plain" and index in leaked[model],
        }
        for model in told
        for d in strategies
        for index, (example, said) in enumerate(zip(benchmark, told[model], strict=True))
    ]
    assert demo.telling_example(benchmark, records, list(told)).id == benchmark[3].id
    drawn = []
    monkeypatch.setattr(demo, "save_figure", lambda figure, path: drawn.append(figure))
    demo.draw_question(vlms, cells, records, tmp_path / "figure.png")
    titles = [axes.get_title() for axes in drawn[0].axes]
    assert [title for title in titles if title in told] == list(told)
    row = demo.view_branches(vlms[0], benchmark, benchmark[1], strategies[1], settings).rows[-1]
    request = cells[1].request(benchmark[1])
    decoded = strategies[1].decode(vlm, request, settings, keep_logits="first")
    record = answer_record(cells[1], benchmark[1], decoded)
    assert [math.log(row.said[choice]) for choice in benchmark[1].choices] == pytest.approx(
        record["choice_logprobs"], abs=1e-3
    )
