"""Records are written once, survive interruption, and never mix configurations."""

import gzip
import json

import pytest

from focus.environment import environment
from focus.errors import RecordsConflictError
from focus.records import RecordFile, digest, read_records

CONFIG = {"model": {"name": "m"}, "decoding": {"alpha": 0.3, "noise": {"name": "gaussian"}}}


def record(number: int, **extra: object) -> dict:
    labels = {"benchmark": "b", "model": "m", "decoding": "focus", "id": f"q{number}"}
    return labels | {"text": "naïve ✓"} | extra


def test_finished_records_are_found_again(tmp_path):
    with RecordFile(tmp_path, CONFIG) as records:
        for index in range(3):
            records.append(record(index))
    with RecordFile(tmp_path, CONFIG) as records:
        assert [r["id"] for r in records.records] == ["q0", "q1", "q2"]
        assert record(1) in records
        assert record(3) not in records
        assert records.records[0]["text"] == "naïve ✓"


def test_a_record_is_never_written_twice(tmp_path):
    with RecordFile(tmp_path, CONFIG) as records:
        records.append(record(0))
        with pytest.raises(RecordsConflictError, match="q0"):
            records.append(record(0, text="other"))
    assert len(list(read_records(tmp_path / "records.jsonl"))) == 1


@pytest.mark.parametrize("field", ["prompt_hash", "images_hash", "answer"])
def test_an_answer_to_a_question_that_has_changed_is_not_taken_for_one_to_it(tmp_path, field):
    """As when a local data set is edited and the same command is run again."""
    known = {"prompt_hash": "p", "images_hash": "i", "answer": "a"}
    with RecordFile(tmp_path, CONFIG) as records:
        records.append(record(0, **known))
    with RecordFile(tmp_path, CONFIG) as records:
        assert record(0) in records
        assert record(0, **known) in records
        with pytest.raises(RecordsConflictError, match=rf"'q0' from before it changed \({field}\)"):
            record(0, **{**known, field: "x"}) in records  # noqa: B015


def test_answers_to_other_questions_are_not_counted_among_those_of_a_run(tmp_path):
    """As when the ids of a local data set are renamed: the old answers would stay in the table."""
    with RecordFile(tmp_path, CONFIG) as records:
        records.append(record(0, index=0))
        records.append(record(1, index=1, error="unreadable"))
    with RecordFile(tmp_path, CONFIG) as records:
        assert record(2, index=2) not in records
        assert record(5, index=1) not in records  # what could not be read had no id
        with pytest.raises(RecordsConflictError, match=r"'q0' stood where 'new' stands now"):
            record(0, index=0, id="new") in records  # noqa: B015
        assert record(0, index=0, id="new", decoding="plain") not in records


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_torn_last_line_is_dropped_and_nothing_else(tmp_path, cut):
    with RecordFile(tmp_path, CONFIG) as records:
        for index in range(3):
            records.append(record(index))
    path = tmp_path / "records.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with RecordFile(tmp_path, CONFIG) as records:
        assert [r["id"] for r in records.records] == ["q0", "q1"]
        records.append(record(2))
    assert path.read_bytes() == whole


def test_damage_in_the_middle_is_reported_with_its_line(tmp_path):
    with RecordFile(tmp_path, CONFIG) as records:
        records.append(record(0))
    path = tmp_path / "records.jsonl"
    path.write_text("{broken\n" + path.read_text())
    with pytest.raises(RecordsConflictError, match="line 1"):
        RecordFile(tmp_path, CONFIG)


def test_another_configuration_is_refused_and_the_difference_shown(tmp_path):
    RecordFile(tmp_path, CONFIG).close()
    other = json.loads(json.dumps(CONFIG))
    other["decoding"]["noise"]["name"] = "black"
    with pytest.raises(RecordsConflictError, match=r"decoding\.noise\.name: 'gaussian' -> 'black'"):
        RecordFile(tmp_path, other)
    RecordFile(tmp_path, CONFIG).close()  # the right one still opens


def test_records_without_a_run_record_are_refused(tmp_path):
    (tmp_path / "records.jsonl").write_text(json.dumps(record(0)) + "\n")
    with pytest.raises(RecordsConflictError, match=r"no run\.json"):
        RecordFile(tmp_path, CONFIG)


def test_the_run_record_says_what_results_depend_on(tmp_path):
    RecordFile(tmp_path, CONFIG).close()
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["config"] == CONFIG
    assert run["config_hash"] == digest(CONFIG)
    assert set(environment()) <= set(run)
    assert run["packages"]["torch"]


def test_the_digest_depends_on_content_not_on_order():
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({"a": 1}) != digest({"a": "1"})


def test_records_may_be_compressed(tmp_path):
    path = tmp_path / "records.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write('{"id": "a"}\n{"id": "b"}\n')
    assert [record["id"] for record in read_records(path)] == ["a", "b"]
