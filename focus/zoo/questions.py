"""The words of every question that the embedded world asks, for benchmarks and training alike.

One place, so that a model is never asked in other words than it was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from focus.benchmarks.base import IMAGE_PLACEHOLDER
from focus.errors import InvalidValueError
from focus.zoo.world import ATTRIBUTES, Truth

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
LETTERS = ("A", "B", "C", "D", "E", "F")
#: What a model says that was taught to abstain.
UNKNOWN = "unknown"
MAX_IMAGES = len(ORDINALS)
#: Options of a lettered question.
NUM_OPTIONS = 4


def prompt(num_images: int, body: str) -> str:
    """The whole question: every image announced by its ordinal, then `body`.

    >>> prompt(2, "what is the color ?")
    'first image : <image> second image : <image> what is the color ?'
    """
    if not 1 <= num_images <= MAX_IMAGES:
        raise InvalidValueError("num_images", num_images, f"from 1 to {MAX_IMAGES}")
    images = [f"{ordinal} image : {IMAGE_PLACEHOLDER}" for ordinal in ORDINALS[:num_images]]
    return " ".join([*images, body])


def about(image: int, body: str) -> str:
    """`body`, asked about the image at index `image` (from 0)."""
    return f"in the {ORDINALS[image]} image , {body}"


def name(attribute: str) -> str:
    """Asks for the value of an attribute."""
    return f"what is the {attribute} ?"


def yes_no(attribute: str, value: str) -> str:
    """Asks whether an attribute has a value; answered by "yes" or "no"."""
    return f"is the {attribute} {value} ?"


def letter(attribute: str, options: Sequence[str]) -> str:
    """Asks for an attribute with lettered options; answered by a letter."""
    return f"{name(attribute)} {lettered(options)}"


def lettered(options: Sequence[str]) -> str:
    """Options behind their letters.

    >>> lettered(["red", "blue"])
    'A red B blue'
    """
    pairs = zip(LETTERS[: len(options)], options, strict=True)
    return " ".join(f"{letter} {option}" for letter, option in pairs)


def describe() -> str:
    """Asks for all attributes; answered by `description`."""
    return "describe the object ."


def description(truth: Truth) -> str:
    """The answer to `describe`: three words."""
    return f"{truth['color']} {truth['shape']} {truth['place']}"


def caption(truth: Truth) -> str:
    """A scene in words.

    >>> caption({"color": "red", "shape": "circle", "place": "top"})
    'a red circle at the top'
    """
    return f"a {truth['color']} {truth['shape']} at the {truth['place']}"


def which_image(truth: Truth, num_images: int) -> str:
    """Asks which image fits a caption; answered by an ordinal."""
    ordinals = list(ORDINALS[:num_images])
    listed = " , ".join(ordinals[:-1]) + f" or {ordinals[-1]}"
    return f"which image shows {caption(truth)} ? {listed} ?"


def which_caption(truths: Sequence[Truth]) -> str:
    """Asks which of several captions fits the one image; answered by a letter."""
    return f"which caption is right ? {lettered([description(truth) for truth in truths])}"


def lettered_question(truth: Truth, attribute: str, rng: np.random.Generator) -> tuple[str, str]:
    """A question with shuffled options, one of them right, and its letter."""
    others = [value for value in ATTRIBUTES[attribute] if value != truth[attribute]]
    options = [others[i] for i in rng.permutation(len(others))[: NUM_OPTIONS - 1]]
    place = int(rng.integers(NUM_OPTIONS))
    options.insert(place, truth[attribute])
    return letter(attribute, options), LETTERS[place]
