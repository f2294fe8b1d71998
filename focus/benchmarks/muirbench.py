"""MuirBench: multiple choice over several images in 12 tasks, each with an unanswerable twin.

Paper: https://arxiv.org/abs/2406.09411 (Wang et al., 2024).
Data: https://huggingface.co/datasets/MUIRBENCH/MUIRBENCH, split test, 2,600 rows and 11,264
images. Licence: CC-BY-4.0; not gated.

``strict`` is the benchmark's own prompt (`muirbench/MuirBench`, `eval/utils/preprocess.py`) with
the images where question and options have them; its parser, which guesses at random where it finds
nothing, is replaced by `focus.parsing.option_letter`. ``official`` is `eval/muirbench.py` of the
authors of FOCUS: images resized to 512 x 512 and put first, and

* DEFECT: question, choices and hint are glued together without a line break;
* DEFECT: where an option is ``<image>``, the options become the characters of the question;
* DEFECT: the parser takes the first a to d inside any word.

A placeholder inside a longer option is removed in ``official``: they leave it in as text, which
some models take for an image token.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

from focus.benchmarks.base import Example
from focus.benchmarks.hub import AbstractHubBenchmark, Item, option_index
from focus.benchmarks.prompting import (
    bracketed_options,
    images_first,
    interleaved,
    letters,
    rotation,
    turned,
)
from focus.benchmarks.source import DataSource
from focus.images import IMAGE_PLACEHOLDER
from focus.parsing import option_letter
from focus.parsing.official import after_thinking, official_first_letter
from focus.scoring import Reference, Score, Scorer, score_parsed

UNANSWERABLE = "none of the choices provided"
_HINT = "Hint: Please provide the correct option letter, such as A, B, C, D, directly."


@final
@dataclass(frozen=True)
class MuirBench(AbstractHubBenchmark):
    """MuirBench; see the module for data and licence. The category is the task.

    A question and its unanswerable twin form one cluster.
    """

    name: ClassVar[str] = "muirbench"
    source: ClassVar[DataSource] = DataSource(
        name="muirbench",
        repo="MUIRBENCH/MUIRBENCH",
        revision="4c393cffc985c77d28de3b9045e2e5186920df80",
        splits=("test",),
        fields={
            "idx": "id",
            "task": "string",
            "question": "string",
            "options": "strings",
            "answer": "string",
            "image_list": "images",
        },
        optional={"image_relation": "string", "image_type": "string", "counterpart_idx": "id"},
        size={"test": 2600},
        paper="https://arxiv.org/abs/2406.09411",
        licence="CC-BY-4.0",
    )
    orders: ClassVar[int] = 4  # options turned by so many places
    published_size: ClassVar[tuple[int, int]] = (512, 512)
    index_fields: ClassVar[tuple[str, ...]] = ("idx", "counterpart_idx")

    def _identity(self, row: Mapping[str, Any]) -> tuple[str, str]:
        identity, twin = str(row["idx"]), str(row.get("counterpart_idx") or "")
        return identity, min(identity, twin) if twin else identity

    def _example(self, row: dict[str, Any], item: Item, member: int) -> Example:
        options = [str(option) for option in row["options"]]
        index = option_index(str(row["answer"]), len(options), f"muirbench, row {item.id!r}")
        images = tuple(self.image(cell, item) for cell in row["image_list"])
        question = str(row["question"])
        turn = rotation(len(options), self.order)
        options, images = turned(question, options, images, turn)
        if self.protocol == "official":
            images = tuple(image.resize(self.published_size) for image in images)
            prompt = images_first(official_prompt(question, options), len(images))
        else:
            prompt = interleaved(strict_prompt(question, options), len(images))
        choices = letters(len(options))
        return Example(
            id=item.id,
            images=images,
            question=prompt,
            answer=choices[turn.index(index)],
            choices=choices,
            group=item.id,
            cluster=item.cluster,
            category=str(row["task"]),
            permutation=turn,
            metadata={
                "options": options,
                "task": str(row["task"]),
                "image_relation": row.get("image_relation") or "",
                "image_type": row.get("image_type") or "",
                "answerable": str(row["options"][index]).strip().lower() != UNANSWERABLE,
                "num_images": len(images),
            },
        )

    @classmethod
    def parsers(cls) -> Mapping[str, Scorer]:
        return {"official": score_official, "strict": score_strict}


def strict_prompt(question: str, options: list[str]) -> str:
    """The benchmark's prompt, placeholders kept."""
    lines = [f"Question: {question}", "Choices:", *bracketed_options(options), _HINT, "Answer:"]
    return "\n".join(lines).strip()


def official_prompt(question: str, options: list[str]) -> str:
    """The authors' prompt, without images."""
    question = question.replace(IMAGE_PLACEHOLDER, "")
    shown = list(question) if IMAGE_PLACEHOLDER in options else options
    return f"Question: {question}" + "\n".join(["Choices:", *bracketed_options(shown)]) + _HINT


def score_strict(text: str, reference: Reference) -> Score:
    """The option that the answer chooses, by letter or text."""
    options = reference.metadata.get("options", ())
    return score_parsed(option_letter(text, reference.choices, options), reference)


def score_official(text: str, reference: Reference) -> Score:
    """The first letter a to d; DEFECT: a gold beyond D is never reached."""
    letter = official_first_letter(after_thinking(text))
    return score_parsed(letter.upper() if letter else None, reference)
