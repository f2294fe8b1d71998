"""NLVR2: is a statement about two photographs true?

Paper: https://arxiv.org/abs/1811.00491 (Suhr et al., ACL 2019).
Data: https://huggingface.co/datasets/TIGER-Lab/NLVR2, configuration nlvr2, split test (the public
test set, 6,967 rows), in the format of Mantis-Eval. Licence: NLVR2's annotations are CC-BY-4.0,
its images belong to their owners; this copy states none. Not gated.

The authors of FOCUS publish no code for it. ``official`` is the harness that made this copy
(`TIGER-AI-Lab/Mantis`, `mantis/benchmark/eval.py`, with its branch for NLVR2); ``strict`` is the
same prompt with an anchored parser. Statements about the same set of eight images share images:
they form one cluster and go to one part.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

from focus.benchmarks.base import Example
from focus.benchmarks.hub import AbstractHubBenchmark, Item
from focus.benchmarks.mantis_eval import MantisEval, mantis_example, score_strict, strict_prompt
from focus.benchmarks.source import DataSource
from focus.parsing.official import mantis_harness_letter
from focus.scoring import Reference, Score, Scorer, score_parsed

_IDENTIFIER = re.compile(r"(.+)-\d+-\d+")  # split-set-pair-sentence


@final
@dataclass(frozen=True)
class NLVR2(AbstractHubBenchmark):
    """NLVR2; see the module for data and licence. The category is the option that is right."""

    name: ClassVar[str] = "nlvr2"
    source: ClassVar[DataSource] = DataSource(
        name="nlvr2",
        repo="TIGER-Lab/NLVR2",
        revision="342bb37f28ead4eaa480f4313ca094cf677d6f80",
        configs=("nlvr2",),
        splits=("test",),
        fields=MantisEval.source.fields,
        optional=MantisEval.source.optional,
        size={"test": 6967},
        paper="https://arxiv.org/abs/1811.00491",
        licence="annotations CC-BY-4.0, images by their owners",
    )
    longest_answer: ClassVar[int] = 512
    index_fields: ClassVar[tuple[str, ...]] = ("id",)

    def _identity(self, row: Mapping[str, Any]) -> tuple[str, str]:
        identity = str(row["id"])
        match = _IDENTIFIER.fullmatch(identity)
        return identity, match[1] if match else identity

    def _example(self, row: dict[str, Any], item: Item, member: int) -> Example:
        options = [str(option).lower() for option in row["options"] or ()]
        right = str(row["answer"]).strip("() ").upper()
        index = ord(right) - ord("A") if len(right) == 1 else -1
        truth = "true" if 0 <= index < len(options) and "true" in options[index] else "false"
        return mantis_example(self, row, item, strict_prompt, category=truth)

    @classmethod
    def parsers(cls) -> Mapping[str, Scorer]:
        return {"official": score_harness, "strict": score_strict}


def score_harness(text: str, reference: Reference) -> Score:
    """The first alphabetic character; without an option of that letter, true or false in the text.

    DEFECT: "The statement is true" begins with t, so only the second rule reads it; "A statement
    that is false" is option A.
    """
    letter = mantis_harness_letter(text, len(reference.choices))
    if letter:
        return score_parsed(letter, reference)
    options = [str(option).lower() for option in reference.metadata.get("options", ())]
    said = [word for word in ("true", "false") if word in text.lower()]
    named = [i for i, option in enumerate(options) if said and said[0] in option]
    return score_parsed(
        reference.choices[named[0]] if len(said) == 1 and named else None, reference
    )
