"""Prompts word for word, the published parsers with their defects, and both on one log."""

from __future__ import annotations

import datasets
import pytest
from fixtures_benchmarks import FIXTURES, colour_of

from focus.benchmarks.blink import DISCLAIMER
from focus.benchmarks.hub import AbstractHubBenchmark
from focus.benchmarks.registry import parsers_of
from focus.parsing.official import (
    after_thinking,
    leading_letter,
    mantis_harness_letter,
    official_exact,
    official_first_letter,
    official_mantis_answer,
    official_two_letters,
)
from focus.scoring import Reference, Score

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


# Prompts


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


# Published parsers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B", "b"),
        ("(B): the cat", "b"),
        ("The answer is B.", "b"),
        ("It shows a dog, so B.", "a"),  # the article
        ("not a but b", "a"),
        ("<think>\nB?\n</think>\n\nA", "a"),
        ("<think>a dog</think>B", "a"),  # only with the empty line they expect
        ("Both", None),
        ("", None),
    ],
)
def test_official_two_letters(text, expected):
    assert official_two_letters(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B", "b"),
        ("(D)", "d"),
        ("The correct answer is B", "c"),  # "Correct"
        ("Answer: B", "a"),  # "Answer"
        ("Option B", "b"),
        ("E", None),  # beyond d
        ("I think E fits", None),
        ("Image E", "a"),
        ("", None),
    ],
)
def test_official_first_letter(text, expected):
    assert official_first_letter(text) == expected


def test_official_mantis_answer():
    assert official_mantis_answer("A dog. Final Answer: B") == "b"
    assert official_mantis_answer("The answer is C. Answer: B") == "c. answer: b"
    assert official_mantis_answer("Prediction: D") == "d"
    assert official_mantis_answer("Both") == "both"


def test_official_exact_strips_one_side_only():
    assert official_exact("1,024.", "1,024") == ("1024", "1,024")
    assert official_exact("Paris.", "(Paris)") == ("paris", "paris")


def test_the_harnesses_of_mantis_and_lmms_eval():
    assert mantis_harness_letter("The second", 2) is None  # T
    assert mantis_harness_letter("Answer: B", 2) == "B"
    assert mantis_harness_letter("A statement that is false", 2) == "A"
    assert mantis_harness_letter("", 2) is None
    assert leading_letter("(B) the third", "AB") == "B"
    assert leading_letter("Both", "AB") == "B"
    assert leading_letter("The answer is B", "AB") is None
    assert after_thinking("x</think>\n\nB") == "B"


def both(name: str, text: str, **reference: object) -> tuple[Score, Score]:
    parsers = parsers_of(name)
    known = Reference(**reference)
    return parsers["official"](text, known), parsers["strict"](text, known)


AB = {"choices": ("A", "B"), "metadata": {"options": ["x", "y"]}}


def test_winoground_rewards_silence_and_vismin_does_not():
    """The gold of every first question is A: an empty answer is right there."""
    for text in ("", "I cannot tell", "Neither"):
        for name, right in (("winoground", True), ("vinoground", True), ("vismin", False)):
            official, strict = both(name, text, answer="A", **AB)
            assert official.correct is right
            assert official.fallback is right
            assert official.unparsed
            assert not strict.correct
            assert strict.parsed is None


def test_the_article_is_an_answer_in_the_official_protocol_only():
    official, strict = both("winoground", "It shows a dog, so B", answer="B", **AB)
    assert (official.parsed, official.correct) == ("A", False)
    assert (strict.parsed, strict.correct) == ("B", True)


def test_both_parsers_read_a_log_of_worded_choices():
    words = {"choices": ("First", "Second"), "metadata": {"options": ["first", "second"]}}
    official, strict = both("vismin", "Second.", answer="Second", **words)
    assert (official.parsed, strict.parsed) == (None, "Second")
    official, strict = both("vismin", "B", answer="Second", **words)
    assert (official.parsed, strict.parsed) == ("Second", None)


def test_muirbench_letters_in_words_and_beyond_d():
    five = {"choices": tuple("ABCDE"), "metadata": {"options": ["1", "2", "3", "4", "5"]}}
    official, strict = both("muirbench", "The correct answer is B", answer="B", **five)
    assert (official.parsed, strict.parsed) == ("C", "B")
    official, strict = both("muirbench", "E", answer="E", **five)
    assert (official.parsed, official.correct) == (None, False)
    assert (strict.parsed, strict.correct) == ("E", True)


def test_mantis_short_answers_score_only_with_a_letter_for_gold():
    official, strict = both("mantis_eval", "Final Answer: New York", answer="New York")
    assert not official.correct
    assert strict.correct
    official, strict = both("mantis_eval", "b", answer="b")
    assert official.correct
    assert strict.correct
    assert not both("mantis_eval", "New York City", answer="New York")[1].correct
    assert both("mantis_eval", "", answer="x")[1].unparsed


def test_nlvr2_harness_reads_words_only_without_a_letter():
    metadata = {"options": ["(A) True", "(B) False"]}
    known = {"answer": "B", "choices": ("A", "B"), "metadata": metadata}
    for text, official, strict in [
        ("False", "B", "B"),
        ("The statement is false", "B", "B"),
        ("A statement that is false", "A", "B"),
        ("True or false?", None, None),
        ("B", "B", "B"),
        ("(B) False", "B", "B"),
    ]:
        scores = both("nlvr2", text, **known)
        assert [score.parsed for score in scores] == [official, strict], text


@pytest.mark.parametrize(
    ("metric", "answer", "text", "official", "strict"),
    [
        ("number", "3", "3", True, True),
        ("number", "3", "3.", True, True),
        ("number", "3", "Three", False, True),
        ("number", "3", "There are 3 dogs.", False, True),
        ("number", "3", "3 dogs, 2 cats", False, False),
        ("number", "1,024", "1,024", False, True),
        ("yes_no", "yes", "Yes.", True, True),
        ("yes_no", "yes", "Yes, they are", False, True),
        ("yes_no", "no", "", False, False),
        ("letter", "B", "B", True, True),
        ("letter", "B", "B.", True, True),
        ("letter", "B", "(B)", False, True),
        ("letter", "B", "Both", False, False),
        ("contained", "Eiffel Tower", "It is the Eiffel Tower.", False, True),
        ("contained", "Eiffel Tower", "eiffel tower", True, True),
        ("contained", "Rome", "Romeo", False, False),
        ("exact", "matplotlib", "Matplotlib.", True, True),
        ("exact", "matplotlib", "matplotlib or seaborn", False, False),
        ("exact", "U.S.", "U.S.", False, True),
    ],
)
def test_mirb_metrics(metric, answer, text, official, strict):
    choices = {"yes_no": ("yes", "no"), "letter": tuple("ABCDE")}.get(metric, ())
    metadata = {"metric": metric, "gold": answer}
    scores = both("mirb", text, answer=answer, choices=choices, metadata=metadata)
    assert [score.correct for score in scores] == [official, strict]
