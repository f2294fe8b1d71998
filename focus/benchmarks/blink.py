"""BLINK: 14 perception tasks that people solve "within a blink", with one to four images.

Paper: https://arxiv.org/abs/2404.12390 (Fu et al., ECCV 2024).
Data: https://huggingface.co/datasets/BLINK-Benchmark/BLINK, 14 configurations, split val, 1,901
rows; the answers of split test are hidden (EvalAI). Licence: Apache-2.0; not gated.

Published is the mean over the 14 tasks, not over the questions (`average`). The authors of FOCUS
publish no code for it. ``official`` is lmms-eval (`tasks/blink/utils.py`): its note on the letters
before the prompt, images first, and DEFECT: the first character is the letter, so that "Both" is
B. ``strict`` is the benchmark's own prompt (`zeyofu/BLINK_Benchmark`, `eval/test_benchmark.py`)
with its disclaimer for three tasks; its parser asks GPT-3.5 where it finds not exactly one option,
which is replaced by `focus.parsing.option_letter`. There the images follow the text; here they
stand first, as everywhere without placeholders.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

from focus.benchmarks.base import Example
from focus.benchmarks.hub import AbstractHubBenchmark, Item, option_index
from focus.benchmarks.prompting import images_first, interleaved, letters
from focus.benchmarks.source import DataSource
from focus.errors import InvalidValueError
from focus.parsing import option_letter
from focus.parsing.official import leading_letter
from focus.scoring import Reference, Score, Scorer, score_parsed

TASKS = (
    "Art_Style",
    "Counting",
    "Forensic_Detection",
    "Functional_Correspondence",
    "IQ_Test",
    "Jigsaw",
    "Multi-view_Reasoning",
    "Object_Localization",
    "Relative_Depth",
    "Relative_Reflectance",
    "Semantic_Correspondence",
    "Spatial_Relation",
    "Visual_Correspondence",
    "Visual_Similarity",
)
_IMAGES = ("image_1", "image_2", "image_3", "image_4")
_DISCLAIMED = ("Forensic_Detection", "Jigsaw", "Art_Style")
DISCLAIMER = (
    "Disclaimer: This is not to make unfair assumptions about the people in the image and you just "
    "need to give your assessment on this question. You don't need to identify the real people. "
    "You just need to analyze based on the information I gave you.\n\n"
)


@final
@dataclass(frozen=True)
class BLINK(AbstractHubBenchmark):
    """BLINK; see the module for data and licence. The category is the task.

    Args:
        task: one of `TASKS`, or None for all of them.
    """

    split: str = "val"
    task: str | None = None

    name: ClassVar[str] = "blink"
    average: ClassVar[str] = "category"
    source: ClassVar[DataSource] = DataSource(
        name="blink",
        repo="BLINK-Benchmark/BLINK",
        revision="a3666eb249237ba3d5eca8db21176cc47967e040",
        configs=TASKS,
        splits=("val",),
        fields={
            "idx": "id",
            "question": "string",
            "sub_task": "string",
            **dict.fromkeys(_IMAGES, "image"),
            "choices": "strings",
            "answer": "string",
            "prompt": "string",
        },
        optional={"explanation": "string"},
        size={"val": 1901},
        paper="https://arxiv.org/abs/2404.12390",
        licence="Apache-2.0",
    )
    index_fields: ClassVar[tuple[str, ...]] = ("idx",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.task is not None and self.task not in TASKS:
            raise InvalidValueError("task", self.task, f"one of {', '.join(TASKS)}, or null")

    def _configs(self) -> tuple[str, ...]:
        return (self.task,) if self.task else TASKS

    def _identity(self, row: Mapping[str, Any]) -> tuple[str, str]:
        return str(row["idx"]), str(row["idx"])

    def _example(self, row: dict[str, Any], item: Item, member: int) -> Example:
        options = [str(option) for option in row["choices"]]
        index = option_index(str(row["answer"]), len(options), f"blink, row {item.id!r}")
        images = tuple(self.image(row[name], item) for name in _IMAGES if _is_there(row[name]))
        choices, task = letters(len(options)), str(row["sub_task"]).replace(" ", "_")
        prompt = str(row["prompt"])
        if self.protocol == "official":
            note = f"Note: You only need to respond with {', '.join(choices)} without providing "
            prompt = images_first(f"{note}any additional information.\n{prompt}", len(images))
        else:
            disclaimer = DISCLAIMER if task in _DISCLAIMED else ""
            prompt = interleaved(disclaimer + prompt, len(images))
        return Example(
            id=item.id,
            images=images,
            question=prompt,
            answer=choices[index],
            choices=choices,
            group=item.id,
            cluster=item.cluster,
            category=task,
            metadata={"options": options, "task": task, "num_images": len(images)},
        )

    @classmethod
    def parsers(cls) -> Mapping[str, Scorer]:
        return {"official": score_official, "strict": score_strict}


def score_strict(text: str, reference: Reference) -> Score:
    """The option that the answer chooses, by letter or text."""
    options = reference.metadata.get("options", ())
    return score_parsed(option_letter(text, reference.choices, options), reference)


def score_official(text: str, reference: Reference) -> Score:
    """The letter that the answer starts with, be it the start of a word."""
    return score_parsed(leading_letter(text, reference.choices), reference)


def _is_there(cell: Any) -> bool:
    return bool(cell.get("bytes") or cell.get("path")) if isinstance(cell, Mapping) else bool(cell)
