"""Prompts of every benchmark under both protocols, word for word."""

from __future__ import annotations

import datasets
import pytest
from fixtures_benchmarks import FIXTURES, MVH_ROWS, colour_of

from focus.benchmarks.blink import DISCLAIMER
from focus.benchmarks.hub import AbstractHubBenchmark
from focus.benchmarks.mvh_bench import MVHBench
from focus.errors import DatasetSchemaError

datasets.disable_progress_bars()


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """``serve("winoground", "strict")``: all of a fixture under a protocol, by item id."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def load(name: str, protocol: str):
        folder = tmp_path / name
        if not folder.exists():
            FIXTURES[name].saved(folder, "parquet")
        benchmark: AbstractHubBenchmark = FIXTURES[name].cls(
            part="all", protocol=protocol, path=str(folder)
        )
        return {example.id: example for example in benchmark}

    return load


def test_pairs_official(serve):
    system = (
        "You are an evaluator tasked with comparing images and captions to answer the question."
    )
    for name in ("winoground", "vismin"):
        examples = serve(name, "official")
        text, image = examples["3-text-1"], examples["3-image-1"]
        assert text.question == (
            "<image>Does this image depict: (A): caption 3 of a dog or (B): caption 3 of a cat? "
            "Answer with A or B."
        )
        assert image.question == (
            "<image><image>Which image better aligns with the description: caption 3 of a cat? "
            "The (A): first or the (B): second image? Answer with A or B."
        )
        assert text.system == image.system == system
        assert (text.answer, image.answer, image.choices) == ("B", "B", ("A", "B"))
        assert [colour_of(i) for i in text.images] == [7]
        assert [colour_of(i) for i in image.images] == [6, 7]


def test_pairs_strict(serve):
    examples = serve("vismin", "strict")
    text, image = examples["3-text-0"], examples["3-image-1"]
    assert text.question == (
        "<image>Does this image best match: (A) caption 3 of a dog, or (B) caption 3 of a cat? "
        "Choices: A, B."
    )
    assert image.question == (
        '<image><image>Which image better aligns with the description: "caption 3 of a cat"? '
        "Choices: First, Second."
    )
    assert (text.answer, image.answer, image.choices) == ("A", "Second", ("First", "Second"))
    assert text.system == ""


def test_four_questions_make_a_pair(serve):
    examples = [e for e in serve("winoground", "strict").values() if e.cluster == "5"]
    assert [e.id for e in examples] == ["5-text-0", "5-text-1", "5-image-0", "5-image-1"]
    assert [e.group for e in examples] == ["5-text"] * 2 + ["5-image"] * 2
    assert [e.category for e in examples] == ["text"] * 2 + ["image"] * 2
    assert {e.metadata["task"] for e in examples} == {"Both"}


def test_mantis(serve):
    official, strict = serve("mantis_eval", "official"), serve("mantis_eval", "strict")
    assert official["mantis_1"].question == (
        "<image><image>Compare  with . Which of 1 is it?\n"
        "Answer with the option's letter from the given choices directly. "
        "['a dog', 'a cat', '(C) a bird']"
    )
    assert strict["mantis_1"].question == (
        "Compare <image> with <image>. Which of 1 is it?\n (A) a dog\n (B) a cat\n (C) a bird\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert (strict["mantis_0"].answer, strict["mantis_1"].answer) == ("A", "B")
    assert strict["mantis_short"].question == (
        "<image>Given the images, answer the following short answer vqa question:\n"
        "Q: Where is <image>?\nYou can first give your analysis, and then give your final answer "
        'as "Final Answer:"'
    )
    assert strict["mantis_short"].choices == ()
    assert official["mantis_short"].question.startswith("<image><image>Given the images")
    assert {e.category for e in strict.values()} == {"multi-choice", "short-answer"}


def test_muirbench(serve):
    official, strict = serve("muirbench", "official"), serve("muirbench", "strict")
    assert official["0"].question == (
        "<image><image>Question: How many dogs are in  and ?Choices:\n(A) one\n(B) two\n(C) three\n"
        "(D) None of the choices providedHint: Please provide the correct option letter, such as "
        "A, B, C, D, directly."
    )
    assert strict["0"].question == (
        "Question: How many dogs are in <image> and <image>?\nChoices:\n(A) one\n(B) two\n"
        "(C) three\n(D) None of the choices provided\nHint: Please provide the correct option "
        "letter, such as A, B, C, D, directly.\nAnswer:"
    )
    assert official["0"].images[0].size == (512, 512)
    assert strict["0"].images[0].size == (6, 4)
    assert [strict[i].metadata["answerable"] for i in ("0", "1")] == [True, False]


def test_options_that_are_images(serve):
    """Interleaved; the official code spells out the question instead, one letter an option."""
    strict = serve("muirbench", "strict")["40"]
    assert strict.question.startswith(
        "Question: Which image shows the same as <image>?\nChoices:\n(A) <image>\n(B) <image>\n"
        "(C) <image>\n(D) a\n(E) None"
    )
    assert [colour_of(image) for image in strict.images] == [200, 201, 202, 203]
    official = serve("muirbench", "official")["40"]
    assert official.question.startswith("<image>" * 4 + "Question: Which image shows the same as ?")
    assert "Choices:\n(A) W\n(B) h\n(C) i\n(D) c\n(E) h\n(F)  \n(G) i" in official.question
    assert official.answer == strict.answer == "E"


def test_mirb(serve):
    official, strict = serve("mirb", "official"), serve("mirb", "strict")
    assert official["count-0"].question == (
        "<image><image>Answer with a single number.How many dogs?"
    )
    assert strict["count-0"].question == (
        "Answer with a single number.\n<image>\n<image>\nHow many dogs?"
    )
    assert official["count-0"].images[0].size == (512, 512)
    assert strict["codeu-0"].question.startswith("Answer with the option symbol.\n<image>")
    assert strict["3d_scene-1"].question.startswith(
        "The following images are different views of the same 3D scene. Answer with a single"
    )
    assert strict["arxiv-1"].question.startswith("Answer with the paper title.\n")
    assert {e.metadata["metric"] for e in strict.values()} == {
        *("letter", "number", "yes_no", "contained", "exact"),
    }
    dimensions = {e.category: e.metadata["dimension"] for e in strict.values()}
    assert (dimensions["food"], dimensions["arxiv"]) == ("knowledge", "multi-hop")


def test_blink(serve):
    official, strict = serve("blink", "official"), serve("blink", "strict")
    prompt = strict["val_Counting_2"].question.removeprefix("<image><image>")
    assert prompt == (
        "Which image is alike?\nSelect from the following choices.\n(A) the second image\n"
        "(B) the third image"
    )
    assert official["val_Counting_2"].question == (
        "<image><image>Note: You only need to respond with A, B without providing any additional "
        f"information.\n{prompt}"
    )
    disclaimed = {e.category for e in strict.values() if DISCLAIMER in e.question}
    assert disclaimed == {"Art_Style", "Forensic_Detection", "Jigsaw"}
    assert not any(DISCLAIMER in e.question for e in official.values())


def test_nlvr2(serve):
    examples = serve("nlvr2", "strict")
    assert examples["test1-0-0-1"].question == (
        "<image><image> Here is a statement about the images. Is it true or false?\n"
        "There are 1 dogs.\n (A) True\n (B) False\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert [examples[f"test1-0-0-{n}"].category for n in (0, 1)] == ["false", "true"]
    assert {i: e.question for i, e in examples.items()} == {
        i: e.question for i, e in serve("nlvr2", "official").items()
    }


def test_mvh_bench(serve):
    """The order of the options is the public loader's: that of Python's generator, keyed by group
    and question."""
    for protocol in ("official", "strict"):
        examples = serve("mvh_bench", protocol)
        first, second = examples["g1-0"], examples["g1-1"]
        assert first.question == (
            "<image><image>Question:\nWhat is in view 1 of 1?\n\nChoices:\nA) Neither B nor C\n"
            "B) a cat\nC) a dog\n\nOnly one option is correct.\n"
            "Present the answer strictly in the form X)."
        )
        assert (first.answer, first.distractors) == ("C", ("B",))
        listed = dict(zip("ABC", second.metadata["options"], strict=True))
        assert (listed[second.answer], listed[second.distractors[0]]) == ("a cat", "a dog")
        (third,) = set("ABC") - {second.answer, *second.distractors}
        assert listed[third].startswith("Neither ")
        yes = examples["g1-2"]
        assert yes.question == (
            "<image><image>Is x in view 1?\nPlease answer this question with one word."
        )
        assert [examples[f"g1-{k}"].answer for k in range(2, 6)] == ["Yes", "No", "No", "Yes"]
        assert [colour_of(i) for i in yes.images] == [2, 3]
        assert {e.metadata["task"] for e in examples.values()} == {"cross_instance", "cross_view"}


def test_mvh_options_turn_and_keep_their_letters_right(serve, tmp_path):
    serve("mvh_bench", "strict")
    folder = str(tmp_path / "mvh_bench")
    for order in range(3):
        turned = MVHBench(part="all", path=folder).reordered(order)
        example = turned[6]
        listed = dict(zip("ABC", example.metadata["options"], strict=True))
        assert listed[example.answer] == "a dog"
        (third,) = set("ABC") - {example.answer, *example.distractors}
        named = sorted({*example.distractors, example.answer})
        assert listed[third] == f"Neither {named[0]} nor {named[1]}"
    assert len(MVHBench(part="all", path=folder, mvh_type="cross_view")) == 6 * 12


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"mc_questions": ["one"]}, "mc_questions has 1 entries, not 2"),
        ({"mc_answers": ["a dog", "a bird"]}, "are not two of its options"),
        ({"mc_answers": ["a dog", "a dog"]}, "are not two of its options"),
        ({"binary_answers": ["Yes", "No", "No", "Maybe"]}, "'Maybe' is neither yes nor no"),
    ],
)
def test_mvh_rows_that_are_no_group_of_six(tmp_path, monkeypatch, change, expected):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [{**MVH_ROWS[0], **change}]
    features = FIXTURES["mvh_bench"].dataset().features
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "test.parquet")
    with pytest.raises(DatasetSchemaError, match=expected):
        MVHBench(part="all", path=str(tmp_path))[0]
