"""Answers are read as whole words, and what cannot be read is unparsed, never a default."""

import pytest
from PIL import Image

from focus.benchmarks import Example
from focus.scoring import parse_choice, score_answer

COLOURS = ("red", "green", "blue")
PLACES = ("left", "right", "top left", "top right")


@pytest.mark.parametrize(
    ("text", "choices", "expected"),
    [
        ("red", COLOURS, "red"),
        (" Red. ", COLOURS, "red"),
        ("The color is red.", COLOURS, "red"),
        ("It is red, clearly red", COLOURS, "red"),
        ("red or blue", COLOURS, None),
        ("redder", COLOURS, None),
        ("infrared", COLOURS, None),
        ("unknown", COLOURS, None),
        ("", COLOURS, None),
        ("...", COLOURS, None),
        ("red\n", COLOURS, "red"),
        ("**green**", COLOURS, "green"),
        ("top left", PLACES, "top left"),
        ("it is at the top left corner", PLACES, "top left"),
        ("left", PLACES, "left"),
        ("left or top right", PLACES, None),
        ("A", ("A", "B"), "A"),
        ("(A)", ("A", "B"), "A"),
        ("b.", ("A", "B"), "B"),
        ("a dog", ("A", "B"), None),
        ("A and B", ("A", "B"), None),
        ("second", ("first", "second"), "second"),
        ("The second image", ("first", "second"), "second"),
        ("first, not second", ("first", "second"), None),
        ("rouge", COLOURS, None),
        ("красный", COLOURS, None),
    ],
)
def test_reading_of_an_answer(text, choices, expected):
    assert parse_choice(text, choices) == expected


def example(**kwargs: object) -> Example:
    images = (Image.new("RGB", (2, 2)),) * 2
    fields = {"id": "e", "images": images, "question": "<image><image> colour?", "answer": "red"}
    return Example(**{**fields, "choices": COLOURS, "distractors": ("blue",), **kwargs})


def test_an_answer_true_of_another_image_is_leakage():
    assert score_answer("blue", example()).leaked
    assert not score_answer("green", example()).leaked  # wrong, but of no image
    assert not score_answer("red", example()).leaked


def test_unparsed_is_wrong_and_counted_as_such():
    score = score_answer("red or blue", example())
    assert score.unparsed
    assert not score.correct
    assert not score.leaked


def test_open_answers_are_compared_by_their_words():
    assert score_answer("Red!", example(choices=())).correct
    assert score_answer("blue", example(choices=())).leaked
    assert not score_answer("reddish", example(choices=())).correct
