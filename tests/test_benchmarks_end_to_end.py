"""Every benchmark from its files to a scored table, under both protocols, with a tiny model."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import datasets
import pandas as pd
import pytest
from fixtures_benchmarks import FIXTURES, picture
from fixtures_embedded import chosen
from hydra.core.global_hydra import GlobalHydra

from experiments.evaluate import main
from focus.benchmarks.embedded import KINDS
from focus.benchmarks.longbench_tasks import TASKS
from focus.benchmarks.registry import BENCHMARKS, EMBEDDED, parsers_of
from focus.scoring import Reference
from focus.worlds import WORLDS

datasets.disable_progress_bars()

QUIET = ("hydra/job_logging=disabled", "hydra/hydra_logging=disabled")
#: Every kind of embedded question in a world, and every world; the rest differ in pixels alone.
IN_TURN = [f"{world}_{kind}" for world, kind in zip(cycle(WORLDS), KINDS, strict=False)]
CASES = [(name, "") for name in IN_TURN] + [
    (name, protocol)
    for name, benchmark in BENCHMARKS.items()
    if name not in EMBEDDED
    for protocol in benchmark.parsers()
]


def call(command: Callable[[], None], *overrides: str, folder: Path) -> None:
    """Runs a command of `experiments` as if with these settings; Hydra's files go to `folder`."""
    GlobalHydra.instance().clear()
    arguments = [*overrides, *QUIET, f"hydra.run.dir={folder}/hydra"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["command", *arguments])
        try:
            command()
        finally:
            GlobalHydra.instance().clear()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Local data of every benchmark."""
    root = tmp_path_factory.mktemp("end_to_end")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", root / "cache")
        for name, fixture in FIXTURES.items():
            fixture.saved(root / name, "parquet")
        write_longbench(root / "mmlongbench")
        yield root


def write_longbench(folder: Path) -> None:
    data, images = folder / "mmlb_data", folder / "mmlb_image"
    path = data / TASKS["vh_single"].file.format(k=8)
    path.parent.mkdir(parents=True)
    row = {"id": "0", "question": "Is there a dog?", "ctxs": ["0.png", "1.png"], "answer": "Yes"}
    path.write_text(json.dumps(row) + "\n" + json.dumps({**row, "id": "1"}) + "\n")
    images.mkdir()
    for k in range(2):
        picture(k).save(images / f"{k}.png")


def write_vinoground(folder: Path) -> None:
    from test_benchmarks_video import write_clip

    folder.mkdir(exist_ok=True)
    for side, shade in (("pos", 50), ("neg", 200)):
        write_clip(folder / f"0_{side}.mp4", [shade] * 8)
    row = {"index": 0, "major": "action", "minor": None, "pos_cap": "dark", "neg_cap": "bright"}
    datasets.Dataset.from_list([row]).to_parquet(folder / "test.parquet")


def settings_of(name: str, protocol: str, root: Path) -> list[str]:
    if name in EMBEDDED:
        return []
    found = [f"protocol={protocol}", f"path={root / name}", "part=all"]
    if name == "vinoground":
        pytest.importorskip("av")
        write_vinoground(root / name)
        found += [f"videos={root / name}", "num_frames=2"]
    return [f"benchmark.{setting}" for setting in found]


@pytest.mark.parametrize(("name", "protocol"), CASES)
def test_from_files_to_scores(root, tmp_path, name, protocol):
    overrides = [
        *("model=tiny_internvl", "settings.max_new_tokens=2", "limit=2", "threads=1"),
        *(*chosen(name), f"results={tmp_path}", "orders=2", "noise_seeds=2"),
        *settings_of(name, protocol, root),
    ]
    call(main, *overrides, folder=tmp_path)
    (cell,) = tmp_path.glob(f"{name}-*")
    records = [json.loads(line) for line in (cell / "records.jsonl").open()]
    several = BENCHMARKS[name].orders > 1
    variants = {(d, o, None) for d in ("plain", "focus") for o in range(1 + several)}
    variants |= {("focus", 0, 1)}
    assert {(r["decoding"], r["order"], r["seed"]) for r in records} == variants
    assert len(records) == 2 * len(variants)
    run = json.loads((cell / "run.json").read_text())
    for record in records:
        assert record["config"] == run["config_hash"]
        assert record["num_images"] >= 1
        branched = record["decoding"] == "focus" and record["num_images"] > 1
        assert record["num_rows"] >= (2 if branched else 1)
        assert record["budget"] == "checkpoint"
        assert (record["noise_std"] is not None) == branched
        assert record["error"] is None
        assert record["prompt_hash"]
        assert 0 <= record["score"] <= 1
        # the log alone is enough to read its texts again, with every parser
        reference = Reference.from_record(record)
        again = {key: parse(record["text"], reference) for key, parse in parsers_of(name).items()}
        assert again[protocol or "words"].correct == record["correct"]
    rows = json.loads((cell / "summary.json").read_text())["rows"]
    metrics = {row["metric"]: row for row in rows if row["decoding"] == "focus"}
    assert metrics["accuracy"]["n"] == 2
    assert metrics["accuracy"]["seeds"] == 2
    assert {"unparsed rate", "seconds"} <= set(metrics)
    assert ("swap consistency" in metrics) == several


def test_loggers_are_told_of_the_plain_cells(tmp_path):
    """Rows of a table name no order and seed; records of further ones are not part of a cell."""
    call(
        main,
        *("model=tiny_internvl", "settings.max_new_tokens=1", "limit=2", "threads=1"),
        *("benchmark=matching", f"results={tmp_path}", "orders=2", "noise_seeds=2"),
        *("logger=csv", f"logger.folder={tmp_path}"),
        folder=tmp_path,
    )
    cells = pd.read_csv(tmp_path / "evaluate-cells.csv")
    assert list(cells)[:2] == ["experiment", "overrides"]
    accuracy = cells[cells["metric"] == "accuracy"]
    assert accuracy[["decoding", "n"]].values.tolist() == [["plain", 2], ["focus", 2]]
    assert pd.read_csv(tmp_path / "evaluate-categories.csv")["n"].tolist() == [2, 2]


def test_a_part_without_questions_is_refused(tmp_path, capsys):
    rows = FIXTURES["mantis_eval"].dataset().select(range(1))
    rows.to_parquet(data := tmp_path / "test.parquet")
    overrides = ["model=tiny_internvl", "benchmark=mantis_eval", f"benchmark.path={data}"]
    overrides += ["benchmark.part=dev", f"results={tmp_path}"]
    with pytest.raises(SystemExit):
        call(main, *overrides, folder=tmp_path)
    assert "one with questions in this part" in capsys.readouterr().err
