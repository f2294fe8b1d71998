"""Processes that share a folder, questions that failed before, and settings checked first."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest
from test_benchmarks_end_to_end import call
from test_runs import TINY, records_of, stretched

from experiments import demo
from experiments.config import explain_experiment, explain_values
from experiments.evaluate import main
from focus.errors import InvalidValueError, RecordsLockedError, TooManyFailuresError
from focus.records import RecordFile, Shard


@pytest.fixture(autouse=True)
def whole_errors(monkeypatch):
    """Errors as they are, instead of one line on the terminal."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")


def numbered(index: int, order: int = 0) -> dict:
    """A record of the question at `index`."""
    labels = {"benchmark": "b", "model": "m", "decoding": "focus", "seed": None}
    return {**labels, "order": order, "id": f"q{index}", "index": index}


def ids_of(folder: Path) -> list[tuple]:
    lines = (folder / "records.jsonl").read_text().splitlines()
    return [(r["order"], r["id"]) for r in map(json.loads, lines)]


def test_one_process_at_all_questions_keeps_shards_out_and_says_who_it_is(tmp_path):
    """Both would answer the same questions, and a merge would remove what the first is writing."""
    with RecordFile(tmp_path, {}) as whole:
        whole.append(numbered(0))
        with pytest.raises(RecordsLockedError, match=rf"process {os.getpid()} on .*shard=0/2"):
            RecordFile(tmp_path, {}, shard=Shard(0, 2))
    for k in (0, 1):  # afterwards shards go on where it stopped
        with RecordFile(tmp_path, {}, shard=Shard(k, 2)) as records:
            assert numbered(0) in records
            records.append(numbered(k + 2))
            records.finish({})
    assert ids_of(tmp_path) == [(0, "q0"), (0, "q2"), (0, "q3")]


def test_a_merge_that_is_interrupted_doubles_nothing(tmp_path, monkeypatch):
    """Between the merged file and the removal of its parts."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def work(shard: Shard) -> None:
        with RecordFile(tmp_path, {}, shard=shard) as records:
            if numbered(shard.index) not in records:
                records.append(numbered(shard.index))
            records.finish({})

    work(Shard(0, 2))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", interrupt)
        with pytest.raises(KeyboardInterrupt):
            work(Shard(1, 2))
    assert len(list(tmp_path.glob("records-*-of-2.jsonl"))) == 2
    for k in (0, 1):
        work(Shard(k, 2))
    assert ids_of(tmp_path) == [(0, "q0"), (0, "q1")]
    assert not list(tmp_path.glob("records-*-of-2.jsonl"))


def test_a_shard_that_is_at_work_again_is_not_merged_by_others(tmp_path):
    """Both finished one order before; a second one is asked for."""
    for order in (0, 1):
        shards = [RecordFile(tmp_path, {}, shard=Shard(k, 2)) for k in (0, 1)]
        for k, records in enumerate(shards):
            records.append(numbered(k, order))
            assert records.finish({}) == (k == 1)
            records.close()
    assert ids_of(tmp_path) == [(0, "q0"), (0, "q1"), (1, "q0"), (1, "q1")]


def test_shards_that_were_asked_different_things_do_not_go_together(tmp_path):
    for k, limit in ((0, 4), (1, 6)):
        with RecordFile(tmp_path, {}, shard=Shard(k, 2)) as records:
            assert records.finish({}, asked={"limit": limit}) is False


def test_every_session_keeps_its_settings(tmp_path):
    for batch in (8, 1):
        with RecordFile(tmp_path, {"decoding": {"encode_batch": batch}}) as records:
            records.finish({"seconds": 1})
    sessions = json.loads((tmp_path / "run.json").read_text())["sessions"]
    assert [s["settings"]["decoding"]["encode_batch"] for s in sessions] == [8, 1]


def test_calling_again_is_no_way_past_the_limit_but_retrying_is(tmp_path, monkeypatch):
    settings = ("model=tiny_qwen2_5_vl", *TINY[1:], "limit=24", f"results={tmp_path}")
    with monkeypatch.context() as broken:
        stretched(broken, 1, 2)
        for _ in range(3):
            with pytest.raises(TooManyFailuresError, match="retry_failed=true"):
                call(main, *settings, folder=tmp_path)
    with pytest.raises(TooManyFailuresError):  # a failed record is a finished one
        call(main, *settings, folder=tmp_path)
    call(main, *settings, "retry_failed=true", folder=tmp_path)
    records = records_of(tmp_path)
    assert len(records) == 48
    assert not any(record["error"] for record in records)


def test_every_command_checks_what_commands_share(tmp_path):
    with pytest.raises(InvalidValueError, match=r"limit=-1 .* positive"):
        call(demo.main, "limit=-1", f"results={tmp_path}", folder=tmp_path)
    assert "limit=-1" in explain_values("config", ["limit=-1"])
    assert "shard='4/4'" in explain_values("config", ["shard=4/4"])
    assert explain_values("config", ["limit=2", f"results={tmp_path}"]) is None


@pytest.mark.parametrize(
    "value", ["glob(ablation_*)", "smoke,ablation_noise", "glob([smoke,*_noise])"]
)
def test_a_grid_of_experiments_is_run_by_their_own_command(value):
    assert "python -m experiments.ablate" in explain_experiment("evaluate", [f"experiment={value}"])
    assert explain_experiment("ablate", ["experiment=glob(ablation_*)"]) is None


def test_processes_at_once_write_every_record_once_and_in_order(tmp_path, monkeypatch):
    """Four shards, one of them begun twice: three succeed, one of the two is refused."""
    monkeypatch.setattr("focus.records.run.environment", dict)
    fork = multiprocessing.get_context("fork")
    said = fork.Queue()

    def shard_of_four(k: int) -> None:
        shard = Shard.parse(f"{k}/4")
        try:
            with RecordFile(tmp_path, {}, shard=shard) as records:
                time.sleep(1)
                for order in range(2):
                    for index in range(shard.index, 41, shard.count):
                        records.append({"id": f"q{index}", "order": order, "index": index})
                said.put(str(records.finish({})))
        except RecordsLockedError:
            said.put("refused")

    processes = [fork.Process(target=shard_of_four, args=(k,)) for k in (0, 1, 2, 3, 3)]
    for process in processes:
        process.start()
    found = sorted(said.get(timeout=300) for _ in processes)
    for process in processes:
        process.join()
    assert found == ["False", "False", "False", "True", "refused"]
    assert ids_of(tmp_path) == [(order, f"q{k}") for order in range(2) for k in range(41)]
