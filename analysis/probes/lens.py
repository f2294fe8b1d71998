"""Which answer leads at which layer, see `focus.probes.lens`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis.probes.common import grouped, heat_maps, mean, observed, rate

KEYS = ("model", "tokens", "place")


def table(records: Sequence[Mapping[str, Any]], folder: Path) -> pd.DataFrame:
    """One line for every model, group of tokens and place.

    Returns:
        Share of questions in which the right answer leads, ``right_leads``, and in which another
        image's does, ``leaked_leads``; mean probabilities among the choices, ``right`` and
        ``leaked``; all with intervals.
    """
    return grouped(observed(records), KEYS, _line)


def _line(part: pd.DataFrame) -> dict[str, Any]:
    line: dict[str, Any] = {"n": len(part)}
    for kind in ("right", "leaked"):
        known = part[part[kind].notna()]
        leads = rate(known["leads"] == kind, known["cluster"])
        probability = mean(known[kind].astype(float), known["cluster"])
        line |= {f"{kind}_leads": leads["share"], kind: probability["mean"]}
        line |= {f"{kind}_leads_{end}": leads[end] for end in ("low", "high")}
        line |= {f"{kind}_{end}": probability[end] for end in ("low", "high")}
    return line


def headline(found: pd.DataFrame) -> pd.DataFrame:
    """Who leads, without intervals."""
    return found[[*KEYS, "n", "right_leads", "leaked_leads", "right", "leaked"]]


def figure(found: pd.DataFrame) -> Figure:
    """Share of questions in which each answer leads, by tokens and place."""
    names = {"right_leads": "right answer leads", "leaked_leads": "other image's answer leads"}
    long = found.melt(
        id_vars=list(KEYS), value_vars=list(names), var_name="answer"
    ).replace(names)  # fmt: skip
    long = long[long.groupby("answer")["value"].transform(lambda v: v.notna().any())]
    return heat_maps(
        long, rows="tokens", columns="place", value="value", across="answer",
        label="place in the residual stream; share of questions",
    )  # fmt: skip
