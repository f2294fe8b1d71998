"""VisMin: pairs of images and captions that differ in one object, attribute, count or relation.

Paper: https://arxiv.org/abs/2407.16772 (Awal et al., NeurIPS 2024).
Data: https://huggingface.co/datasets/mair-lab/vismin-bench, split test, 2,084 rows (579 object,
294 attribute, 589 counting, 622 relation), about 1.5 GB. Licence: CC-BY-4.0; not gated.

Results are published per category; the authors of FOCUS run one category at a time (`category`)
and print no overall score. Their `--split val` is the whole test set; ours are `part=dev|test`.
The repository's scorer accepts an answer if the label is among its words, whichever else is; here
an answer that names both is unreadable. The rows also hold ready-made questions
(``text_question_0``, ...), whose wording is not used: the prompts are those of the authors' code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, final

from focus.benchmarks.pairs import AbstractPairBenchmark, score_official, score_strict
from focus.benchmarks.source import DataSource
from focus.errors import InvalidValueError
from focus.scoring import Scorer

CATEGORIES = ("object", "attribute", "relation", "counting")


@final
@dataclass(frozen=True)
class VisMin(AbstractPairBenchmark):
    """VisMin; see the module for data and licence, `AbstractHubBenchmark` for the settings.

    ``metadata["task"]`` is the category of the row.

    Args:
        category: one of `CATEGORIES`, or None for all.
    """

    category: str | None = None

    name: ClassVar[str] = "vismin"
    source: ClassVar[DataSource] = DataSource(
        name="vismin",
        repo="mair-lab/vismin-bench",
        revision="496293372f53df900b502f12f133fc5cad5d499a",
        splits=("test",),
        fields={
            "id": "id",
            "image_0": "image",
            "image_1": "image",
            "text_0": "string",
            "text_1": "string",
            "category": "string",
        },
        size={"test": 2084},
        paper="https://arxiv.org/abs/2407.16772",
        licence="CC-BY-4.0",
    )
    index_fields: ClassVar[tuple[str, ...]] = ("id", "category")
    caption_fields: ClassVar[tuple[str, str]] = ("text_0", "text_1")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.category is not None and self.category not in CATEGORIES:
            accepted = f"one of {', '.join(CATEGORIES)}, or null"
            raise InvalidValueError("category", self.category, accepted)

    def _identity(self, row: Mapping[str, Any]) -> tuple[str, str]:
        return str(row["id"]), str(row["id"])

    def _keeps(self, row: Mapping[str, Any]) -> bool:
        return self.category is None or row["category"] == self.category

    def _facts(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {"task": row["category"]}

    @classmethod
    def parsers(cls) -> Mapping[str, Scorer]:
        return {"official": partial(score_official, fallback=False), "strict": score_strict}
