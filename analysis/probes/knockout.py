"""What moves when an attention edge is cut, see `focus.probes.knockout`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis.probes.common import grouped, heat_maps, mean, observed, rate
from focus.probes.knockout import EDGES, NOTHING

KEYS = ("model", "edge", "layers")


def table(records: Sequence[Mapping[str, Any]], folder: Path) -> pd.DataFrame:
    """One line for every model, edge and window of layers.

    Returns:
        Of the answers that leak (or are right) while nothing is cut: their number, ``leaked_n``
        (``right_n``), and the share that another answer takes the place of, ``leaked_moved``
        (``right_moved``) with its interval; ``leaked_right``, the share of the former that become
        right; ``accuracy`` and ``leakage`` after the cut, and their ``.._change`` with intervals,
        over the questions that have the edge (``n``).
    """
    frame = observed(records)
    frame["layers"] = [window_name(window) for window in frame["layers"]]
    plain = frame[frame["edge"] == NOTHING].set_index(["model", "id"])[["said", "kind"]]
    cut = frame[frame["edge"] != NOTHING].join(
        plain.rename(columns={"said": "said_before", "kind": "before"}), on=["model", "id"]
    )
    # All layers together carry the same name in every model, whatever their number.
    most = cut.groupby("model")["layers"].transform("first")
    cut["layers"] = cut["layers"].where(cut["layers"] != most, "all")
    order = {name: k for k, name in enumerate(EDGES)}
    cut = cut.sort_values("edge", key=lambda names: names.map(order), kind="stable")
    cut = cut.sort_values(
        "model", key=lambda names: names.map(_order(frame["model"])), kind="stable"
    )
    return grouped(cut, KEYS, _line)


def _order(names: pd.Series) -> dict[str, int]:
    """Place of each name, in order of first appearance."""
    return {name: k for k, name in enumerate(names.unique())}


def window_name(window: Sequence[int]) -> str:
    """Layers in words.

    >>> window_name([2, 3, 4]), window_name([1])
    ('2-4', '1')
    """
    if len(window) < 2:
        return "".join(map(str, window))
    return f"{window[0]}-{window[-1]}"


def _line(part: pd.DataFrame) -> dict[str, Any]:
    line: dict[str, Any] = {"n": len(part)}
    for kind in ("leaked", "right"):
        of = part[part["before"] == kind]
        moved = rate(of["said"] != of["said_before"], of["cluster"])
        line |= {f"{kind}_n": moved["n"], f"{kind}_moved": moved["share"]}
        line |= {f"{kind}_moved_{end}": moved[end] for end in ("low", "high")}
        if kind == "leaked":
            line["leaked_right"] = (
                float((of["kind"] == "right").mean()) if len(of) else float("nan")
            )
    for name, kind in (("accuracy", "right"), ("leakage", "leaked")):
        after, before = part["kind"] == kind, part["before"] == kind
        change = mean(after.astype(float) - before.astype(float), part["cluster"])
        line |= {name: float(after.mean()), f"{name}_change": change["mean"]}
        line |= {f"{name}_change_{end}": change[end] for end in ("low", "high")}
    return line


def headline(found: pd.DataFrame) -> pd.DataFrame:
    """Cuts in all layers."""
    columns = ["model", "edge", "n", "leaked_n", "leaked_moved", "leaked_moved_low",
               "leaked_moved_high", "right_n", "right_moved", "right_moved_low", "right_moved_high",
               "leakage_change", "accuracy_change"]  # fmt: skip
    return found.loc[found["layers"] == "all", columns]


def figure(found: pd.DataFrame) -> Figure:
    """Share of leaked and of right answers that moves, by edge and window."""
    long = found.melt(
        id_vars=list(KEYS), value_vars=["leaked_moved", "right_moved"], var_name="answers"
    ).replace({"leaked_moved": "leaked answers", "right_moved": "right answers"})
    # Where nothing has leaked (or no image is named) there is nothing to move.
    long = long[long.groupby("answers")["value"].transform(lambda v: v.notna().any())]
    return heat_maps(
        long, rows="edge", columns="layers", value="value", across="answers",
        label="layers in which the edge is cut: share of answers that moves",
    )  # fmt: skip
