"""Mantis-Eval: 217 questions about several images, most with options, some with short answers.

Paper: https://arxiv.org/abs/2405.01483 (Jiang et al., 2024).
Data: https://huggingface.co/datasets/TIGER-Lab/Mantis-Eval, configuration mantis_eval, split test,
217 rows, about 470 MB. Licence: Apache-2.0; not gated.

``strict`` is the benchmark's own protocol (`TIGER-AI-Lab/Mantis`, `mantis/benchmark/eval.py` and
its templates): options on lines of their own, images where the question has them. Its parser takes
the first alphabetic character for the option; ours is `focus.parsing.option_letter`. Short answers
are right if they equal the gold in lower case, as there; here quotes and punctuation around them
do not count. ``official`` is `eval/mantis.py` of the authors of FOCUS.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

from focus.benchmarks.base import Example
from focus.benchmarks.hub import AbstractHubBenchmark, Item, option_index
from focus.benchmarks.prompting import images_first, interleaved, letters, rotation, turned
from focus.benchmarks.source import DataSource
from focus.errors import DatasetSchemaError
from focus.parsing import bare, final_answer, option_letter, plain
from focus.parsing.official import official_first_letter, official_mantis_answer
from focus.scoring import Reference, Score, Scorer, score_parsed

QUESTION_TYPES = ("multi-choice", "short-answer")
_LETTER_PROMPT = "Answer with the option's letter from the given choices directly."


@final
@dataclass(frozen=True)
class MantisEval(AbstractHubBenchmark):
    """Mantis-Eval; see the module for data and licence.

    The category (accuracy is published per type and overall) is the question type.
    """

    name: ClassVar[str] = "mantis_eval"
    source: ClassVar[DataSource] = DataSource(
        name="mantis_eval",
        repo="TIGER-Lab/Mantis-Eval",
        revision="1d6fcb99bd0e562425e650b490cc4dfd5cf94e53",
        configs=("mantis_eval",),
        splits=("test",),
        fields={
            "id": "id",
            "question_type": "string",
            "question": "string",
            "images": "images",
            "options": "strings",
            "answer": "string",
        },
        optional={"category": "string", "data_source": "string"},
        size={"test": 217},
        paper="https://arxiv.org/abs/2405.01483",
        licence="Apache-2.0",
    )
    orders: ClassVar[int] = 4  # options turned by so many places
    longest_answer: ClassVar[int] = 512
    index_fields: ClassVar[tuple[str, ...]] = ("id",)

    def _identity(self, row: Mapping[str, Any]) -> tuple[str, str]:
        return str(row["id"]), str(row["id"])

    def _example(self, row: dict[str, Any], item: Item, member: int) -> Example:
        official = self.protocol == "official"
        return mantis_example(self, row, item, official_prompt if official else strict_prompt)

    @classmethod
    def parsers(cls) -> Mapping[str, Scorer]:
        return {"official": score_official, "strict": score_strict}


def mantis_example(
    benchmark: AbstractHubBenchmark,
    row: dict[str, Any],
    item: Item,
    prompt: Callable[[str, str, list[str], int], str],
    category: str = "",
) -> Example:
    """Example of a row in the format of Mantis, which NLVR2 shares.

    Args:
        benchmark: whose images are decoded.
        row: the row.
        item: its identity.
        prompt: from question, type, options and number of images to the prompt text.
        category: category of the example; the question type where empty.
    """
    where = f"{benchmark.name}, row {item.id!r}"
    kind, options = str(row["question_type"]), [str(option) for option in row["options"] or ()]
    if kind not in QUESTION_TYPES:
        accepted = " or ".join(QUESTION_TYPES)
        raise DatasetSchemaError(f"{where}: question_type is {kind!r}, expected {accepted}")
    images = tuple(benchmark.image(cell, item) for cell in row["images"])
    choices = letters(len(options)) if kind == "multi-choice" else ()
    turn = rotation(len(options), benchmark.order) if choices else ()
    answer = str(row["answer"])
    if choices:
        answer = choices[turn.index(option_index(answer, len(options), where))]
        options = [
            relettered(option, choices[k], choices[turn.index(k)])
            for k, option in enumerate(options)
        ]
        options, images = turned(str(row["question"]), options, images, turn)
    return Example(
        id=item.id,
        images=images,
        question=prompt(str(row["question"]), kind, options, len(images)),
        answer=answer,
        choices=choices,
        group=item.id,
        cluster=item.cluster,
        category=category or kind,
        permutation=turn,
        metadata={
            "question_type": kind,
            "options": options,
            "gold": str(row["answer"]),
            "task": row.get("category") or "",
            "data_source": row.get("data_source") or "",
        },
    )


def relettered(option: str, old: str, new: str) -> str:
    """An option that brings the letter of its place, with that of another place.

    >>> relettered("(A) a dog", "A", "C"), relettered("U.S.", "A", "C")
    ('(C) a dog', 'U.S.')
    """
    return re.sub(rf"^(\(?){old}(?=[).:])", rf"\g<1>{new}", option)


def official_prompt(question: str, kind: str, options: list[str], num_images: int) -> str:
    """The authors of FOCUS: images first. DEFECT: the options are a Python list."""
    question = question.replace("<image>", "")
    if kind == "short-answer":
        return images_first(short_answer_prompt(question), num_images)
    return images_first(f"{question}\n{_LETTER_PROMPT} {options}", num_images)


def strict_prompt(question: str, kind: str, options: list[str], num_images: int) -> str:
    """The harness of Mantis: options get a letter unless they bring one, images interleaved."""
    if kind == "short-answer":
        return interleaved(short_answer_prompt(question), num_images)
    for letter, option in zip(letters(len(options)), options, strict=True):
        labelled = any(f"{letter}{mark}" in option.upper() for mark in "):.")
        question += f"\n {option}" if labelled else f"\n ({letter}) {option}"
    return interleaved(f"{question}\n{_LETTER_PROMPT}", num_images)


def short_answer_prompt(question: str) -> str:
    """The template that both share."""
    return (
        "Given the images, answer the following short answer vqa question:\n"
        f"Q: {question}\n"
        'You can first give your analysis, and then give your final answer as "Final Answer:"'
    )


def score_strict(text: str, reference: Reference) -> Score:
    """Options by letter or text; short answers by what is declared as final."""
    if reference.choices:
        options = reference.metadata.get("options", ())
        return score_parsed(option_letter(text, reference.choices, options), reference)
    parsed = bare(final_answer(plain(text))) or None
    return Score(parsed, parsed is not None and parsed == bare(reference.answer))


def score_official(text: str, reference: Reference) -> Score:
    """The first letter a to d; DEFECT: a short answer is right only if its gold is one of them."""
    letter = official_first_letter(official_mantis_answer(text))
    if reference.choices:
        return score_parsed(letter.upper() if letter else None, reference)
    gold = reference.answer.lower().strip().replace("(", "").replace(")", "")
    return Score(letter, letter is not None and letter == gold)
