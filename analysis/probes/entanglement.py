"""How alike the states of different images are, see `focus.probes.entanglement`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from analysis.figures import COLUMN
from analysis.probes.common import grouped, mean, observed

KEYS = ("model", "condition", "place")


def table(records: Sequence[Mapping[str, Any]], folder: Path) -> pd.DataFrame:
    """One line for every model, condition and place; the last place is the LM head's input.

    Returns:
        ``cosine`` with its interval, and ``change``: how much more it is than for the same
        question's images alone, with its interval (paired).
    """
    frame = observed(records)
    alone = frame[frame["condition"] == "alone"].set_index(["model", "id", "place"])["cosine"]
    frame = frame.join(alone.rename("alone"), on=["model", "id", "place"])
    return grouped(frame, KEYS, _line)


def _line(part: pd.DataFrame) -> dict[str, Any]:
    own = mean(part["cosine"], part["cluster"])
    change = mean(part["cosine"] - part["alone"], part["cluster"])
    line = {"n": own["n"], "cosine": own["mean"], "low": own["low"], "high": own["high"]}
    line["change"] = change["mean"]
    return line | {f"change_{end}": change[end] for end in ("low", "high")}


def headline(found: pd.DataFrame) -> pd.DataFrame:
    """At the LM head's input."""
    last = found.groupby("model")["place"].transform("max")
    return found[found["place"] == last].drop(columns="place")


def figure(found: pd.DataFrame) -> Figure:
    """Cosine by place, a line for each condition."""
    sns.set_theme(style="whitegrid", context="paper")
    models = list(found["model"].unique())
    figure, grid = plt.subplots(
        1, len(models), squeeze=False, sharey=True, layout="constrained", figsize=(COLUMN, 2.2)
    )
    colours = dict(
        zip(found["condition"].unique(), sns.color_palette("colorblind", 10), strict=False)
    )
    for axes, model in zip(grid[0], models, strict=True):
        for condition, part in found[found["model"] == model].groupby("condition", sort=False):
            dashed = condition not in ("together", "alone", "focus")
            axes.plot(
                part["place"], part["cosine"], color=colours[condition], label=condition,
                marker=".", ms=3, lw=1, ls=":" if dashed else "-",
            )  # fmt: skip
            axes.fill_between(
                part["place"], part["low"], part["high"], color=colours[condition], alpha=0.2, lw=0
            )
        last = int(found.loc[found["model"] == model, "place"].max())
        axes.set_xticks([0, last - 1, last], ["0", str(last - 1), "head"])
        axes.set_title(model.replace("-", "\n", 1), fontsize=7)
        axes.tick_params(labelsize=6, pad=0)
    figure.supxlabel("place in the residual stream", fontsize=7)
    grid[0, 0].set_ylabel("cosine between images", fontsize=7)
    figure.legend(
        *grid[0, 0].get_legend_handles_labels(), loc="outside upper center", frameon=False,
        fontsize=6.5, ncols=3, handlelength=1.6, columnspacing=1.2,
    )  # fmt: skip
    return figure
