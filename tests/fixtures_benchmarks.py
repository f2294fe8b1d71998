"""Data sets with the schema of the real ones and a handful of rows, drawn here.

Every image is one flat colour that names it: `colour_of(image)` gives back the number it was drawn
from, so that order and identity of images can be checked after any loading path.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pillow

from focus.benchmarks.blink import BLINK, TASKS
from focus.benchmarks.hub import AbstractHubBenchmark
from focus.benchmarks.mantis_eval import MantisEval
from focus.benchmarks.mirb import MIRB
from focus.benchmarks.muirbench import MuirBench
from focus.benchmarks.mvh_bench import MVHBench
from focus.benchmarks.nlvr2 import NLVR2
from focus.benchmarks.vismin import VisMin
from focus.benchmarks.winoground import Winoground

TEXT, INTEGER = Value("string"), Value("int32")


def picture(number: int, size: tuple[int, int] = (6, 4)) -> Pillow.Image:
    """An image of one colour that stands for `number`."""
    return Pillow.new("RGB", size, (number // 256, number % 256, 128))


def colour_of(image: Pillow.Image) -> int:
    """The number that an image was drawn from."""
    red, green, _ = image.getpixel((0, 0))
    return red * 256 + green


def pair_rows(number: int, captions: tuple[str, str]) -> dict[str, Any]:
    return {
        "id": number,
        "image_0": picture(2 * number),
        "image_1": picture(2 * number + 1),
        captions[0]: f"caption {number} of a dog",
        captions[1]: f"caption {number} of a cat",
    }


WINOGROUND = [
    {
        **pair_rows(n, ("caption_0", "caption_1")),
        "tag": "Noun",
        "secondary_tag": "",
        "num_main_preds": 1,
        "collapsed_tag": ("Object", "Relation", "Both")[n % 3],
    }
    for n in range(40)
]
VISMIN = [
    {
        **pair_rows(n, ("text_0", "text_1")),
        "category": ("object", "attribute", "relation", "counting")[n % 4],
    }
    for n in range(40)
]
_PAIR = {"image_0": Image(), "image_1": Image()}
_MANTIS = {
    "id": TEXT,
    "question_type": TEXT,
    "question": TEXT,
    "images": List(Image()),
    "options": List(TEXT),
    "answer": TEXT,
    "data_source": TEXT,
    "category": TEXT,
}
MANTIS = [
    {
        "id": f"mantis_{n}",
        "question_type": "multi-choice",
        "question": f"Compare <image> with <image>. Which of {n} is it?",
        "images": [picture(3 * n), picture(3 * n + 1)],
        "options": ["a dog", "a cat", "(C) a bird"],
        "answer": "B" if n % 2 else "(A)",
        "data_source": "test",
        "category": "size",
    }
    for n in range(20)
] + [
    {
        "id": "mantis_short",
        "question_type": "short-answer",
        "question": "Where is <image>?",
        "images": [picture(100), picture(101)],
        "options": [],
        "answer": "New York",
        "data_source": "test",
        "category": "place",
    },
    {
        "id": "mantis_short_letter",
        "question_type": "short-answer",
        "question": "Which letter is shown?",
        "images": [picture(102)],
        "options": [],
        "answer": "b",
        "data_source": "test",
        "category": "place",
    },
]
NLVR2_ROWS = [
    {
        "id": f"test1-{n // 4}-{n % 4 // 2}-{n % 2}",
        "question_type": "multi-choice",
        "question": "<image><image> Here is a statement about the images. Is it true or false?\n"
        f"There are {n} dogs.",
        "images": [picture(2 * n), picture(2 * n + 1)],
        "options": ["(A) True", "(B) False"] if n % 2 else ["(A) False", "(B) True"],
        "answer": "A",
        "data_source": "nlvr2_test",
        "category": "logical reasoning",
    }
    for n in range(40)
]
_MUIR = {
    **dict.fromkeys(("idx", "task", "image_relation", "image_type", "question"), TEXT),
    "options": List(TEXT),
    "answer": TEXT,
    "image_list": List(Image()),
    "counterpart_idx": TEXT,
}


def muir_row(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "idx": str(number),
        "task": ("Counting", "Visual Retrieval")[number % 2],
        "image_relation": "Multiview",
        "image_type": "Slides",
        "question": "How many dogs are in <image> and <image>?",
        "options": ["one", "two", "three", "None of the choices provided"],
        "answer": "D" if number % 2 else "A",
        "image_list": [picture(2 * number), picture(2 * number + 1)],
        "counterpart_idx": str(number ^ 1),
        **changes,
    }


MUIRBENCH = [muir_row(n) for n in range(40)] + [
    muir_row(
        40,
        question="Which image shows the same as <image>?",
        options=["<image>", "<image>", "<image>", "a", "None of the choices provided"],
        answer="E",
        image_list=[picture(200 + k) for k in range(4)],
    )
]
_MIRB = {
    "question_id": INTEGER,
    **dict.fromkeys(("subset", "questions", "answers"), TEXT),
    "image_list": List(Image()),
}


def mirb_row(number: int, subset: str, question: str, answer: str) -> dict[str, Any]:
    images = [picture(2 * number), picture(2 * number + 1)]
    return {
        "question_id": number % 3,
        "subset": subset,
        "questions": question,
        "answers": answer,
        "image_list": images,
    }


MIRB_ROWS = [
    mirb_row(0, "codeu", "Which code? A. first B. second", "B"),
    mirb_row(1, "food", "Which food? (A) x (B) y", "A"),
    mirb_row(2, "image_jigsaw", "Which order?", "C"),
    mirb_row(3, "count", "How many dogs?", "3"),
    mirb_row(4, "3d_scene", "How many objects?", "7"),
    mirb_row(5, "analogy", "Is the rule the same?", "Yes"),
    mirb_row(6, "attribute", "Do both have wings?", "no"),
    mirb_row(7, "visual_chain", "Follow the arrows.", "12"),
    mirb_row(8, "sightseeing", "Which tower?", "Eiffel Tower"),
    mirb_row(9, "plot_code", "Which library?", "matplotlib"),
    mirb_row(10, "arxiv", "Which paper?", "Attention Is All You Need"),
]
#: Fields that the public loader reads; "neither" is what it replaces.
_MVH = {
    **dict.fromkeys(("group_id", "mvh_type", "category"), TEXT),
    **dict.fromkeys(("view_1", "view_2"), Image()),
    **dict.fromkeys(("mc_questions", "mc_options", "mc_answers"), List(TEXT)),
    **dict.fromkeys(("binary_questions", "binary_answers"), List(TEXT)),
}
MVH_ROWS = [
    {
        "group_id": f"g{n}",
        "mvh_type": ("cross_instance", "cross_view")[n % 2],
        "category": "colour",
        "view_1": picture(2 * n),
        "view_2": picture(2 * n + 1),
        "mc_questions": [f"What is in view 1 of {n}?", f"What is in view 2 of {n}?"],
        "mc_options": ["a dog", "a cat", "neither"],
        "mc_answers": ["a dog", "a cat"] if n % 3 else ["a cat", "a dog"],
        "binary_questions": [f"Is {what} in view {view}?" for view in "12" for what in "xy"],
        "binary_answers": ["Yes", "No", "No", "Yes"],
    }
    for n in range(24)
]
_BLINK = {
    **dict.fromkeys(("idx", "question", "sub_task"), TEXT),
    **{f"image_{k}": Image() for k in range(1, 5)},
    "choices": List(TEXT),
    "answer": TEXT,
    "prompt": TEXT,
    "explanation": TEXT,
}


def blink_rows(task: str) -> list[dict[str, Any]]:
    number = 10 * TASKS.index(task)
    return [
        {
            "idx": f"val_{task}_{n + 1}",
            "question": "Which image is alike?",
            "sub_task": task,
            **{
                f"image_{k}": picture(4 * (number + n) + k) if k <= 1 + n else None
                for k in range(1, 5)
            },
            "choices": ["the second image", "the third image"],
            "answer": "(B)",
            "prompt": "Which image is alike?\nSelect from the following choices.\n"
            "(A) the second image\n(B) the third image",
            "explanation": "",
        }
        for n in range(4)
    ]


@dataclass(frozen=True)
class Fixture:
    """A benchmark class with the rows of its data set, by configuration ("" for the only one)."""

    cls: type[AbstractHubBenchmark]
    features: Mapping[str, Any]
    rows: Callable[[str], list[dict[str, Any]]]

    @property
    def configs(self) -> tuple[str, ...]:
        return self.cls.source.configs or ("",)

    def dataset(self, config: str = "") -> Dataset:
        """The rows as the hub would serve them."""
        return Dataset.from_list(self.rows(config), features=Features(self.features))

    def saved(self, folder: Path, form: str) -> Path:
        """The rows on disk: ``disk`` (save_to_disk), ``parquet``, ``arrow`` or ``jsonl``."""
        split = self.cls.source.splits[0]
        for config in self.configs:
            below = folder / config
            below.mkdir(parents=True, exist_ok=True)
            data = self.dataset(config)
            if form == "parquet":
                data.to_parquet(below / f"{split}-00000-of-00001.parquet")
            elif form == "disk":
                data.save_to_disk(folder)
            elif form == "arrow":
                data.save_to_disk(below / split)
                for name in ("state.json", "dataset_info.json"):
                    (below / split / name).unlink()
            else:
                rows = [with_files(row, below) for row in self.rows(config)]
                lines = "".join(json.dumps(row) + "\n" for row in rows)
                (below / f"{split}.jsonl").write_text(lines)
        return folder


def with_files(row: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The row with its images written to files and replaced by relative paths."""

    def stored(value: Any) -> Any:
        if isinstance(value, list):
            return [stored(each) for each in value]
        if not isinstance(value, Pillow.Image):
            return value
        path = folder / "pictures" / f"{colour_of(value)}.png"
        path.parent.mkdir(exist_ok=True)
        value.save(path)
        return str(path.relative_to(folder))

    return {name: stored(value) for name, value in row.items()}


FIXTURES: dict[str, Fixture] = {
    "winoground": Fixture(
        Winoground,
        {"id": INTEGER, **_PAIR, "caption_0": TEXT, "caption_1": TEXT, "tag": TEXT,
         "secondary_tag": TEXT, "num_main_preds": INTEGER, "collapsed_tag": TEXT},
        lambda config: WINOGROUND,
    ),
    "vismin": Fixture(
        VisMin,
        {"id": INTEGER, **_PAIR, "text_0": TEXT, "text_1": TEXT, "category": TEXT},
        lambda config: VISMIN,
    ),
    "mantis_eval": Fixture(MantisEval, _MANTIS, lambda config: MANTIS),
    "nlvr2": Fixture(NLVR2, _MANTIS, lambda config: NLVR2_ROWS),
    "muirbench": Fixture(MuirBench, _MUIR, lambda config: MUIRBENCH),
    "mirb": Fixture(MIRB, _MIRB, lambda config: MIRB_ROWS),
    "blink": Fixture(BLINK, _BLINK, blink_rows),
    "mvh_bench": Fixture(MVHBench, _MVH, lambda config: MVH_ROWS),
}  # fmt: skip
