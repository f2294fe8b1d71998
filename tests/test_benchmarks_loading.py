"""What goes wrong while loading is named: fields, gates, networks, folders, snapshots."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import datasets
import huggingface_hub
import pytest
from datasets import Dataset, Features, List, Value
from fixtures_benchmarks import FIXTURES, TEXT, colour_of, picture
from huggingface_hub.errors import GatedRepoError

from focus.benchmarks import source
from focus.benchmarks.base import Example
from focus.benchmarks.hub import AbstractHubBenchmark
from focus.benchmarks.mantis_eval import MantisEval
from focus.benchmarks.mirb import MIRB
from focus.benchmarks.vismin import VisMin
from focus.benchmarks.winoground import Winoground
from focus.errors import DatasetSchemaError, DatasetUnavailableError, InvalidValueError

datasets.disable_progress_bars()


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"caption_1": None}, "'caption_1' \\(string\\) is missing"),
        ({"caption_0": List(TEXT)}, "'caption_0' is list of string, expected string"),
        ({"image_1": Value("int64")}, "'image_1' is int64, expected image"),
        ({"tag": Value("int64")}, "'tag' is int64, expected string"),
        (
            {"id": None, "index": TEXT},
            "'id' \\(id\\) is missing.*It has image_0: image, .*index: s",
        ),
        ({"id": Value("float32")}, "'id' is float32, expected id"),
    ],
)
def test_a_changed_schema_names_the_field_and_what_is_there(change, expected, tmp_path):
    changed = {**FIXTURES["winoground"].features, **change}
    features = Features({name: kind for name, kind in changed.items() if kind is not None})
    empty = {name: [None] for name in features}
    Dataset.from_dict(empty, features=features).save_to_disk(tmp_path)
    with pytest.raises(DatasetSchemaError, match=f"winoground: .*{expected}") as caught:
        len(Winoground(path=str(tmp_path)))
    assert "image_0: image" in str(caught.value)


def test_optional_fields_may_be_missing(tmp_path):
    data = FIXTURES["winoground"].dataset().remove_columns(["tag", "collapsed_tag"])
    data.to_parquet(tmp_path / "test.parquet")
    example = Winoground(part="all", path=str(tmp_path))[0]
    assert (example.metadata["tag"], example.metadata["task"]) == ("", "")


def failing(error: Exception):
    def load_dataset(*args, **kwargs):
        raise error

    return load_dataset


def gated_error() -> Exception:
    cause = GatedRepoError.__new__(GatedRepoError)
    error = datasets.exceptions.DatasetNotFoundError("Dataset 'facebook/winoground' is ...")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            gated_error(),
            "it is gated: accept its conditions at https://huggingface.co/datasets/fac",
        ),
        (
            datasets.exceptions.DatasetNotFoundError("Dataset 'x' is a gated dataset on the Hub."),
            "it is gated",
        ),
        (
            datasets.exceptions.DatasetNotFoundError("Dataset 'x' doesn't exist on the Hub"),
            "the hub shows no data set of that name; it is gated, so log in",
        ),
        (
            datasets.exceptions.DatasetNotFoundError("Revision 'b4' doesn't exist for dataset"),
            "the hub has no revision b400",
        ),
        (ConnectionError("Couldn't reach the Hub"), "the hub cannot be reached"),
        (ValueError("BuilderConfig 'x' not found. Available: ['y']"), "BuilderConfig 'x' not fou"),
    ],
)
def test_what_the_hub_refuses_is_explained(error, expected, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", failing(error))
    monkeypatch.setattr(source, "hub_answers", lambda: True)
    with pytest.raises(DatasetUnavailableError) as caught:
        len(Winoground())
    message = str(caught.value)
    assert expected in message
    assert "winoground (facebook/winoground, split test, revision b400e17" in message
    assert "hf download facebook/winoground --repo-type dataset" in message
    assert "benchmark.path=" in message


def test_without_network_the_real_loader_says_so():
    """No fake here: the tests run with the hub switched off."""
    with pytest.raises(DatasetUnavailableError, match="the hub cannot be reached"):
        len(MIRB())


def test_offline_reads_the_cached_snapshot_and_asks_nobody(tmp_path, monkeypatch):
    snapshot = FIXTURES["vismin"].saved(tmp_path / "snapshot", "parquet")
    monkeypatch.setattr(datasets, "load_dataset", failing(AssertionError("asked the hub")))
    asked = []

    def snapshot_download(repo, *, repo_type, revision, local_files_only):
        asked.append((repo, repo_type, revision, local_files_only))
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(DatasetUnavailableError, match=r"holds 40 of 2084 rows .*hf download"):
        len(VisMin(offline=True))
    assert asked == [("mair-lab/vismin-bench", "dataset", VisMin.source.revision, True)]
    monkeypatch.setitem(VisMin.source.size, "test", 40)
    assert len(VisMin(offline=True, part="all")) == 4 * 40


def test_offline_without_a_snapshot():
    with pytest.raises(DatasetUnavailableError, match=r"not in the local cache.*hf download"):
        len(VisMin(offline=True))


def test_a_path_that_holds_nothing(tmp_path):
    with pytest.raises(DatasetUnavailableError, match="there is no file or folder"):
        len(Winoground(path=str(tmp_path / "nowhere")))
    with pytest.raises(DatasetUnavailableError, match="holds no data of split 'test'"):
        len(Winoground(path=str(tmp_path)))
    datasets.DatasetDict({"train": FIXTURES["winoground"].dataset()}).save_to_disk(tmp_path / "d")
    with pytest.raises(DatasetUnavailableError, match="no split 'test'; it has train"):
        len(Winoground(path=str(tmp_path / "d")))


@dataclass(frozen=True)
class Own(AbstractHubBenchmark):
    """The least that a benchmark of one's own says: what docs/adding.md asks for."""

    name = "own"
    source = source.DataSource(
        name="own", repo="", revision=None, splits=("test",), paper="", licence="ours",
        fields={"id": "id", "images": "images", "question": "string", "answer": "string"},
    )  # fmt: skip
    index_fields = ("id",)

    def _identity(self, row):
        return row["id"], row["id"]

    def _example(self, row, item, member):
        images = tuple(self.image(cell, item) for cell in row["images"])
        return Example(item.id, images, row["question"], row["answer"], ("A", "B"))


def test_the_line_that_the_page_shows_is_a_question_for_a_known_and_for_an_own_format(tmp_path):
    page = Path(__file__).resolve().parent.parent / "docs" / "adding.md"
    (line,) = re.findall(r"```json\n(.*)\n```", page.read_text(encoding="utf-8"))
    (tmp_path / "test.jsonl").write_text(line + "\n", encoding="utf-8")
    for number, name in enumerate(("a.png", "b.png")):
        picture(number).save(tmp_path / name)
    for cls in (MantisEval, Own):
        (example,) = cls(part="all", path=tmp_path)
        assert [colour_of(image) for image in example.images] == [0, 1]
        assert (example.answer, example.choices) == ("B", ("A", "B"))
    assert Own().score("it is B", example.reference).parsed is None  # words, not letters
    assert Own().score("B", example.reference).correct


def test_data_that_is_on_no_hub_is_asked_for_by_its_path(tmp_path):
    for path in (None, tmp_path / "misspelt"):
        with pytest.raises(DatasetUnavailableError, match=r"on no hub.*benchmark\.path=") as error:
            len(Own(path=path))
        assert "hf download" not in str(error.value)
    with pytest.raises(InvalidValueError, match=r"protocol='official'.*strict"):
        Own(protocol="official")
