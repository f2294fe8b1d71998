"""The published parsers with their defects, and both protocols on one log."""

from __future__ import annotations

import pytest

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


@pytest.mark.parametrize(
    ("text", "official", "strict"),
    [
        ("B)", "B", "B"),
        ("The answer is C.", "C", "C"),
        ("a cat", "B", "B"),
        ("A cat is what I see", "B", "B"),  # the article stands too far from the end
        ("A cat, then", "A", "B"),  # ... and near enough
        ("A or B", None, None),
        ("Neither A nor B", "C", "C"),
        ("", None, None),
    ],
)
def test_mvh_letters(text, official, strict):
    options = {"options": ["a dog", "a cat", "Neither A nor B"]}
    known = {"answer": "B", "choices": ("A", "B", "C"), "category": "mc", "metadata": options}
    assert [score.parsed for score in both("mvh_bench", text, **known)] == [official, strict]


def test_mvh_words():
    known = {"answer": "Yes", "choices": ("Yes", "No"), "category": "binary"}
    for text, official, strict in [
        ("yes.", "Yes", "Yes"),
        ("No, it is not.", "No", "No"),
        ("There is no dog, yes", None, None),
        ("There is no dog", "No", "No"),
        ("Perhaps", None, None),
    ]:
        scores = both("mvh_bench", text, **known)
        assert [score.parsed for score in scores] == [official, strict], text


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
