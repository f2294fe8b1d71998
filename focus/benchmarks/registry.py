"""All benchmarks by name, so that a log can be scored again without its data set."""

from __future__ import annotations

from collections.abc import Mapping

from focus.benchmarks.base import AbstractBenchmark
from focus.benchmarks.blink import BLINK
from focus.benchmarks.mantis_eval import MantisEval
from focus.benchmarks.mirb import MIRB
from focus.benchmarks.mmlongbench import MMLongBench
from focus.benchmarks.muirbench import MuirBench
from focus.benchmarks.nlvr2 import NLVR2
from focus.benchmarks.shapes import IndexedQuestion, MinimalPair, SingleImage
from focus.benchmarks.vinoground import Vinoground
from focus.benchmarks.vismin import VisMin
from focus.benchmarks.winoground import Winoground
from focus.errors import UnknownNameError
from focus.scoring import Scorer

BENCHMARKS: dict[str, type[AbstractBenchmark]] = {
    benchmark.name: benchmark
    for benchmark in (
        *(SingleImage, IndexedQuestion, MinimalPair),
        *(Winoground, VisMin, MantisEval, MuirBench),
        *(Vinoground, MIRB, BLINK, NLVR2, MMLongBench),
    )
}


def parsers_of(name: str) -> Mapping[str, Scorer]:
    """Parsers of the benchmark that a record names, with no data set loaded.

    Raises:
        UnknownNameError: there is no such benchmark.
    """
    if name not in BENCHMARKS:
        raise UnknownNameError("benchmark", name, BENCHMARKS)
    return BENCHMARKS[name].parsers()
