"""Records and weights of a release are those that were pinned, to the bit."""

from __future__ import annotations

import dataclasses
import gzip
from types import SimpleNamespace

import huggingface_hub
import pytest

from focus.errors import DatasetUnavailableError, InvalidValueError, UnknownNameError
from focus.records import read_records
from focus.release import MANIFEST, Pin, pull, push


@pytest.fixture
def root(tmp_path):
    """A repository with one file of records, and with a page, which is no record."""
    (tmp_path / "docs" / "demo").mkdir(parents=True)
    (tmp_path / "docs" / "demo" / "run.json").write_text("{}")
    (tmp_path / "docs" / "results.md").write_text("# Results")
    (tmp_path / "docs" / "demo" / "records.jsonl.gz").write_bytes(GZIPPED)
    return tmp_path


GZIPPED = gzip.compress(b'{"id": 1}\n')


def test_what_is_pulled_is_what_was_pushed(root, tmp_path):
    pin = push("records", str(tmp_path / "hub"), root=root)
    folder = pull(pin)
    assert list(read_records(folder / "demo" / "records.jsonl.gz")) == [{"id": 1}]
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert names == {"demo/records.jsonl.gz", "demo/run.json", MANIFEST}
    # Another state has another pin, beside the first, which stays.
    (root / "docs" / "demo" / "run.json").write_text("{ }")
    other = push("records", pin.repo, root=root)
    assert other.revision != pin.revision
    assert (pull(pin) / "demo" / "run.json").read_text() == "{}"


@pytest.mark.parametrize("name", ["demo/run.json", MANIFEST])
def test_other_files_than_the_pinned_ones_are_refused(root, tmp_path, name):
    pin = push("records", str(tmp_path / "hub"), root=root)
    path = tmp_path / "hub" / pin.revision / name
    path.write_text("[]")
    with pytest.raises(InvalidValueError, match="as pinned"):
        pull(pin)
    path.unlink()
    with pytest.raises(InvalidValueError, match="no such file"):
        pull(pin)


def test_on_the_hub_a_pin_is_a_commit(root, tmp_path, monkeypatch):
    """A folder plays the hub: what is uploaded there is downloaded at its commit."""
    asked = []

    class Api:
        def create_repo(self, repo, *, repo_type, exist_ok):
            asked.append(("create", repo, repo_type))

        def upload_folder(self, *, repo_id, repo_type, folder_path, commit_message):
            folder_path.rename(tmp_path / "cache")
            folder_path.mkdir()
            return SimpleNamespace(oid="c0ffee")

    def download(repo, *, repo_type, revision, local_files_only):
        asked.append(("download", repo, repo_type, revision, local_files_only))
        if revision != "c0ffee":
            raise FileNotFoundError(revision)
        return str(tmp_path / "cache")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    pin = push("records", "owner/focus-records", root=root)
    assert pin.revision == "c0ffee"
    assert (pull(pin) / "demo" / "run.json").read_text() == "{}"
    assert asked == [
        ("create", "owner/focus-records", "dataset"),
        ("download", "owner/focus-records", "dataset", "c0ffee", True),  # tests are offline
    ]
    with pytest.raises(DatasetUnavailableError, match="--revision beef"):
        pull(dataclasses.replace(pin, revision="beef"))


def test_parts_that_there_are_not_are_named(root, tmp_path):
    with pytest.raises(UnknownNameError, match="records"):
        push("record", str(tmp_path / "hub"), root=root)
    with pytest.raises(InvalidValueError, match="focus/zoo/weights"):
        push("weights", str(tmp_path / "hub"), root=root)
    with pytest.raises(DatasetUnavailableError, match="no folder"):
        pull(Pin("records", str(tmp_path / "none"), "0", "0"))
