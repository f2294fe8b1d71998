"""Loggers report every cell, offline by default, and never take a run down with them."""

import json
import struct
from pathlib import Path

import pandas as pd
import pytest
import wandb
from PIL import Image
from wandb.proto import wandb_internal_pb2

from experiments.logging import AbstractLogger, CellReport, CsvLogger, NoLogger, WandbLogger
from focus.benchmarks import Example
from focus.errors import InvalidValueError

LABELS = {"benchmark": "b", "model": "m", "decoding": "focus"}
ROW = {**LABELS, "metric": "accuracy", "value": 0.5, "ci_low": 0.3, "ci_high": 0.7, "n": 2}


@pytest.fixture
def report() -> CellReport:
    records = [
        {
            **LABELS,
            "id": f"q{k}",
            "category": "colour",
            "correct": k == 0,
            "text": "red",
            "answer": a,
        }
        for k, a in enumerate(("red", "blue"))
    ]
    image = Image.new("RGB", (4, 4), "red")
    example = Example(id="q0", images=(image,), question="<image> colour ?", answer="red")
    samples = [(example, records[0])]
    return CellReport(LABELS, "demo", {"seed": 0}, [ROW], records, samples=samples)


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


def test_an_offline_run_can_be_read_back(tmp_path, monkeypatch, report):
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    WandbLogger().log(report)
    wandb.teardown()  # waits for the service, which flushes the file
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    records = history(path)
    run = next(r.run for r in records if r.WhichOneof("record_type") == "run")
    assert (run.run_group, run.display_name) == ("demo", "b-m-focus")
    config = {u.key: json.loads(u.value_json) for u in run.config.update}
    assert config["seed"] == 0
    assert config["decoding"] == "focus"
    logged: dict[str, str] = {}
    for kept in records:
        kind = kept.WhichOneof("record_type")
        items = {"summary": kept.summary.update, "history": kept.history.item}.get(kind, ())
        logged |= {item.key or item.nested_key[0]: item.value_json for item in items}
    assert json.loads(logged["accuracy"]) == 0.5
    assert "by category" in logged
    assert "samples" in logged


def test_csv_rows_are_appended_under_one_header(tmp_path, report):
    path = tmp_path / "deep" / "cells.csv"
    for _ in range(2):
        CsvLogger(str(path)).log(report)
    frame = pd.read_csv(path)
    assert len(frame) == 2
    assert frame["value"].tolist() == [0.5, 0.5]
    assert frame["experiment"].tolist() == ["demo", "demo"]


def test_a_failing_logger_is_a_warning_not_an_error(report):
    class Broken(AbstractLogger):
        def _log(self, report: CellReport) -> None:
            raise ConnectionError("server away")

    with pytest.warns(UserWarning, match="server away.*records are complete"):
        Broken().log(report)


def test_no_logger_does_nothing(report):
    NoLogger().log(report)


def test_unknown_modes_are_refused():
    with pytest.raises(InvalidValueError, match="offline"):
        WandbLogger(mode="ofline")


def test_accuracy_by_category(report):
    assert report.by_category().to_dict("records") == [
        {"category": "colour", "accuracy": 0.5, "n": 2}
    ]
