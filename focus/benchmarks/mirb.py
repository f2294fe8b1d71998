"""MIRB: perception, knowledge, reasoning and multi-hop questions over several images.

Paper: https://arxiv.org/abs/2406.12742 (Zhao et al., 2024).
Data: https://huggingface.co/datasets/VLLMs/MIRB-hf, split test, 969 rows (the paper states 925
questions). Licence: MIT; not gated.

``strict`` is the benchmark's own protocol (`DTennant/MIRB_eval`, `utils/utils.py`,
`utils/model_inference.py`, `evals/eval.py`): instruction, images, question. Its metric per subset
is kept, its reading of the text made strict:

=============  =====================================  ==============================================
subset         there                                  here
=============  =====================================  ==============================================
codeu, food,   largest first-token logit of A to E    letter in the text (`option_letter`); the
image_jigsaw                                          records also hold the logits of A to E
analogy,       "yes" anywhere is yes, else no         yes or no, unreadable if both or neither
attribute
count,         first number of the first sentence     the only number (`focus.parsing.number`)
3d_scene,
visual_chain
sightseeing    gold contained in the first sentence   the same, in the declared answer, whole words
plot_code,     equal, cut at line or sentence end     equal, quotes and punctuation aside
arxiv
=============  =====================================  ==============================================

A gold that is no letter, number or yes/no is compared as text, whatever its subset. The names are
those of this copy; the harness calls four of them domain, foods, plot and places, and visual_chain
image_needles. ``official`` is `eval/mirb.py` of the authors of FOCUS: images resized to 512 x 512
and first, the same instructions glued to the question, and DEFECT: an exact comparison that takes
punctuation from the prediction only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

from focus.benchmarks.base import Example
from focus.benchmarks.hub import AbstractHubBenchmark, Item
from focus.benchmarks.prompting import images_first, interleaved, letters
from focus.benchmarks.source import DataSource
from focus.errors import DatasetSchemaError
from focus.images import IMAGE_PLACEHOLDER
from focus.parsing import bare, final_answer, named_choice, number, option_letter, plain
from focus.parsing.official import official_exact
from focus.scoring import Reference, Score, Scorer, score_parsed

GROUPS = {
    "knowledge": ("food", "sightseeing"),
    "reasoning": ("codeu", "plot_code", "analogy", "3d_scene"),
    "perception": ("image_jigsaw", "count", "attribute"),
    "multi-hop": ("visual_chain", "arxiv"),
}
_WORD, _SYMBOL = "Answer with a single word.", "Answer with the option symbol."
INSTRUCTIONS = {
    **dict.fromkeys(("analogy", "attribute", "plot_code", "visual_chain", "sightseeing"), _WORD),
    **dict.fromkeys(("codeu", "food", "image_jigsaw"), _SYMBOL),
    "arxiv": "Answer with the paper title.",
    "count": "Answer with a single number.",
    "3d_scene": "The following images are different views of the same 3D scene. "
    "Answer with a single number.",
}
_LETTERS = letters(5)
_YES_NO = ("yes", "no")


@final
@dataclass(frozen=True)
class MIRB(AbstractHubBenchmark):
    """MIRB; see the module for data and licence. The category is the subset."""

    name: ClassVar[str] = "mirb"
    source: ClassVar[DataSource] = DataSource(
        name="mirb",
        repo="VLLMs/MIRB-hf",
        revision="5bd1c0bc20b049779d50930c894729fb8a4ae1f0",
        splits=("test",),
        fields={
            "question_id": "id",
            "subset": "string",
            "questions": "string",
            "answers": "string",
            "image_list": "images",
        },
        size={"test": 969},
        paper="https://arxiv.org/abs/2406.12742",
        licence="MIT",
    )
    published_size: ClassVar[tuple[int, int]] = (512, 512)
    index_fields: ClassVar[tuple[str, ...]] = ("question_id", "subset")

    def _identity(self, row: Mapping[str, Any]) -> tuple[str, str]:
        identity = f"{row['subset']}-{row['question_id']}"
        return identity, identity

    def _example(self, row: dict[str, Any], item: Item, member: int) -> Example:
        subset, question, answer = (str(row[k]) for k in ("subset", "questions", "answers"))
        if subset not in INSTRUCTIONS:
            known = ", ".join(INSTRUCTIONS)
            raise DatasetSchemaError(f"mirb, row {item.id!r}: subset {subset!r} is none of {known}")
        images = tuple(self.image(cell, item) for cell in row["image_list"])
        instruction, metric = INSTRUCTIONS[subset], metric_of(subset, answer)
        if self.protocol == "official":
            images = tuple(image.resize(self.published_size) for image in images)
            prompt = images_first(instruction + question, len(images))
        elif IMAGE_PLACEHOLDER in question:
            prompt = interleaved(f"{instruction}\n{question}", len(images))
        else:
            prompt = f"{instruction}\n" + f"{IMAGE_PLACEHOLDER}\n" * len(images) + question
        choices = {"letter": _LETTERS, "yes_no": _YES_NO}.get(metric, ())
        return Example(
            id=item.id,
            images=images,
            question=prompt,
            answer=_choice(answer, choices),
            choices=choices,
            group=item.id,
            cluster=item.cluster,
            category=subset,
            metadata={
                "metric": metric,
                "gold": answer,
                "task": subset,
                "dimension": next((g for g, names in GROUPS.items() if subset in names), ""),
                "num_images": len(images),
            },
        )

    @classmethod
    def parsers(cls) -> Mapping[str, Scorer]:
        return {"official": score_official, "strict": score_strict}


def metric_of(subset: str, answer: str) -> str:
    """How an answer is compared: ``letter``, ``yes_no``, ``number``, ``contained`` or ``exact``."""
    gold = bare(answer)
    if INSTRUCTIONS[subset] == _SYMBOL and gold.upper() in _LETTERS:
        return "letter"
    if subset in ("analogy", "attribute", "sightseeing") and gold in _YES_NO:
        return "yes_no"
    if subset in ("count", "3d_scene", "visual_chain") and number(answer) is not None:
        return "number"
    return "contained" if subset == "sightseeing" else "exact"


def score_strict(text: str, reference: Reference) -> Score:
    """The metric of the subset; an answer without a reading is wrong."""
    metric = reference.metadata.get("metric")
    if metric == "letter":
        return score_parsed(option_letter(text, _LETTERS), reference)
    if metric == "yes_no":
        return score_parsed(named_choice(text, _YES_NO), reference)
    if metric == "number":
        parsed = number(text)
        return Score(parsed, parsed is not None and parsed == number(reference.answer))
    parsed = bare(final_answer(plain(text))) or None
    gold = bare(reference.answer)
    if parsed is None:
        return Score(None, False)
    if metric == "contained":
        return Score(parsed, bool(re.search(rf"(?<!\w){re.escape(gold)}(?!\w)", parsed)))
    return Score(parsed, parsed == gold)


def score_official(text: str, reference: Reference) -> Score:
    """The authors' exact comparison."""
    gold = str(reference.metadata.get("gold", reference.answer))
    prediction, gold = official_exact(text, gold)
    return Score(prediction or None, prediction == gold)


def _choice(answer: str, choices: tuple[str, ...]) -> str:
    same = [choice for choice in choices if bare(choice) == bare(answer)]
    return same[0] if same else answer
