"""MVH-Bench: two views, and questions about one of them whose wrong answer is true of the other.

Paper: https://arxiv.org/abs/2603.23934 (Park et al., 2026): 4.8k questions about two types of
hallucination, across instances and across views.
Data: https://huggingface.co/datasets/SNU-ISLAB/MVH-Bench, splits test and validation; parquet, not
gated as far as known. Licence: not verified. No revision could be verified, so none is pinned: name
one with `revision`.

Fields, splits, prompts, order of the options, parsing and metrics are those of the public loader,
`open-compass/VLMEvalKit`, `vlmeval/dataset/mvh_bench.py`, commit 0fa345d; the data set itself and
the authors' own code were not seen. A row is a group of six questions about its two views, images
first: two with three options, of which one is right, one is the answer to the other question of the
group (adversarial: true of the other view) and one is replaced by "Neither X nor Y" of the letters
of the others; and four to be answered by yes or no. Options are shuffled by a generator that the
loader seeds for each question; ``order`` turns that order.

``official`` reads answers as the loader does (`focus.parsing.official.only_letter` and
`only_yes_no`); ``strict`` asks the same and reads by `focus.parsing`. The metrics are in
`analysis.mvh`. Which view a question is about stands in its words alone, so that no targets are
known. The authors of FOCUS publish no code for it.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

from focus.benchmarks.base import Example
from focus.benchmarks.hub import AbstractHubBenchmark, Item
from focus.benchmarks.prompting import images_first, letters, rotation
from focus.benchmarks.source import DataSource
from focus.errors import DatasetSchemaError, InvalidValueError
from focus.parsing import named_choice, option_letter
from focus.parsing.official import only_letter, only_yes_no
from focus.scoring import Reference, Score, Scorer, score_parsed

TYPES = ("cross_instance", "cross_view")
#: Questions of a group by form, in their order, and how many options the first have.
CHOICE, YES_NO = "mc", "binary"
FORMS = (CHOICE, CHOICE, YES_NO, YES_NO, YES_NO, YES_NO)
NUM_OPTIONS = 3
_LENGTHS = {
    "mc_questions": 2,
    "mc_options": NUM_OPTIONS,
    "mc_answers": 2,
    "binary_questions": 4,
    "binary_answers": 4,
}
_SEED = 2025  # of the loader's shuffling


@final
@dataclass(frozen=True)
class MVHBench(AbstractHubBenchmark):
    """MVH-Bench; see the module for data and sources.

    The category is the form, ``mc`` or ``binary``; `Example.group` the pair that counts together;
    ``metadata["task"]`` the type of hallucination. The adversarial option is a distractor.

    Args:
        mvh_type: one of `TYPES`, or None for both.
    """

    mvh_type: str | None = None

    name: ClassVar[str] = "mvh_bench"
    source: ClassVar[DataSource] = DataSource(
        name="mvh_bench",
        repo="SNU-ISLAB/MVH-Bench",
        revision=None,  # no revision was verified
        splits=("test", "validation"),
        fields={
            "group_id": "id",
            "mvh_type": "string",
            "category": "string",
            "view_1": "image",
            "view_2": "image",
            "mc_questions": "strings",
            "mc_options": "strings",
            "mc_answers": "strings",
            "binary_questions": "strings",
            "binary_answers": "strings",
        },
        paper="https://arxiv.org/abs/2603.23934",
        licence="not verified",
    )
    index_fields: ClassVar[tuple[str, ...]] = ("group_id", "mvh_type")
    questions_per_row: ClassVar[int] = len(FORMS)
    orders: ClassVar[int] = NUM_OPTIONS  # options turned by so many places

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mvh_type is not None and self.mvh_type not in TYPES:
            accepted = f"one of {', '.join(TYPES)}, or null"
            raise InvalidValueError("mvh_type", self.mvh_type, accepted)

    def _identity(self, row: Mapping[str, Any]) -> tuple[str, str]:
        return str(row["group_id"]), str(row["group_id"])

    def _keeps(self, row: Mapping[str, Any]) -> bool:
        return self.mvh_type is None or row["mvh_type"] == self.mvh_type

    def _example(self, row: dict[str, Any], item: Item, member: int) -> Example:
        _check(row, item)
        form = FORMS[member]
        common: dict[str, Any] = {
            "id": f"{item.id}-{member}",
            "images": (self.image(row["view_1"], item), self.image(row["view_2"], item)),
            "group": f"{item.id}-{form}-{member // 2}",
            "cluster": item.cluster,
            "category": form,
        }
        facts = {"task": str(row["mvh_type"]), "topic": str(row["category"]), "member": member}
        if form == YES_NO:
            asked = str(row["binary_questions"][member - 2])
            return Example(
                question=images_first(f"{asked}\nPlease answer this question with one word.", 2),
                answer=str(row["binary_answers"][member - 2]).strip().capitalize(),
                choices=("Yes", "No"),
                metadata=facts,
                **common,
            )
        answers = [str(answer) for answer in row["mc_answers"]]
        turn = rotation(NUM_OPTIONS, self.order)
        shuffled = _shuffled(row["mc_options"], str(row["group_id"]), member)
        options = [shuffled[k] for k in turn]
        choices = letters(NUM_OPTIONS)
        right, wrong = (choices[options.index(answers[k])] for k in (member, 1 - member))
        options = with_neither(options, (right, wrong))
        return Example(
            question=images_first(choice_prompt(str(row["mc_questions"][member]), options), 2),
            answer=right,
            choices=choices,
            distractors=(wrong,),
            permutation=turn,
            metadata={"options": options, **facts},
            **common,
        )

    @classmethod
    def parsers(cls) -> Mapping[str, Scorer]:
        return {"official": score_official, "strict": score_strict}


def _check(row: Mapping[str, Any], item: Item) -> None:
    """Raises `DatasetSchemaError` unless a row is a group of six questions as described."""
    where = f"mvh_bench, row {item.id!r}"
    for name, length in _LENGTHS.items():
        if len(row[name]) != length:
            raise DatasetSchemaError(f"{where}: {name} has {len(row[name])} entries, not {length}")
    answers = [str(answer) for answer in row["mc_answers"]]
    if len(set(answers)) < 2 or not set(answers) <= {str(each) for each in row["mc_options"]}:
        raise DatasetSchemaError(f"{where}: mc_answers {answers!r} are not two of its options")
    for answer in row["binary_answers"]:
        if str(answer).strip().lower() not in ("yes", "no"):
            raise DatasetSchemaError(f"{where}: binary answer {answer!r} is neither yes nor no")


def _shuffled(options: Sequence[str], group: str, question: int) -> list[str]:
    """The loader's order, which Python's generator makes from a key of its own."""
    shuffled = [str(option) for option in options]
    key = hashlib.sha256(f"{_SEED}:{group}:{question}".encode()).digest()
    random.Random(int.from_bytes(key, "big")).shuffle(shuffled)
    return shuffled


def with_neither(options: Sequence[str], named: Sequence[str]) -> list[str]:
    """Options whose third, the one without a name, denies the letters of the others.

    >>> with_neither(["red", "blue", "green"], ("C", "A"))
    ['red', 'Neither A nor C', 'green']
    """
    first, second = sorted(named)
    return [
        option if letter in named else f"Neither {first} nor {second}"
        for letter, option in zip(letters(len(options)), options, strict=True)
    ]


def choice_prompt(question: str, options: Sequence[str]) -> str:
    """The loader's question with options, without images."""
    listed = "\n".join(f"{letter}) {option}" for letter, option in zip("ABC", options, strict=True))
    return (
        f"Question:\n{question}\n\nChoices:\n{listed}\n\nOnly one option is correct.\n"
        "Present the answer strictly in the form X)."
    )


def score_official(text: str, reference: Reference) -> Score:
    """The loader's reading of either form."""
    if reference.category == YES_NO:
        return score_parsed(only_yes_no(text), reference)
    options = reference.metadata.get("options", ())
    return score_parsed(only_letter(text, reference.choices, options), reference)


def score_strict(text: str, reference: Reference) -> Score:
    """The option or the word that the answer chooses; nothing else is right."""
    if reference.category == YES_NO:
        return score_parsed(named_choice(text, reference.choices), reference)
    options = reference.metadata.get("options", ())
    return score_parsed(option_letter(text, reference.choices, options), reference)
