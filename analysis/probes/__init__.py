"""Tables and figures of the probes: pure functions of what `focus.probes` has seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis.probes import (
    account,
    behaviour,
    chance,
    entanglement,
    knockout,
    lens,
    linear,
    origin,
    patching,
)

Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class View:
    """How what a probe has seen is shown.

    Args:
        table: records, and the folder that they lie in, to one line for each thing seen, with
            intervals; one column is ``model``.
        figure: of such a table.
        headline: of such a table, the few columns and lines to print.
    """

    table: Callable[[Records, Path], pd.DataFrame]
    figure: Callable[[pd.DataFrame], Figure]
    headline: Callable[[pd.DataFrame], pd.DataFrame]


#: By name of the probe.
VIEWS: dict[str, View] = {
    module.__name__.rpartition(".")[2]: View(module.table, module.figure, module.headline)
    for module in (
        *(behaviour, chance, knockout, patching, account, entanglement, linear, lens),
        origin,
    )
}
