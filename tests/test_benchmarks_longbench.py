"""MMLongBench: every task from files written here, in the layout of the unpacked archives."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from fixtures_benchmarks import colour_of, picture

from focus.benchmarks.longbench_tasks import TASKS
from focus.benchmarks.mmlongbench import MMLongBench
from focus.benchmarks.registry import parsers_of
from focus.errors import (
    DatasetSchemaError,
    DatasetUnavailableError,
    ImageError,
    InvalidValueError,
    MissingExtraError,
)
from focus.scoring import Reference, Score

PAGES = ["docs/some-long-document-name/d_page1.png", "docs/some-long-document-name/d_page2.png"]
NEEDLE = {
    "question": "Which one?",
    "ctxs": [{"type": "text", "text": "Some text."}, {"type": "image", "text": "<image>"}],
    "image_list": ["a/0.png"],
}
DOCUMENT = {
    "doc_name": "some-long-document-name",
    "question": "How many?",
    "page_list": PAGES,
    "answer": "3",
    "answer_format": "Integer",
}


def row_of(task: str) -> dict:
    if task in ("infoseek", "viquae"):
        ctxs = [{"title": "Tower", "text": "It is tall."}]
        return {"question": "How tall?", "image": "a/0.png", "ctxs": ctxs, "answer": ["330 m"]}
    if task.startswith("vh_"):
        return {"question": "Is there a dog?", "ctxs": ["a/0.png", "a/1.png"], "answer": "Yes"}
    if task.endswith("-image") and not task.startswith("counting"):
        return {**NEEDLE, "choices_image": ["a/1.png", "a/2.png"], "answer": 1}
    if task == "counting-image":
        return {**NEEDLE, "question": "Count <image>", "needle_image_list": ["a/1.png"],
                "answer": [2, 0, 1]}  # fmt: skip
    if task == "counting-text":
        return {**NEEDLE, "answer": [1, 2]}
    if task.endswith("-text"):
        return {**NEEDLE, "answer": "the needle"}
    if task == "gov-report":
        summary = [{"section_title": "Why", "paragraphs": ["The cats sat.", "Twice."]}]
        return {"image_list": PAGES, "summary": summary}
    if task == "lexsum":
        return {"image_list": PAGES, "summary": "the cats sat down"}
    return DOCUMENT


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """The folder that unpacking leaves, with three rows a task."""
    root = tmp_path_factory.mktemp("mmlongbench")
    for index, name in enumerate([f"a/{k}.png" for k in range(4)] + PAGES):
        path = root / "mmlb_image" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(index).save(path)
    for name, task in TASKS.items():
        path = root / "mmlb_data" / task.file.format(k=8)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".json":
            shown = [[[{"id": 10 + k, "image": f"a/{k % 4}.png"} for k in range(8)]]]
            tests = [{"id": k, "name": "x", "image": f"a/{k}.png", "answer": 7} for k in range(3)]
            path.write_text(json.dumps({"cars": {"exemplar_list": shown, "test_example": tests}}))
        else:
            rows = [{"id": f"{k}", **row_of(name)} for k in (0, 1, 1)]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


@pytest.mark.parametrize("protocol", ["official", "strict"])
@pytest.mark.parametrize("task", TASKS)
def test_every_task_loads_and_its_placeholders_fit_its_images(root, task, protocol):
    benchmark = MMLongBench(task=task, protocol=protocol, path=str(root), part="all")
    examples = list(benchmark)
    assert len(examples) == len({example.id for example in examples}) == 3
    for example in examples:
        assert example.question.count("<image>") == len(example.images) > 0
        assert example.category == task
        assert not {"{context}", "{question}"} & set(example.question.split())
        if protocol == "official":
            assert example.question.startswith("<image>" * len(example.images))
        else:
            assert example.question.endswith(f"\n{TASKS[task].prefix}")


def first(root: Path, task: str, protocol: str = "strict"):
    return MMLongBench(task=task, protocol=protocol, path=str(root), part="all")[0]


def test_images_stand_where_the_text_has_them(root):
    vrag = first(root, "infoseek")
    assert vrag.question == (
        "Use the given documents to write a concise and short answer to the question about the "
        "entity shown in the image. Write your answer in the following format:\nAnswer: [answer]\n"
        "\nDocument (Title: Tower): It is tall.\n\nQuestion: <image>How tall?\nAnswer:"
    )
    choice = first(root, "reasoning-image")
    assert (
        "Some text.\n\n<image>\n\nQuestion: Which one?\nA. <image>\nB. <image>" in choice.question
    )
    assert [colour_of(image) for image in choice.images] == [0, 1, 2]
    assert (choice.choices, choice.answer) == (("A", "B"), "B")
    document = first(root, "mmlongdoc")
    assert "Document some-long-docum: <image>\n\nDocument some-long-docum: <image>" in (
        document.question
    )
    assert "Based on Document some-long-docum, answer the following question. How many?" in (
        document.question
    )
    summary = first(root, "gov-report")
    assert "Document some-long-docum (page 2): <image>" in summary.question
    assert summary.answer == "Why:\nThe cats sat.\nTwice."
    count = first(root, "counting-image")
    assert count.question.endswith("Question: Count <image>\nAnswer:")
    assert count.answer == "3"


def test_exemplars_are_the_same_in_every_reading(root):
    one, again = (first(root, "food101") for _ in range(2))
    assert one.question == again.question
    assert [colour_of(i) for i in one.images] == [colour_of(i) for i in again.images]
    labels = [int(label) for label in re.findall(r"<image>\nlabel: (\d+)", one.question)]
    assert sorted(labels) == list(range(10, 18))  # each exemplar once, beside its own image
    assert [colour_of(image) for image in one.images[:8]] == [(n - 10) % 4 for n in labels]
    assert colour_of(one.images[8]) == 0
    other = MMLongBench(task="food101", path=str(root), part="all")[1]
    assert re.findall(r"label: \d+", other.question) != re.findall(r"label: \d+", one.question)


def score(root: Path, task: str, text: str, **metadata: object) -> tuple[Score, Score]:
    known = first(root, task).reference
    known = Reference(known.answer, known.choices, metadata={**known.metadata, **metadata})
    parsers = parsers_of("mmlongbench")
    return parsers["official"](text, known), parsers["strict"](text, known)


@pytest.mark.parametrize(
    ("task", "text", "official", "strict"),
    [
        ("infoseek", "Answer: about 330 m", 1, 1),
        ("infoseek", "<think>330 m</think>I do not know", 0, 0),
        ("infoseek", "", 0, 0),
        ("vh_single", "Answer: Yes", 1, 1),
        ("vh_single", "No", 0, 0),
        ("vh_single", "No... yes", 1, 0),  # the last word there, two answers here
        ("reasoning-image", "B", 1, 1),
        ("reasoning-image", "Answer: (B)", 1, 1),
        ("reasoning-image", "It is B. A dog is in it", 0, 0),
        ("reasoning-image", "Both", 0, 0),
        ("counting-image", "Answer: [2, 0, 1]", 1, 1),
        ("counting-image", "[1, 2]", 1, 1),  # sums are compared, as defined
        ("counting-image", "[2, 2]", 0, 0),
        ("food101", "label: 7", 1, 1),
        ("food101", "7", 1, 1),
        ("food101", "label: 4 or label: 7", 1, 0),  # 4 in the whole, 7 after the prefix
        ("food101", "4 or 7", 1, 0),  # the last number there
        ("retrieval-text", "It says: the Needle.", 1, 1),
        ("mmlongdoc", "Answer: 3", 1, 1),
        ("mmlongdoc", "Answer: 4", 0, 0),
    ],
)
def test_scores_of_both_protocols(root, task, text, official, strict):
    assert [each.value for each in score(root, task, text)] == [official, strict]


def test_unreadable_haystack_answers(root):
    """The official answer is then what a fixed cycle has at that row: yes in rows 1 and 2."""
    for default, right in ((0, False), (1, True)):
        official, strict = score(root, "vh_single", "I cannot tell", default=default)
        assert (official.correct, official.fallback, official.unparsed) == (right, True, True)
        assert strict.parsed is None
    rows = MMLongBench(task="vh_multi", path=str(root), part="all")
    assert [example.metadata["default"] for example in rows] == [0, 1, 1]


def test_no_number_is_a_sum_of_zero_only_officially(root):
    official, strict = score(root, "counting-image", "none", golds=[0, 0])
    assert official.correct
    assert not strict.correct
    assert strict.unparsed


def test_graded_scores(root):
    pytest.importorskip("rouge_score")
    for each in score(root, "lexsum", "Summary: the cats sat"):
        assert each.value == pytest.approx(2 * 3 / (3 + 4))
        assert not each.correct
    for each in score(root, "mmlongdoc", "a red bus", golds=["red car"], answer_format="String"):
        assert (each.value, each.correct) == (0.5, False)


def test_rows_that_share_a_document_stay_together(root):
    documents = MMLongBench(task="slidevqa", path=str(root), part="all")
    assert len({item.cluster for item in documents.items}) == 1
    ids = [item.id for item in documents.items]
    assert ids == ["slidevqa-K8-0", "slidevqa-K8-1", "slidevqa-K8-1~2"]


def test_missing_files_say_how_to_get_them(root, tmp_path):
    with pytest.raises(DatasetUnavailableError, match="download and unpack the tar files"):
        len(MMLongBench())
    with pytest.raises(DatasetUnavailableError, match=r"no '.*vh_single_test_1000_K8_dep6.jsonl"):
        len(MMLongBench(path=str(tmp_path)))
    with pytest.raises(DatasetUnavailableError, match="_K128_"):
        len(MMLongBench(path=str(root), length=128))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"question": None}, "'question' is NoneType, expected str"),
        ({"ctxs": "x"}, "'ctxs' is str, expected list"),
        ({"answer": 1.5}, "'answer' is float, expected str or int. It has id: str, question"),
    ],
)
def test_a_changed_schema_names_field_row_and_file(tmp_path, change, expected):
    path = tmp_path / "mmlb_data" / TASKS["vh_single"].file.format(k=8)
    path.parent.mkdir(parents=True)
    good = {"id": "0", **row_of("vh_single")}
    path.write_text(json.dumps(good) + "\n" + json.dumps({**good, **change}) + "\n")
    with pytest.raises(DatasetSchemaError, match=rf"task vh_single, row 1 of .*: {expected}"):
        len(MMLongBench(path=str(tmp_path)))


def test_a_missing_image_is_an_error(root, tmp_path):
    path = tmp_path / "mmlb_data" / TASKS["vh_single"].file.format(k=8)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"id": "0", **row_of("vh_single")}) + "\n")
    with pytest.raises(ImageError, match=r"mmlongbench, row 'vh_single-K8-0': .*does not exist"):
        MMLongBench(path=str(tmp_path), part="all")[0]


def test_settings_are_checked():
    with pytest.raises(InvalidValueError, match=r"task='vh'.*vh_single"):
        MMLongBench(task="vh")
    with pytest.raises(InvalidValueError, match="length=7"):
        MMLongBench(length=7)


def test_without_the_extra_its_name_is_given(monkeypatch):
    import importlib

    from focus.parsing import longbench

    def missing(name: str, *args: object):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    longbench._rouge.cache_clear()
    with pytest.raises(MissingExtraError, match=r"rouge_score' is needed.*\[longbench\]"):
        longbench.rouge_l("a", ["a"])
    longbench._rouge.cache_clear()
