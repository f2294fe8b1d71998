"""The paper's comparison: the grid, cells that cannot be run, and the table of what there is."""

import json
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from commands import run
from fixtures_benchmarks import FIXTURES
from omegaconf import OmegaConf
from test_benchmarks_end_to_end import call

from analysis.main_table import METRICS, adjust, cell_rows, missing_rows, table_lines
from analysis.paper import PUBLISHED, published
from experiments import main_table
from experiments.config import CONF, build, compose_config
from focus.benchmarks.registry import BENCHMARKS
from focus.records import read_records

ROOT = Path(__file__).resolve().parent.parent
TINY, PAPER_MODEL = "tiny-internvl", "internvl3-2b"


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A grid of two models, one of them not here, and of two copies of the data, one not here."""
    folder = tmp_path_factory.mktemp("grid")
    data = FIXTURES["winoground"].saved(folder / "data", "parquet")
    done = run(
        *("experiments.evaluate", "experiment=main_table"),
        *("model=internvl3_2b,tiny_internvl", "benchmark=winoground"),
        f"benchmark.path={folder}/nowhere,{data}",
        *("benchmark.protocol=official", "settings.max_new_tokens=2", "limit=40", "threads=1"),
        *(f"results={folder}/results", f"hydra.sweep.dir={folder}/hydra"),
    )
    return done, folder / "results"


def test_the_grid_is_the_papers_comparison():
    params = OmegaConf.load(CONF / "experiment/main_table.yaml").hydra.sweeper.params
    assert len(params.model.split(",")) == 6
    assert params.benchmark.split(",") == ["winoground", "vismin", "mantis_eval", "muirbench"]
    base = ["experiment=main_table"]
    for option in params.model.split(","):
        assert build(compose_config("config", [*base, f"model={option}"]).model).revision
    for option in params.benchmark.split(","):
        config = compose_config("config", [*base, f"benchmark={option}"])
        assert build(config.benchmark).name == option
        assert (config.baseline, config.skip_unavailable) == ("plain", True)
        assert build(config.decoding).name == "focus"
    cells = {(benchmark, model) for benchmark, (model, _) in main_table.grid()}
    assert len(cells) == 24


def test_missing_weights_and_data_do_not_stop_the_grid(ran):
    done, results = ran
    assert done.returncode == 0, done.stderr
    notes = [json.loads(path.read_text()) for path in results.glob("*/unavailable.json")]
    missing = sorted((note["model"], note["missing"]) for note in notes)
    # One cell of either model: where a copy of the data lies is no part of what a run is.
    assert missing == [(PAPER_MODEL, "weights"), ("tiny_internvl", "data")]
    assert all("cannot be loaded" in n["reason"] for n in notes if n["missing"] == "weights")
    assert all("nowhere" in n["reason"] for n in notes if n["missing"] == "data")
    assert len(list(results.glob("*/records.jsonl"))) == 1


def test_missing_weights_are_an_error_where_nothing_else_is_asked_for():
    assert compose_config("config").skip_unavailable is False


def test_the_table_shows_what_the_records_say(ran):
    _, results = ran
    (path,) = results.glob("*/records.jsonl")
    records = [json.loads(line) for line in path.open()]
    assert len(records) == 80
    rows = [r for r in main_table.main_rows(results) if (r["model"], r["status"]) == (TINY, "run")]
    assert [row["metric"] for row in rows] == ["text score", "image score", "group score"]
    for row in rows:
        kind = row["metric"].removesuffix(" score")
        shares = {}
        for name in ("plain", "focus"):
            own = [r for r in records if r["decoding"] == name]
            own = [r for r in own if kind in ("group", r["category"])]
            by_row = {r["cluster"]: True for r in own}
            for r in own:
                by_row[r["cluster"]] &= r["correct"]
            shares[name] = sum(by_row.values()) / len(by_row)
            assert row["n"] == len(by_row) == 10
        assert row["plain_value"] == pytest.approx(shares["plain"])
        assert row["focus_value"] == pytest.approx(shares["focus"])
        assert row["delta"] == pytest.approx(shares["focus"] - shares["plain"])
        assert row["plain_ci_low"] <= row["plain_value"] <= row["plain_ci_high"]
        assert row["p_holm"] == row["p_value"]  # the only comparison of its metric


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The first questions of the demo: its records and the rows made of them."""
    folder = tmp_path_factory.mktemp("demo")
    counts = Counter()
    kept = []
    for record in read_records(ROOT / "docs/demo/records.jsonl.gz"):
        cell = (record["benchmark"], record["model"], record["decoding"])
        counts[cell] += 1
        kept += [record] if counts[cell] <= 40 else []
    (folder / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in kept))
    (folder / "summary.json").write_text("{}")
    empty = folder / "without-summary"
    empty.mkdir()
    return kept, main_table.embedded_rows([empty, folder]), folder


def test_plain_and_focus_are_told_apart_and_families_adjusted(demo):
    """Numbers that differ between strategies, counted here by hand."""
    records, (rows, source), folder = demo
    assert source == str(folder)
    models = {record["model"] for record in records}
    assert {(r["benchmark"], r["model"]) for r in rows} == {
        (b, m) for b in ("scenes_indexed", "scenes_matching") for m in models
    }
    for row in rows:
        cell = (row["benchmark"], row["model"])
        own = [r for r in records if (r["benchmark"], r["model"]) == cell]
        for prefix, name in (("plain", "plain"), ("focus", "focus")):
            asked = pd.DataFrame([r for r in own if r["decoding"] == name])
            unit = "id" if row["metric"] == "accuracy" else "cluster"
            right = asked.groupby(unit)["correct"].all().mean()
            assert row[f"{prefix}_value"] == pytest.approx(right)
    family = sorted((r for r in rows if r["metric"] == "image score"), key=lambda r: r["p_value"])
    expected = min(1, len(family) * family[0]["p_value"])
    assert family[0]["p_holm"] == pytest.approx(expected)


def test_the_command_prints_and_writes_what_is_there_and_what_is_not(
    ran, demo, capsys, monkeypatch, tmp_path
):
    _, results = ran
    monkeypatch.setattr(main_table, "embedded_rows", lambda _: demo[1])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    told = ("logger=csv", f"logger.folder={tmp_path}")
    call(main_table.main, f"folder={results}", *told, folder=tmp_path)
    assert len(pd.read_csv(tmp_path / "main_table-table.csv")) > 24
    printed = capsys.readouterr().out
    assert "not run: weights not here" in printed
    assert "not run: data not here" in printed
    assert "scenes_matching" in printed
    frame = pd.read_csv(results / "table.csv")
    main = frame[~frame["benchmark"].str.startswith("scenes")]
    assert set(main["benchmark"]) == {"winoground", "vismin", "mantis_eval", "muirbench"}
    assert len(main) == 6 * (3 + 3 + 1 + 1) + 2 * 3  # the grid; two cells of a model beside it
    assert main.loc[main["status"] != "run", "reason"].notna().all()
    text = (results / "table.md").read_text()
    assert "| muirbench   | accuracy    | internvl3-8b" in text
    assert "55.0 (" in text
    assert "InternVL3 report" in text


def test_what_is_in_no_folder_is_looked_up_in_the_local_cache(monkeypatch):
    """Without a network: nothing here, then weights, then data as well."""
    held = {"weights": False, "data": False}

    def file(*_, **__):
        return "config.json" if held["weights"] else None

    def snapshot(*_, **__):
        if not held["data"]:
            raise FileNotFoundError

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", file)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    said = []
    for name in (None, "weights", "data"):
        held |= {name: True} if name else {}
        said.append(main_table.what_is_missing("winoground", "internvl3_2b"))
    assert [status for status, _ in said] == [
        *("not run: weights not here", "not run: data not here", "not run")
    ]
    assert "OpenGVLab/InternVL3-2B-hf" in said[0][1]
    assert "conditions" in said[1][1]


def test_a_run_that_was_interrupted_shows_no_numbers(ran, tmp_path):
    _, results = ran
    (path,) = results.glob("*/records.jsonl")
    cell = tmp_path / path.parent.name
    cell.mkdir()
    (cell / "run.json").write_bytes((path.parent / "run.json").read_bytes())
    lines = path.read_bytes().splitlines(keepends=True)
    (cell / "records.jsonl").write_bytes(b"".join(lines[:-3]))
    found = main_table.read_cell(cell)
    assert found is not None
    assert {row["status"] for row in found.rows} == {"not finished"}
    assert "77 answers" in found.rows[0]["reason"]
    (cell / "records-0-of-2.jsonl").write_bytes(b"".join(lines[-3:])[:-9])  # and a shard, at work
    found = main_table.read_cell(cell)
    assert found is not None
    assert "79 answers" in found.rows[0]["reason"]


def test_an_older_note_does_not_hide_results(ran, tmp_path):
    _, results = ran
    (path,) = results.glob("*/records.jsonl")
    for name in ("records.jsonl", "run.json"):
        (tmp_path / name).write_bytes((path.parent / name).read_bytes())
    (note,) = results.glob("winoground-tiny_internvl-*/unavailable.json")
    (tmp_path / "unavailable.json").write_bytes(note.read_bytes())
    found = main_table.read_cell(tmp_path)
    assert found is not None
    assert found.rows[0]["status"] == "run"


def test_every_published_number_has_a_source_and_a_version():
    models = {model for _, (model, _) in main_table.grid()}
    for number in PUBLISHED:
        assert number.benchmark in BENCHMARKS
        assert number.metric in METRICS.get(number.benchmark, ("accuracy",))
        assert number.model is None or number.model in models
        assert number.decoding == ("focus" if number.model is None else "plain")
        assert 0 < number.value < 100
        assert number.source.strip()
        assert number.version.strip()
        assert number.protocol.strip()
    assert len(set(PUBLISHED)) == len(PUBLISHED)
    claims = [(n.benchmark, n.metric, n.value) for n in PUBLISHED if n.model is None]
    assert claims == [
        *(("vismin", "image score", 32.1), ("vismin", "group score", 29.9)),
        *(("winoground", "image score", 18.8), ("winoground", "group score", 16.8)),
    ]


def test_published_numbers_stand_beside_their_own_cell_only():
    (number,) = published("muirbench", "accuracy", "internvl3-8b", "plain")
    assert number.value == 55.0
    rows = [
        *missing_rows("muirbench", "internvl3-8b", "not run", "because"),
        *missing_rows("winoground", "internvl3-8b", "not run", "because"),
    ]
    adjust(rows)
    by_metric = {line[1]: line[3:5] for line in table_lines(rows)}
    assert by_metric["accuracy"][0].startswith("55.0 (")
    assert by_metric["accuracy"][1] == "not found"
    assert by_metric["text score"] == ("not found", "not found")
    assert by_metric["image score"][1].startswith("up to +18.8 (")


def test_plain_decoding_alone_has_no_difference():
    """A run without FOCUS still fills its own columns."""
    records = [r for r in read_records(ROOT / "docs/demo/records.jsonl.gz")
               if (r["benchmark"], r["decoding"]) == ("scenes_indexed", "plain")]  # fmt: skip
    first = [r for r in records if r["model"] == records[0]["model"]]
    (line,) = table_lines(cell_rows(first))
    assert line[-3:] == ("-", "-", "-")
    assert line[6] != "-"
