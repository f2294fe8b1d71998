"""One log under several parsers: scores worked out by hand, and the log itself untouched."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest
from commands import run
from fixtures_benchmarks import FIXTURES
from test_benchmarks_end_to_end import call

from experiments import evaluate, rescore
from focus.errors import RecordsConflictError
from focus.evaluation import score_fields
from focus.records import RecordFile

datasets.disable_progress_bars()
ROOT = Path(__file__).resolve().parent.parent

#: Text, and how the official and the strict parser read it. The gold of ...-0 is A or First.
LOG = {
    "0-text-0": ("A", "A", "A"),
    "0-text-1": ("It shows a dog, so B", "A", "B"),  # official: the article
    "0-image-0": ("First", "First", "First"),  # official: neither a nor b, taken for the first
    "0-image-1": ("Second", "First", "Second"),  # the same, and wrong
    "1-text-0": ("", "A", None),
    "1-text-1": ("B", "B", "B"),
    "1-image-0": ("I cannot tell", "First", None),
    "1-image-1": ("b", "Second", None),  # strict: the choices are words
}
METRICS = {  # by hand, from the table above
    "official": {"accuracy": 6 / 8, "unparsed rate": 4 / 8, "group score": 1 / 2},
    "strict": {"accuracy": 5 / 8, "unparsed rate": 3 / 8, "group score": 1 / 2},
}


@pytest.fixture
def log(tmp_path, monkeypatch) -> Path:
    """The folder of a finished run over two pairs, scored by the strict parser."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data").mkdir()
    FIXTURES["winoground"].dataset().select([0, 1]).to_parquet(tmp_path / "data/test.parquet")
    benchmark = FIXTURES["winoground"].cls(part="all", path=str(tmp_path / "data"))
    with RecordFile(tmp_path / "run", {"any": 1}) as records:
        for example in benchmark:
            text, _, strict = LOG[example.id]
            score = benchmark.score(text, example.reference)
            assert score.parsed == strict
            records.append({
                "benchmark": "winoground", "model": "m", "decoding": "plain", "seed": None,
                "order": 0, "id": example.id, "category": example.category,
                "group": example.group, "cluster": example.cluster, "text": text,
                **score_fields(score), "answer": example.answer, "traceable": False,
                "distractors": [], "choices": list(example.choices), "choice_answer": None,
                "permutation": list(example.permutation), "metadata": dict(example.metadata),
                "seconds": 0.1,
            })  # fmt: skip
    return tmp_path / "run"


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def rescored(log: Path, *overrides: str) -> None:
    call(rescore.main, f"folder={log}", *overrides, folder=log.parent)


def test_both_parsers_on_one_log(log, capsys):
    before = {path.name: path.read_bytes() for path in log.iterdir()}
    rescored(log)
    assert {name: (log / name).read_bytes() for name in before} == before
    found = {name: lines(log / f"rescored-{name}.jsonl") for name in METRICS}
    for column, (name, records) in enumerate(found.items(), start=1):
        assert {r["id"]: r["parsed"] for r in records} == {i: e[column] for i, e in LOG.items()}
        metrics = {row["metric"]: row["value"] for row in rescore.summarise(records)}
        assert METRICS[name].items() <= metrics.items()
    assert found["strict"] == lines(log / "records.jsonl")  # it was scored so
    # nothing but the score differs
    fields = {"parsed", "correct", "score", "leaked", "unparsed"}
    for old, new in zip(lines(log / "records.jsonl"), found["official"], strict=True):
        assert {k for k in old if old[k] != new[k]} <= fields
        assert old.keys() == new.keys()
    shown = capsys.readouterr().out
    first, second = shown.index("parser: official"), shown.index("parser: strict")
    assert "0.750 [" in shown[first:second]
    assert "0.625 [" in shown[second:]


@pytest.mark.parametrize("chosen", ["parsers=official", "parsers=[official]"])
def test_one_parser(log, chosen):
    rescored(log, chosen)
    assert [p.name for p in log.glob("rescored-*")] == ["rescored-official.jsonl"]


@pytest.mark.parametrize("chosen", ["parsers=[official,lenient]", "parsers=lenient"])
def test_unknown_parsers_are_refused_before_anything_is_written(log, chosen, capsys):
    with pytest.raises(SystemExit):
        rescored(log, chosen)
    message = capsys.readouterr().err
    assert "lenient" in message
    assert "official" in message
    assert "strict" in message
    assert not list(log.glob("rescored-*"))


def test_folders_without_a_run_are_refused(tmp_path, capsys):
    empty = tmp_path / "empty"
    with pytest.raises(SystemExit):
        rescored(empty)
    assert "run.json" in capsys.readouterr().err
    RecordFile(empty, {}).close()
    with pytest.raises(SystemExit):
        rescored(empty)
    assert "answered something" in capsys.readouterr().err
    assert not list(empty.glob("rescored-*"))


def test_a_damaged_log_is_refused(log):
    path = log / "records.jsonl"
    path.write_bytes(path.read_bytes().replace(b'{"benchmark"', b'"benchmark"', 2))
    with pytest.raises(RecordsConflictError, match="line 1 is damaged"):
        rescore.records_of(log)


def test_the_command_on_a_real_log(tmp_path):
    call(
        evaluate.main,
        *("model=tiny_internvl", "settings.max_new_tokens=2", "limit=3", "threads=1"),
        f"results={tmp_path}",
        folder=tmp_path,
    )
    (cell,) = tmp_path.glob("scenes_indexed-*")
    before = (cell / "records.jsonl").read_bytes()
    settings = ("logger=csv", f"logger.folder={tmp_path}", f"hydra.run.dir={tmp_path}/hydra")
    finished = run("experiments.rescore", f"folder={cell}", *settings)
    assert finished.returncode == 0, finished.stderr
    assert "parser: words" in finished.stdout
    assert (cell / "records.jsonl").read_bytes() == before
    assert (cell / "rescored-words.jsonl").read_bytes() == before
    assert "accuracy" in (tmp_path / "rescore-words.csv").read_text()
