"""The commands, run as a user runs them, on tiny random models."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.config import compose_config
from focus.models import embedded_names

ROOT = Path(__file__).resolve().parent.parent
TINY = ["model=tiny_internvl", "settings.max_new_tokens=2"]


def run(module: str, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


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
    assert {r["decoding"] for r in records} == {"vanilla", "focus"}
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
        (["decoding/noise=gausian"], "imagenet_uniform"),
        (["benchmark=winnoground"], "scenes_indexed"),
    ],
)
def test_wrong_settings_fail_with_what_is_accepted(arguments, expected, tmp_path):
    finished = run("experiments.evaluate", *arguments, f"hydra.run.dir={tmp_path}")
    assert finished.returncode != 0
    assert expected in finished.stderr
    assert "Traceback" not in finished.stderr


def test_the_demo_asks_all_embedded_models():
    models = compose_config("demo").models.values()
    assert sorted(model.name for model in models) == sorted(embedded_names())


def test_demo_shows_table_summary_and_figure(tmp_path):
    shown = ("internvl_abstaining", "internvl_answering")
    overrides = [
        *(f"~model@models.{name}" for name in compose_config("demo").models if name not in shown),
        "model@models.internvl_abstaining=tiny_internvl",
        "model@models.internvl_answering=tiny_llava_onevision",
        "shown=[tiny-internvl,tiny-llava_onevision]",
        *("limit=3", "settings.max_new_tokens=2", f"results={tmp_path}/demo"),
    ]
    finished = run("experiments.demo", *overrides, f"hydra.run.dir={tmp_path}/hydra")
    assert finished.returncode == 0, finished.stderr
    assert "tiny-llava_onevision" in finished.stdout
    assert len((tmp_path / "demo/records.jsonl").read_text().splitlines()) == 2 * 2 * 2 * 3
    assert (tmp_path / "demo/figure.png").stat().st_size > 10_000
    rows = json.loads((tmp_path / "demo/summary.json").read_text())["rows"]
    assert {row["metric"] for row in rows} >= {"accuracy", "image score", "leakage rate"}
