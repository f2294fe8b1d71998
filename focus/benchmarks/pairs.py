"""Minimal pairs of two images and two captions: four questions a row, as Winoground and VisMin.

Two questions show one image and ask for its caption (category "text"), two show both images and
ask for the one of a caption (category "image"). The text and the image score count a pair if both
of its questions are right, the group score if all four are. Chance with independent coin flips is
25, 25 and 6.25; always answering the same gives 0.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from PIL import Image

from focus.benchmarks.base import Descriptions, Example
from focus.benchmarks.hub import AbstractHubBenchmark, Item
from focus.benchmarks.prompting import rotation
from focus.images import IMAGE_PLACEHOLDER
from focus.parsing import named_choice, option_letter
from focus.parsing.official import official_two_letters
from focus.scoring import Reference, Score, Scorer, score_parsed

DIRECTIONS = ("text", "image")
ORDINALS = ("first", "second")
SYSTEM = "You are an evaluator tasked with comparing images and captions to answer the question."


@dataclass(frozen=True)
class AbstractPairBenchmark(AbstractHubBenchmark):
    """Two images, two captions; image 0 goes with caption 0.

    Prompts. ``official``: those of the authors of FOCUS (`eval/winoground.py`, `eval/vismin.py`,
    commit 8e04e89), with their system prompt. ``strict``: those of the authors of VisMin for both
    data sets (`rabiulcste/vismin`, `evals/dataset_zoo/task_prompts.py`, used by the classes
    `Winoground` and `VisMin` of `dataset.py` there).
    """

    questions_per_row: ClassVar[int] = 4
    published_single: ClassVar[Literal["plain", "contrast"]] = "plain"
    orders: ClassVar[int] = 2  # captions in the text, images in the image questions
    #: Names of the fields, image 0 and 1, caption 0 and 1.
    image_fields: ClassVar[tuple[str, str]] = ("image_0", "image_1")
    caption_fields: ClassVar[tuple[str, str]]

    def _example(self, row: dict[str, Any], item: Item, member: int) -> Example:
        direction, asked = DIRECTIONS[member // 2], member % 2
        captions = [str(row[name]) for name in self.caption_fields]
        turn = rotation(2, self.order)
        shown = (asked,) if direction == "text" else turn
        images: tuple[Image.Image, ...] = tuple(
            self.image(row[self.image_fields[k]], item) for k in shown
        )
        official = self.protocol == "official"
        listed = [captions[k] for k in turn] if direction == "text" else captions
        ask = (official_prompt if official else strict_prompt)(direction, listed, asked)
        lettered = official or direction == "text"
        choices = ("A", "B") if lettered else ("First", "Second")
        options = listed if direction == "text" else ["first", "second"]
        group = f"{item.id}-{direction}"
        return Example(
            id=f"{group}-{asked}",
            images=images,
            question=IMAGE_PLACEHOLDER * len(images) + ask,
            answer=choices[turn.index(asked)],
            choices=choices,
            group=group,
            cluster=item.cluster,
            category=direction,
            metadata={"options": options, "asked": asked, **self._facts(row)},
            system=SYSTEM if official else "",
            permutation=turn,
        )

    def descriptions(self, index: int) -> Descriptions:
        """The image that goes with the caption of the question, and the other one, in the words of
        the authors' probe, whichever the protocol."""
        place, member = divmod(index % len(self), self.questions_per_row)
        item = self.items[place]
        row = self.rows[item.position]
        turn, asked = rotation(2, self.order), member % 2
        captions = [str(row[name]) for name in self.caption_fields]
        return Descriptions(
            views=tuple((self.image(row[self.image_fields[k]], item),) for k in turn),
            asked=turn.index(asked),
            other=turn.index(1 - asked),
            texts=(captions[asked], captions[1 - asked]),
            merge=lambda one, other: f"{one} and {other}",
            ask=probe_prompt,
            system=SYSTEM,
        )

    @abstractmethod
    def _facts(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """What records keep of a row; ``task`` is the row of the benchmark's own table."""

    @classmethod
    @abstractmethod
    def parsers(cls) -> Mapping[str, Scorer]:
        """``official`` and ``strict``."""


def official_prompt(direction: str, captions: list[str], asked: int) -> str:
    """The authors' question, without images."""
    if direction == "text":
        return (
            f"Does this image depict: (A): {captions[0]} or (B): {captions[1]}? Answer with A or B."
        )
    return (
        f"Which image better aligns with the description: {captions[asked]}? "
        "The (A): first or the (B): second image? Answer with A or B."
    )


def probe_prompt(place: int | None, num_images: int, options: Sequence[str]) -> str:
    """The question of the authors' leakage probe, images first (`yejipark-m/FOCUS`, 8e04e89).

    >>> probe_prompt(1, 2, ["x", "y", "x and y"]).splitlines()[0]
    '<image><image>For the second image, which description better aligns with the image context?'
    """
    which = "the image" if place is None else f"the {ORDINALS[place]} image"
    listed = " or ".join(
        f"the ({letter}): {option}" for letter, option in zip("ABC", options, strict=True)
    )
    return (
        f"{IMAGE_PLACEHOLDER * num_images}For {which}, which description better aligns with the "
        f"image context?\nT{listed[1:]}. Answer with A or B or C."
    )


def strict_prompt(direction: str, captions: list[str], asked: int) -> str:
    """VisMin's question, without images."""
    if direction == "text":
        return (
            f"Does this image best match: (A) {captions[0]}, or (B) {captions[1]}? Choices: A, B."
        )
    return (
        f'Which image better aligns with the description: "{captions[asked]}"? '
        "Choices: First, Second."
    )


def score_strict(text: str, reference: Reference) -> Score:
    """The letter or the word that the answer chooses; nothing else is right."""
    if reference.choices == ("A", "B"):
        options = reference.metadata.get("options", ())
        return score_parsed(option_letter(text, reference.choices, options), reference)
    return score_parsed(named_choice(text, reference.choices), reference)


def score_official(text: str, reference: Reference, *, fallback: bool) -> Score:
    """The authors' first stand-alone a or b.

    Args:
        text: the answer.
        reference: its question.
        fallback: DEFECT: an answer without either is "a", which is the gold of every first
            question (Winoground); otherwise it is wrong (VisMin).
    """
    letter = official_two_letters(text)
    parsed = None if letter is None else reference.choices["ab".index(letter)]
    return score_parsed(parsed, reference, fallback=reference.choices[0] if fallback else None)
