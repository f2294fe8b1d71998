"""All benchmarks by name, so that a log can be scored again without its data set."""

from __future__ import annotations

from collections.abc import Mapping

from focus.benchmarks.base import AbstractBenchmark
from focus.benchmarks.blink import BLINK
from focus.benchmarks.embedded import KINDS, AbstractEmbedded
from focus.benchmarks.hub import AbstractHubBenchmark
from focus.benchmarks.mantis_eval import MantisEval
from focus.benchmarks.mirb import MIRB
from focus.benchmarks.mmlongbench import MMLongBench
from focus.benchmarks.muirbench import MuirBench
from focus.benchmarks.mvh_bench import MVHBench
from focus.benchmarks.nlvr2 import NLVR2
from focus.benchmarks.vinoground import Vinoground
from focus.benchmarks.vismin import VisMin
from focus.benchmarks.winoground import Winoground
from focus.errors import UnknownNameError
from focus.scoring import Scorer
from focus.worlds import WORLDS

_HUB: tuple[type[AbstractHubBenchmark], ...] = (
    *(Winoground, VisMin, MantisEval, MuirBench),
    *(Vinoground, MIRB, BLINK, NLVR2, MMLongBench, MVHBench),
)
#: The benchmarks that need no data: one of each kind for each world.
EMBEDDED: dict[str, type[AbstractEmbedded]] = {
    f"{world}_{kind}": benchmark for world in WORLDS for kind, benchmark in KINDS.items()
}
BENCHMARKS: dict[str, type[AbstractBenchmark]] = {
    **EMBEDDED,
    **{benchmark.name: benchmark for benchmark in _HUB},
}


def parsers_of(name: str) -> Mapping[str, Scorer]:
    """Parsers of the benchmark that a record names, with no data set loaded.

    Raises:
        UnknownNameError: there is no such benchmark.
    """
    if name not in BENCHMARKS:
        raise UnknownNameError("benchmark", name, BENCHMARKS)
    return BENCHMARKS[name].parsers()
