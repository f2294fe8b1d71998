"""A model that was trained again is held to its card: `zoo_check`."""

from __future__ import annotations

import copy
import io
import json
from pathlib import Path
from typing import Any

import pytest
from commands import run
from rich.console import Console

from analysis.zoo_page import _reproduced
from analysis.zoo_reproduction import reproduction
from experiments.zoo_check import matches
from focus.errors import InvalidValueError, UnknownNameError

ROOT = Path(__file__).resolve().parent.parent


def record(said: str, key: str = "k") -> dict[str, Any]:
    cell = {
        "world": "scenes",
        "kind": "indexed",
        "num_images": 2,
        "decoding": "plain",
        "categories": ["color"],
        "category": "0" * len(said),
        "group": list(range(len(said))),
        "candidates": said,
        "text": said,
    }
    how = {"minutes": 1.5, "hardware": "abacus", "software": {"torch": "2", "transformers": "5"}}
    return {"recipe_key": key, "results": {"cells": [cell], "rows": []}, **how}


def stored_as(folder: Path, content: dict[str, Any], weights: bytes) -> Path:
    folder.mkdir(parents=True)
    (folder / "training.json").write_text(json.dumps(content))
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def test_equal_answers_lie_in_every_interval():
    frame = reproduction(record("+" * 30 + "x" * 10), record("x" * 10 + "+" * 30))
    assert frame["inside"].all()
    assert set(frame["metric"]) == {"accuracy", "leakage"}
    assert (frame["value"] == frame["again"]).all()


def test_a_rate_outside_its_interval_is_found():
    # 30 of 40: Wilson's interval is about [.60, .86].
    frame = reproduction(record("+" * 30 + "-" * 10), record("+" * 23 + "-" * 17))
    accuracy = frame[frame["metric"] == "accuracy"]
    assert not accuracy["inside"].any()
    assert accuracy["again"].tolist() == [0.575, 0.575]
    assert frame[frame["metric"] == "leakage"]["inside"].all()
    better = reproduction(record("+" * 30 + "-" * 10), record("+" * 40))
    assert not better[better["metric"] == "accuracy"]["inside"].any()
    nearer = reproduction(record("+" * 30 + "-" * 10), record("+" * 25 + "-" * 15))
    assert nearer["inside"].all()


def test_other_recipes_and_other_questions_are_refused():
    with pytest.raises(InvalidValueError, match="recipe_key"):
        reproduction(record("+-"), record("+-", key="other"))
    with pytest.raises(InvalidValueError, match="n=3"):
        reproduction(record("+-"), record("+-+"))
    fewer = copy.deepcopy(record("+-"))
    fewer["results"]["cells"] = []
    with pytest.raises(InvalidValueError, match="the same rates"):
        reproduction(record("+-"), fewer)


def test_the_command_says_whether_a_model_was_reproduced(tmp_path):
    good = record("+" * 30 + "-" * 10)
    stored = stored_as(tmp_path / "weights" / "m", good, b"same").parent
    console = Console(file=io.StringIO(), record=True, width=200)
    same = stored_as(tmp_path / "again" / "m", good, b"same")
    assert matches(same, stored, 0.95, console)
    said = console.export_text()
    assert "100.0% of 4 rates" in said
    assert "equal to the bit" in said
    worse = stored_as(tmp_path / "worse" / "m", record("+" * 10 + "-" * 30), b"other")
    assert not matches(worse, stored, 0.95, console)
    said = console.export_text()
    assert "not reproduced" in said
    assert "0.250" in said
    assert "weights differ" in said
    assert matches(worse, stored, 0.5, console)  # leakage, half of the rates, is as it was
    stranger = stored_as(tmp_path / "again" / "stranger", good, b"same")
    with pytest.raises(UnknownNameError, match="stranger"):
        matches(stranger, stored, 0.95, console)


def test_outcomes_are_kept_one_for_each_model(tmp_path):
    good = record("+" * 30 + "-" * 10)
    weights = stored_as(tmp_path / "weights" / "m", good, b"same").parent
    stored_as(tmp_path / "weights" / "other", good, b"same")
    console, kept = Console(file=io.StringIO()), tmp_path / "docs" / "reproduced.json"
    for name, content, file in (
        ("other", good, b"same"),
        ("m", record("+" * 10 + "-" * 30), b"x"),
        ("m", good, b"same"),
    ):
        again = stored_as(tmp_path / f"again-{len(list(tmp_path.iterdir()))}" / name, content, file)
        matches(again, weights, 0.95, console, kept)
    other, model = json.loads(kept.read_text())
    assert (other["model"], model["model"]) == ("other", "m")
    assert model["equal_weights"]
    assert (model["inside"], model["rates"], model["largest_difference"]) == (4, 4, 0.0)
    assert _reproduced([model]) == [
        "Trained again from scratch in 1.5 minutes on abacus (torch 2, transformers 5): m: 100.0% "
        "of 4 rates within the 95% interval of the card; largest difference 0.000; weights equal "
        "to the bit."
    ]


def test_the_command_of_the_readme_runs_on_the_stored_models(tmp_path, monkeypatch):
    folder = "focus/zoo/weights/internvl-abstaining"
    monkeypatch.chdir(ROOT)
    done = run("experiments.zoo_check", f"folder={folder}", f"hydra.run.dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "internvl-abstaining: 100.0% of" in done.stdout
    assert "equal to the bit" in done.stdout
