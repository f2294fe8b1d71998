# ruff: noqa: RUF001  (letters that look alike are what some of these answers are about)
"""Every strict parser on a table of nasty answers: what it must read, and what it must refuse."""

import pytest

from focus.parsing import bare, final_answer, named_choice, number, option_letter, plain

LETTERS = "ABCD"
OPTIONS = ("a red car", "a blue car", "a dog", "None of the choices provided")

#: answer, expected reading with the options above.
LETTERED = [
    # The letter, dressed in every way.
    ("B", "B"),
    ("b", "B"),
    ("B.", "B"),
    ("b)", "B"),
    ("(B)", "B"),
    (" ( b ) ", "B"),
    ("[C]", "C"),
    ("**B**", "B"),
    ("`D`", "D"),
    ("**(B)** the blue car", "B"),
    ("### B", "B"),
    ("_B_", "B"),
    ("$B$", "B"),
    (r"\(B\)", "B"),
    (r"\boxed{B}", "B"),
    (r"So we get $\boxed{\text{C}}$.", "C"),
    ("<answer>B</answer>", "B"),
    ("Ｂ", "B"),
    ("（Ｂ）", "B"),
    ("Ⓒ", "C"),
    ("'B'", "B"),
    ("“B”", "B"),
    ("B\n", "B"),
    # Labels.
    ("B. a blue car", "B"),
    ("B: a blue car", "B"),
    ("B) a blue car", "B"),
    ("B - the car is blue", "B"),
    ("b. a blue car", "B"),
    ("(B) a blue car, because (A) is red", "B"),
    ("B, because the car is blue", "B"),
    ("B a blue car", "B"),
    ("A\nThe car is red.", "A"),
    ("A. a red car", "A"),
    # Declarations.
    ("The answer is B", "B"),
    ("the answer is b.", "B"),
    ("The correct answer is (B).", "B"),
    ("The correct option is C.", "C"),
    ("Answer: D", "D"),
    ("answer: (a)", "A"),
    ("The answer is A because it is red.", "A"),
    ("The answer is option C", "C"),
    ("Final Answer: B", "B"),
    ("The answer is A. On reflection, the final answer is B.", "B"),
    ("The answer is not A but B", "B"),
    ("The answer is B, not A.", "B"),
    ("The answer is B, and A is wrong", "B"),
    ("option c", "C"),
    ("Option (D) fits best.", "D"),
    ("I would choose B.", "B"),
    ("I'll go with option A.", "A"),
    ("B is correct", "B"),
    ("A is incorrect, while (B) is the right answer", "B"),
    ("Both images show it; I think it's B.", "B"),
    ("A dog is running in the first image, so B", "B"),
    ("A dog. A cat. Therefore C.", "C"),
    ("The first car is red and the second is blue.\n\nB", "B"),
    ("Some thoughts.\n**Answer:** C", "C"),
    ("A. a red car\nB. a blue car\nThe answer is B.", "B"),
    ("答案是B", "B"),
    ("答案：C", "C"),
    ("我选B", "B"),
    ("The answer is a.", "A"),
    ("The answer is A", "A"),
    ("It could be B", "B"),
    ("so b", "B"),
    ("Answer:\nB", "B"),
    ("Based on the images, the answer would be (C).", "C"),
    ("The answer is A a red car", "A"),
    ("D. All of the above (A, B, C)", "D"),
    ("The best choice is B-", "B"),
    # Thinking.
    ("<think>A? No, the answer is C.</think>B", "B"),
    ("<think>It is A or B</think>\n\nThe answer is B.", "B"),
    ("<think>The answer is B", None),
    ("<thinking>A</thinking>", None),
    # Restated options.
    ("a blue car", "B"),
    ("It shows a blue car.", "B"),
    ("The dog", None),
    ("There is a dog in it", "C"),
    ("It is not a dog.", None),
    ("not a red car but a blue car", "B"),
    ("a red car or a blue car", None),
    ("None of the choices provided", "D"),
    # Refused: none, several, denied, out of range, look-alikes.
    ("", None),
    ("   ", None),
    ("...", None),
    ("A and B", None),
    ("A or B", None),
    ("A/B", None),
    ("Both A and C", None),
    ("B and C.", None),
    ("The answer is A or B.", None),
    ("The answer is A. No, the answer is B.", None),
    ("(A) (B)", None),
    ("A. red B. blue C. dog", None),
    ("A. a red car\nB. a blue car\nC. a dog", None),
    ("not A", None),
    ("It is not A.", None),
    ("Neither A nor B", None),
    ("The answer isn't B", None),
    ("I would not choose B", None),
    ("A dog", "C"),
    ("A horse", None),
    ("A, because it fits better than B.", "A"),
    ("(A) since (B) is blue", "A"),
    ("(A) a red car (B) a blue car", None),
    ("a cat", None),
    ("The answer is a cat", None),
    ("A man is walking", None),
    ("I see nothing", None),
    ("Absolutely", None),
    ("The correct one is hard to tell", None),
    ("Cannot be determined", None),
    ("Vitamin C", None),
    ("The answer is a", None),  # cut off after an article
    ("The car could be a", None),
    ("The answer is A-shaped", None),
    ("Option A: red. Option B: blue.", None),
    ("Options: A, B", None),
    ("Image B", None),
    ("I'm sorry, I can't help.", None),
    ("Yes", None),
    ("E", None),
    ("The answer is E.", None),
    ("(F)", None),
    ("1", None),
    ("В", None),  # Cyrillic Ve
    ("Α", None),  # Greek Alpha
    ("Б", None),
    ("二", None),
    ("ب", None),
    ("ABCD", None),
    ("a.m.", None),
    ("Ab", None),
    ("Bernd", None),
    ("A's car", None),
]


@pytest.mark.parametrize(("text", "expected"), LETTERED)
def test_option_letter(text, expected):
    assert option_letter(text, LETTERS, OPTIONS) == expected


def test_the_table_is_large_and_balanced():
    assert len(LETTERED) >= 100
    assert len({text for text, _ in LETTERED}) == len(LETTERED)
    assert sum(expected is None for _, expected in LETTERED) >= 30


def test_letters_up_to_z_count_where_they_are_offered():
    letters = [chr(ord("A") + i) for i in range(26)]
    for letter in letters:
        assert option_letter(f"({letter})", letters) == letter
        assert option_letter(f"The answer is {letter}.", letters) == letter
        assert option_letter(f"The answer is {letter}.", "") is None
    assert option_letter("I think so", letters) is None
    assert option_letter("I. the ninth", letters) == "I"


def test_options_may_carry_their_own_letters_or_be_images():
    labelled = ("(A) True", "(B) False")
    assert option_letter("False", "AB", labelled) == "B"
    assert option_letter("True or False", "AB", labelled) is None
    assert option_letter("the second one", "AB", ("<image>", "<image>")) is None
    assert option_letter("B", "AB", ("<image>", "<image>")) == "B"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("First", "First"),
        ("first.", "First"),
        ("The second image", "Second"),
        ("**Second**", "Second"),
        ("Answer: Second. The first one has no dog.", "Second"),
        ("The answer is the first image", "First"),
        ("First, not second", "First"),
        ("not the first but the second", "Second"),
        (r"\boxed{First}", "First"),
        ("<think>first</think>Second", "Second"),
        ("First or second", None),
        ("Both", None),
        ("", None),
        ("seconds", None),
        ("The answer is first or second", None),
        ("not the first", None),
        ("Primero", None),
        ("初", None),
    ],
)
def test_named_choice(text, expected):
    assert named_choice(text, ("First", "Second")) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Yes", "yes"), ("No, there is not.", "no"), ("Yes and no", None), ("not sure", None)],
)
def test_yes_and_no(text, expected):
    assert named_choice(text, ("yes", "no")) == expected


def test_the_longer_of_two_choices_is_meant():
    places = ("left", "top left")
    assert named_choice("at the top left", places) == "top left"
    assert named_choice("left", places) == "left"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3", "3"),
        ("3.", "3"),
        ("three", "3"),
        ("Three.", "3"),
        ("one", "1"),
        ("There are 12 dogs.", "12"),
        ("There are three dogs", "3"),
        ("one of them has 4 legs", "4"),
        ("one of them", None),
        ("3 dogs and 2 cats", None),
        ("two or three", None),
        ("3 and again 3", "3"),
        ("Images show 2 and 5 cars. The answer is 7.", "7"),
        (r"\boxed{42}", "42"),
        ("1,024", "1024"),
        ("3.0", "3"),
        ("2.5", "2.5"),
        ("-1", "-1"),
        ("x3", None),
        ("", None),
        ("none", None),
        ("<think>2</think>3", "3"),
        ("３", "3"),
    ],
)
def test_number(text, expected):
    assert number(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Paris", "Paris"),
        ("I see a tower. Final Answer: Paris", "Paris"),
        ("Final answer: Paris\nIt has a tower.", "Paris"),
        ("The answer is Rome. The answer is Paris", "Paris"),
        ("Answer: Rome. Final answer: Paris", "Paris"),
        ("Final Answer:", ""),
    ],
)
def test_final_answer(text, expected):
    assert final_answer(text) == expected


def test_cleaning():
    assert plain("**Bold** _and_ `code`") == "Bold and code"
    assert plain("snake_case") == "snake_case"
    assert bare("  The  Thinker! ") == "the thinker"
