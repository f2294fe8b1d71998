"""Loggers are told of every command, offline by default, and never take a run down with them."""

from __future__ import annotations

import json
import struct
import sys
from itertools import cycle
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import wandb
from commands import run
from PIL import Image
from wandb.proto import wandb_internal_pb2

from experiments.config import build, compose_config
from experiments.logging import About, CsvLogger, Run, WandbLogger, attempted, samples
from focus.benchmarks import Example
from focus.environment import environment
from focus.errors import InvalidValueError, MissingExtraError

TINY = ("model=tiny_internvl", "settings.max_new_tokens=2", "limit=4", "threads=1")
ABOUT = About("demo", "demo", ["limit=4", "results=/tmp/x", "logger=wandb"], {"limit": 4})
COMMANDS = {
    **{name: name for name in ("demo", "probe", "forecast", "bench", "doctor")},
    **{name: name for name in ("main_table", "rescore", "train_zoo", "viewer")},
    "config": "evaluate",
}


def history(path: Path) -> list[wandb_internal_pb2.Record]:
    """Everything an offline run wrote: a LevelDB log of protocol buffers behind a 7-byte header."""
    data, block, found, parts = path.read_bytes(), 32_768, [], b""
    position = 7
    while position + 7 <= len(data):
        if block - position % block < 7:  # too little room for a header: the block is padded
            position += block - position % block
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        position += 7
        parts += data[position : position + length]
        position += length
        if kind in (1, 4):  # a full record, or the last part of one
            found.append(wandb_internal_pb2.Record.FromString(parts))
            parts = b""
    return found


@pytest.fixture
def offline(tmp_path, monkeypatch) -> Path:
    """Where runs go that nothing was said about: no key, no mode."""
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("WANDB_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    wandb.teardown()  # it reads the environment once in a process
    return tmp_path


def test_an_offline_run_can_be_read_back(offline):
    folders = (f"results={offline}/results", f"hydra.run.dir={offline}/hydra")
    done = run("experiments.evaluate", *TINY, *folders, "decoding.alpha=0.2", "logger=wandb")
    assert done.returncode == 0, done.stderr
    wandb.teardown()  # waits for the service, which flushes the file
    (path,) = offline.glob("wandb/offline-run-*/*.wandb")
    records = history(path)
    kept = {record.WhichOneof("record_type"): record for record in records}

    started = next(r.run for r in records if r.WhichOneof("record_type") == "run")
    assert (started.run_group, started.job_type) == ("evaluate", "evaluate")
    assert started.display_name == f"evaluate {' '.join(TINY)} decoding.alpha=0.2"
    config = {u.key: json.loads(u.value_json) for u in started.config.update}
    assert config["decoding"]["alpha"] == 0.2
    told = environment()
    assert {key: config["environment"][key] for key in ("commit", "device")} == {
        key: told[key] for key in ("commit", "device")
    }
    assert kept["exit"].exit.exit_code == 0

    logged: dict[str, Any] = {}
    for record in records:
        for item in record.history.item:
            *above, key = item.nested_key or [item.key]
            node = logged
            for name in above:
                node = node.setdefault(name, {})
            node[key] = json.loads(item.value_json)
    cells = {"done/scenes_indexed · tiny-internvl · plain": 4}
    cells |= {"done/scenes_indexed · tiny-internvl · focus": 4}
    assert cells.items() <= logged.items()
    assert all(logged[name.replace("done", "per second")] > 0 for name in cells)
    assert logged["accuracy"]["_type"] == "image-file"

    artifacts = [r.artifact for r in records if r.WhichOneof("record_type") == "artifact"]
    files = {a.type: [c.path for c in a.manifest.contents] for a in artifacts}
    assert {name.rpartition("/")[2] for name in files["records"]} == {
        *("records.jsonl", "run.json", "summary.json")
    }
    tables = {
        content.path.partition(".")[0]: json.loads(Path(content.local_path).read_text())
        for artifact in artifacts
        for content in artifact.manifest.contents
        if content.path.endswith(".table.json")
    }
    asked, measured, categories = (
        pd.DataFrame(tables[name]["data"], columns=tables[name]["columns"])
        for name in ("samples", "cells", "categories")
    )
    assert {picture["_type"] for picture in asked["image 1"]} == {"image-file"}
    assert asked["decoding"].tolist() == ["plain"] * 4 + ["focus"] * 4
    rows = asked[["says: reference", "says: image 1", "says: image 2"]]
    assert rows[asked["decoding"] == "focus"].notna().all(axis=None)
    assert asked["question"].str.contains("in the first image").any()
    assert {"accuracy", "leakage rate"} <= set(measured["metric"])
    assert categories["n"].sum() == 2 * 4


def test_jobs_of_a_sweep_are_one_group_and_append_to_one_file(tmp_path):
    done = run(
        *("experiments.evaluate", "--multirun", *TINY, "benchmark.world=scenes,digits"),
        *("logger=csv", f"logger.folder={tmp_path}/tables"),
        *(f"results={tmp_path}/results", f"hydra.sweep.dir={tmp_path}/today/now"),
    )
    assert done.returncode == 0, done.stderr
    cells = pd.read_csv(tmp_path / "tables" / "evaluate-cells.csv")
    assert set(cells["benchmark"]) == {"scenes_indexed", "digits_indexed"}
    assert set(cells["experiment"]) == {"evaluate today/now"}
    digits = cells["overrides"].str.contains("benchmark.world=digits")
    assert set(cells.loc[digits, "benchmark"]) == {"digits_indexed"}
    asked = pd.read_csv(tmp_path / "tables" / "evaluate-samples.csv")
    assert "says: reference" in asked
    assert "image 1" not in asked  # pictures are left out


def test_every_command_takes_every_logger():
    for (name, command), logger in zip(COMMANDS.items(), cycle(("csv", "wandb", "none"))):
        build(compose_config(name, [f"logger={logger}"]).logger)
        source = Path(sys.modules[Run.__module__].__file__).with_name(f"{command}.py").read_text()
        assert "run.table(" in source or "report_cells(run" in source, command
        assert "run.records(" in source, command


def test_what_fails_is_a_warning_not_an_error():
    class Broken(Run):
        @attempted
        def numbers(self, values, *, step=None):
            raise ConnectionError("server away")

    with pytest.warns(UserWarning, match="server away.*records are complete"):
        Broken().numbers({})


def test_a_command_that_fails_ends_its_run_as_failed(offline):
    """And with its own error."""
    settings = (f"results={offline}/results", f"hydra.run.dir={offline}/hydra", "logger=wandb")
    done = run("experiments.evaluate", *TINY, *settings, "+decoding.alfa=1")
    assert done.returncode == 2
    assert "did you mean 'alpha'" in done.stderr
    wandb.teardown()
    (path,) = offline.glob("wandb/offline-run-*/*.wandb")
    assert [r.exit.exit_code for r in history(path) if r.WhichOneof("record_type") == "exit"] == [1]


def test_unknown_modes_and_a_missing_package_are_refused(monkeypatch):
    with pytest.raises(InvalidValueError, match="offline"):
        WandbLogger(mode="ofline")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtraError, match=r"\[wandb\]"):
        WandbLogger().run(ABOUT)


def test_a_run_is_named_by_what_was_chosen():
    assert ABOUT.name == "demo limit=4"


def test_tables_of_two_shapes_are_one_file(tmp_path):
    for table in (pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [2], "b": [3]})):
        CsvLogger(str(tmp_path)).run(ABOUT).table("cells", table)
    kept = pd.read_csv(tmp_path / "demo-cells.csv")
    assert kept["a"].tolist() == [1, 2]
    assert kept["b"].fillna(0).tolist() == [0, 3]


def test_samples_are_questions_with_what_each_row_says():
    image = Image.new("RGB", (4, 4), "red")
    example = Example(id="q0", images=(image,), question="<image> colour ?", answer="red")
    records = [
        {"id": "q0", "decoding": "focus", "row_tops": {"reference": "unknown", "image 1": "red"}},
        {"id": "q1", "decoding": "focus"},
    ]
    (line,) = samples([example], records, ["decoding"]).to_dict("records")
    assert line.pop("image 1") is image
    assert line == {
        **{"question": "<image> colour ?", "answer": "red", "decoding": "focus"},
        **{"says: reference": "unknown", "says: image 1": "red"},
    }
    assert len(samples([example])) == 1
