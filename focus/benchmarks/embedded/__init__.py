"""Benchmarks of the embedded worlds: each kind of question asked of each world.

The kinds mirror public benchmarks: minimal pairs (VisMin, Winoground, Vinoground), indexed
questions, choices over several images (MuirBench), the leakage probe of the paper, and groups of
six questions about two views (MVH-Bench).
"""

from __future__ import annotations

from focus.benchmarks.embedded.base import (
    AbstractEmbedded,
    AbstractSeveral,
    Draft,
    asked_view,
    view_units,
)
from focus.benchmarks.embedded.counting import Counting
from focus.benchmarks.embedded.indexed import IndexedQuestion
from focus.benchmarks.embedded.matching import MinimalPair
from focus.benchmarks.embedded.mvh import TwoViews
from focus.benchmarks.embedded.odd import OddOneOut
from focus.benchmarks.embedded.probe import LeakageProbe
from focus.benchmarks.embedded.same import SameOrDifferent
from focus.benchmarks.embedded.single import SingleImage
from focus.benchmarks.embedded.which import WhichImage

#: By the second part of a benchmark's name.
KINDS: dict[str, type[AbstractEmbedded]] = {
    benchmark.kind: benchmark
    for benchmark in (
        *(SingleImage, IndexedQuestion, MinimalPair, WhichImage),
        *(OddOneOut, SameOrDifferent, Counting, LeakageProbe, TwoViews),
    )
}

__all__ = [
    "KINDS",
    "AbstractEmbedded",
    "AbstractSeveral",
    "Counting",
    "Draft",
    "IndexedQuestion",
    "LeakageProbe",
    "MinimalPair",
    "OddOneOut",
    "SameOrDifferent",
    "SingleImage",
    "TwoViews",
    "WhichImage",
    "asked_view",
    "view_units",
]
