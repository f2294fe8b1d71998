"""A run that is killed, begun again and finished leaves the records of one that was not."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import re
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from test_benchmarks_end_to_end import call

from experiments.evaluate import main
from focus.records import KEY_FIELDS, Record, RecordFile, record_key

ROOT = Path(__file__).resolve().parent.parent
COMMON = ("model=tiny_internvl", "settings.max_new_tokens=2", "threads=1")
RUNS = {
    # settings, number of records: each question under plain decoding and FOCUS
    "scenes_indexed": (("benchmark=indexed", "limit=6", "engine.batch=4"), 2 * 6),
    # and both again in the second order, and FOCUS under a second seed
    "scenes_matching": (
        ("benchmark=matching", "limit=4", "orders=2", "noise_seeds=2"),
        5 * 4,
    ),
}


def records_of(results: Path) -> Path:
    (path,) = results.glob("scenes_*/records.jsonl")
    return path


def without_times(path: Path) -> bytes:
    return re.sub(rb'"seconds": [0-9.e-]+', b'"seconds": 0', path.read_bytes())


def kill_after(count: int, overrides: tuple[str, ...], results: Path) -> None:
    """Starts a run that is killed, with no chance to clean up, within the line after `count`.

    A process that is forked from this one: everything is imported there.
    """
    settings = (*COMMON, *overrides, f"results={results}")
    process = multiprocessing.get_context("fork").Process(
        target=killed_run, args=(count, settings, results)
    )
    process.start()
    process.join(timeout=300)
    assert process.exitcode == -signal.SIGKILL


def killed_run(count: int, settings: tuple[str, ...], results: Path) -> None:
    append, written = RecordFile.append, itertools.count()

    def append_or_die(file: RecordFile, record: Record) -> None:
        own = file.folder.parent == results  # plain decoding is kept elsewhere first
        if own and next(written) == count:
            file._file.write(json.dumps(record)[:20])
            file._file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        append(file, record)

    RecordFile.append = append_or_die
    silently(call, main, *settings, folder=results)


def silently(function: Callable[..., None], *args: object, **kwargs: object) -> None:
    with open(os.devnull, "w") as nowhere:
        for stream in (1, 2):
            os.dup2(nowhere.fileno(), stream)
        function(*args, **kwargs)


@pytest.mark.parametrize("name", RUNS)
def test_kill_restart_and_finish(tmp_path, name):
    overrides, total = RUNS[name]
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    call(main, *COMMON, *overrides, f"results={straight}", folder=straight)
    expected = without_times(records_of(straight))
    assert expected.count(b"\n") == total

    kill_after(total // 3, overrides, killed)
    path = records_of(killed)
    left = path.read_bytes()
    whole = left[: left.rfind(b"\n") + 1]
    assert whole.count(b"\n") == total // 3
    assert len(left) == len(whole) + 20
    assert "sessions" not in json.loads((path.parent / "run.json").read_text())
    assert not (path.parent / "summary.json").exists()

    call(main, *COMMON, *overrides, f"results={killed}", folder=killed)
    assert path.read_bytes().startswith(whole)  # nothing that was there is computed again
    assert without_times(path) == expected
    keys = Counter(record_key(json.loads(line)) for line in path.open())
    assert len(keys) == total
    assert set(keys.values()) == {1}
    assert all(len(key) == len(KEY_FIELDS) for key in keys)

    (session,) = json.loads((path.parent / "run.json").read_text())["sessions"]
    assert session["seconds"] > 0
    assert session["peak_memory_mib"] > 100
    rows, straight_rows = (
        [r for r in json.loads((p.parent / "summary.json").read_text())["rows"]
         if r["metric"] != "seconds"]
        for p in (path, records_of(straight))
    )  # fmt: skip
    assert rows == straight_rows


def test_every_session_is_noted(tmp_path):
    """A second call computes nothing, and says so with an entry of its own."""
    settings = ("model=tiny_internvl", "settings.max_new_tokens=1", "limit=1", "threads=1")
    for count in (1, 2):
        call(main, *settings, f"results={tmp_path}", folder=tmp_path)
        run = json.loads((records_of(tmp_path).parent / "run.json").read_text())
        assert [set(s) >= {"seconds", "peak_memory_mib"} for s in run["sessions"]] == [True] * count
        assert run["config_hash"] == json.loads(records_of(tmp_path).open().readline())["config"]
