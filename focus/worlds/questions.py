"""The words of every question that the embedded worlds ask, for benchmarks and training alike.

One place, so that a model is never asked in other words than it was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from focus.errors import InvalidValueError
from focus.images import IMAGE_PLACEHOLDER
from focus.worlds.base import AbstractWorld, Truth

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
LETTERS = ("A", "B", "C", "D", "E", "F")
#: What a model says that was taught to abstain.
UNKNOWN = "unknown"
MAX_IMAGES = len(ORDINALS)
#: Options of a lettered question, where the attribute has so many values.
NUM_OPTIONS = 4


def prompt(num_images: int, body: str, world: AbstractWorld) -> str:
    """The whole question: every image (or clip) announced by its ordinal, then `body`.

    >>> from focus.worlds.scenes import Scenes
    >>> prompt(2, "what is the color ?", Scenes())
    'first image : <image> second image : <image> what is the color ?'
    """
    if not 1 <= num_images <= MAX_IMAGES:
        raise InvalidValueError("num_images", num_images, f"from 1 to {MAX_IMAGES}")
    shown = " ".join([IMAGE_PLACEHOLDER] * world.frames)
    views = [f"{ordinal} {world.noun} : {shown}" for ordinal in ORDINALS[:num_images]]
    return " ".join([*views, body])


def about(image: int, body: str, world: AbstractWorld) -> str:
    """`body`, asked about the image (or clip) at index `image` (from 0)."""
    return f"in the {ORDINALS[image]} {world.noun} , {body}"


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
    """Asks for all attributes; answered by `AbstractWorld.description`."""
    return "describe the object ."


def which_image(truth: Truth, num_images: int, world: AbstractWorld) -> str:
    """Asks which image fits a caption; answered by an ordinal."""
    listed = _listed(ORDINALS[:num_images])
    return f"which {world.noun} shows {world.caption(truth)} ? {listed} ?"


def which_caption(truths: Sequence[Truth], world: AbstractWorld) -> str:
    """Asks which of several captions fits; answered by a letter."""
    return which_described([world.description(truth) for truth in truths])


def which_described(captions: Sequence[str]) -> str:
    """The same in captions that are written already."""
    return f"which caption is right ? {lettered(captions)}"


def same(attribute: str, world: AbstractWorld) -> str:
    """Asks whether all images agree; answered by "yes" or "no". Needs every image at once."""
    return f"is the {attribute} the same in all {world.noun} ?"


def odd_one_out(attribute: str, num_images: int, world: AbstractWorld) -> str:
    """Asks which image differs from all others; answered by an ordinal. Needs every image."""
    listed = _listed(ORDINALS[:num_images])
    return f"in which {world.noun} is the {attribute} different ? {listed} ?"


def how_many(attribute: str, value: str, world: AbstractWorld) -> str:
    """Asks in how many images an attribute has a value; answered by one of `NUMBERS`."""
    return f"in how many {world.noun} is the {attribute} {value} ?"


def options_for(
    truth: Truth, attribute: str, world: AbstractWorld, rng: np.random.Generator
) -> tuple[list[str], int]:
    """Shuffled values of an attribute, at most `NUM_OPTIONS`, and the place of the right one."""
    others = [value for value in world.attributes[attribute] if value != truth[attribute]]
    options = [others[i] for i in rng.permutation(len(others))[: NUM_OPTIONS - 1]]
    place = int(rng.integers(len(options) + 1))
    options.insert(place, truth[attribute])
    return options, place


def lettered_question(
    truth: Truth, attribute: str, world: AbstractWorld, rng: np.random.Generator
) -> tuple[str, str]:
    """A question with shuffled options, one of them right, and its letter."""
    options, place = options_for(truth, attribute, world, rng)
    return letter(attribute, options), LETTERS[place]


def _listed(words: Sequence[str]) -> str:
    return " , ".join(words[:-1]) + f" or {words[-1]}"
