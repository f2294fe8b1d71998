"""`train_zoo` and `ladder`, run as a user runs them, in miniature."""

from __future__ import annotations

import json
import os
from pathlib import Path
from subprocess import CompletedProcess

import commands
import hydra
import pytest
from omegaconf import DictConfig

import focus
from experiments.ladder import finished, left, recipe_of, rungs
from focus.errors import InvalidValueError

ROOT = Path(__file__).resolve().parent.parent
SMALL = [
    *(f"+architecture.{name}=32" for name in ("hidden", "vision_hidden")),
    *(f"+architecture.{name}=1" for name in ("layers", "vision_layers")),
    *(f"+architecture.{name}=2" for name in ("heads", "vision_heads")),
    *(f"zoo.recipe.stages.{k}.steps=1" for k in range(5)),
    *("world=digits", "world.views.digits=1", "+zoo.recipe.noise_images=8"),
    "+zoo.recipe.batch_size=4",
]


@pytest.fixture(autouse=True)
def without_settings_of_wandb(monkeypatch):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)


def run(module: str, *arguments: str) -> CompletedProcess[str]:
    return commands.run(module, *SMALL, *arguments)


def ladder(*overrides: str) -> DictConfig:
    with hydra.initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return hydra.compose("ladder", overrides=list(overrides))


def test_training_writes_a_model_and_its_card_once(tmp_path):
    settings = (
        *("evaluation_size=2", "curve_size=2", "save_every=1", f"snapshots={tmp_path}/kept"),
        *(f"output={tmp_path}/models", f"checkpoints={tmp_path}/work"),
        *(f"logger.folder={tmp_path}/work", f"hydra.run.dir={tmp_path}/hydra"),
    )
    first = run("experiments.train_zoo", *settings)
    assert first.returncode == 0, first.stderr
    folder = tmp_path / "models" / "internvl-abstaining"
    record = json.loads((folder / "training.json").read_text())
    assert [stage["steps"] for stage in record["recipe"]["stages"]] == [1] * 5
    assert "world=digits" in record["command"]
    assert (folder / "README.md").exists()
    kept = sorted((tmp_path / "kept").iterdir())
    assert [path.name for path in kept] == [f"internvl-abstaining-0000{k}" for k in range(1, 6)]
    weights = [(path / "model.safetensors").read_bytes() for path in (*kept[-2:], folder)]
    assert weights[0] != weights[1] == weights[2]
    assert focus.load(str(kept[0])).name == kept[0].name
    assert "dev, see 1: digits/name" in first.stdout + first.stderr
    assert list((tmp_path / "work" / "wandb").glob("offline-run-*"))  # no key was asked for
    before = (folder / "training.json").read_bytes()
    second = run("experiments.train_zoo", *settings)
    assert second.returncode == 0
    assert "already trained" in second.stdout + second.stderr
    assert (folder / "training.json").read_bytes() == before


def test_the_ladder_goes_on_where_it_stopped(tmp_path):
    output = tmp_path / "ladder.jsonl"
    settings = (
        *("seeds=[0]", "only=abstention", "ends.multi_share=[0.6]", "~worlds.scenes"),
        *(
            "worlds.digits=1.0",
            "steps=1",
            "size=2",
            "most_images=3",
            f"output={output}",
            f"checkpoints={tmp_path}/w",
        ),
        f"hydra.run.dir={tmp_path}/hydra",
    )
    first = run("experiments.ladder", *settings)
    assert first.returncode == 0, first.stderr
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert [line["abstention"] for line in lines] == ["none", "single", *["multi"] * 3]
    assert [line["abstain_share"] for line in lines] == [0.0, 0.1, 0.02, 0.05, 0.1]
    assert {line["clean_multi"] for line in lines} == {0.6}
    assert {cell["world"] for line in lines for cell in line["results"]["cells"]} == {"digits"}
    # One line is lost: only that run is done again.
    output.write_text("".join(output.read_text().splitlines(keepends=True)[:-1]))
    second = run("experiments.ladder", *settings)
    assert second.returncode == 0, second.stderr
    assert "4 runs are done, 1 are left" in second.stdout + second.stderr
    again = json.loads(output.read_text().splitlines()[-1])
    assert {**again, "minutes": 0} == {**lines[-1], "minutes": 0}


def test_a_run_that_another_process_has_finished_meanwhile_is_not_done_again(tmp_path):
    output = tmp_path / "ladder.jsonl"
    todo = [rung for rung in rungs(ladder("seeds=[3]")) if rung.abstention == "none"][:3]
    still = left(todo, output)
    assert next(still) == todo[0]
    output.write_text(
        json.dumps({"clean_multi": todo[1].clean_multi, "abstention": "none", "seed": 3}) + "\n"
    )
    assert list(still) == todo[2:]


def test_each_axis_runs_through_both_ends_of_the_other_once():
    points = [(rung.clean_multi, rung.abstention) for rung in rungs(ladder("seeds=[3]"))]
    assert len(points) == len(set(points)) == 6 * 2 + 5 * 2 - 4
    assert {share for share, level in points if level == "none"} == {0, 0.01, 0.03, 0.1, 0.3, 0.6}
    assert {level for share, level in points if share == 0.6} == set(ladder().abstention)
    twice = list(rungs(ladder()))
    assert len(twice) == 2 * len(points)
    assert {rung.seed for rung in twice} == {0, 1}


def test_rungs_share_everything_but_their_last_stage():
    config = ladder()
    recipes = [recipe_of(rung, config) for rung in rungs(config) if rung.seed == 0]
    assert {recipe.key(config.shared_stages) for recipe in recipes} == {
        recipes[0].key(config.shared_stages)
    }
    assert len({recipe.key(config.shared_stages + 1) for recipe in recipes}) == len(recipes)
    assert all(len(recipe.stages) == config.shared_stages + 1 for recipe in recipes)
    assert all(stage.mixture.clean_multi == 0 for stage in recipes[0].stages[:-1])


def test_an_axis_that_does_not_exist_is_refused():
    with pytest.raises(InvalidValueError, match="multi_share"):
        list(rungs(ladder("only=noise")))


def test_without_a_file_nothing_is_finished(tmp_path):
    assert finished(tmp_path / "ladder.jsonl") == set()
