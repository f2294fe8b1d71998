"""Winoground: two images, and two captions of the same words in another order.

Paper: https://arxiv.org/abs/2204.03162 (Thrush et al., CVPR 2022).
Data: https://huggingface.co/datasets/facebook/winoground, split test, 400 rows, about 370 MB.
Licence: research only (images by Getty Images). GATED: accept the conditions on the hub first.

The data set has no prompts of its own for generative models: `strict` asks as the authors of
VisMin do, see `focus.benchmarks.pairs`. The published score compares similarities of all four
combinations, which has no counterpart in generated text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, final

from focus.benchmarks.pairs import AbstractPairBenchmark, score_official, score_strict
from focus.benchmarks.source import DataSource
from focus.scoring import Scorer


@final
@dataclass(frozen=True)
class Winoground(AbstractPairBenchmark):
    """Winoground; see the module for data and licence, `AbstractHubBenchmark` for the settings.

    ``metadata["task"]`` is the tag (Object, Relation, Both).
    """

    name: ClassVar[str] = "winoground"
    source: ClassVar[DataSource] = DataSource(
        name="winoground",
        repo="facebook/winoground",
        revision="b400e173549071916ad1b3d449293bc8d8b4b763",
        splits=("test",),
        fields={
            "id": "id",
            "image_0": "image",
            "image_1": "image",
            "caption_0": "string",
            "caption_1": "string",
        },
        optional={
            "tag": "string",
            "secondary_tag": "string",
            "num_main_preds": "integer",
            "collapsed_tag": "string",
        },
        size={"test": 400},
        gated=True,
        paper="https://arxiv.org/abs/2204.03162",
        licence="research only (Getty Images)",
    )
    index_fields: ClassVar[tuple[str, ...]] = ("id",)
    caption_fields: ClassVar[tuple[str, str]] = ("caption_0", "caption_1")

    def _identity(self, row: Mapping[str, Any]) -> tuple[str, str]:
        return str(row["id"]), str(row["id"])

    def _facts(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "task": row.get("collapsed_tag") or "",
            "tag": row.get("tag") or "",
            "secondary_tag": row.get("secondary_tag") or "",
        }

    @classmethod
    def parsers(cls) -> Mapping[str, Scorer]:
        return {"official": partial(score_official, fallback=True), "strict": score_strict}
