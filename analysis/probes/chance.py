"""Leaked answers against what the confusion matrix of single images gives, see
`focus.probes.chance`.

Of every question, o is whether the answer is true of another view, and e how often the model says
such a value of a view alone that shows what the asked one shows. Values that several other views
have count for each of them by an equal part. The excess is the mean of o - e; its interval is a
bootstrap over clusters, of the answers and of the confusion matrix at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from analysis.figures import COLUMN
from analysis.probes.common import RESAMPLES, observed
from analysis.statistics import wilson_interval
from focus.probes.chance import ALONE
from focus.randomness import generator

COLUMNS = ("id", "cluster", "attribute", "right", "said")
KEYS = ("model", "condition", "by", "value")
#: How questions and their other views are divided.
BY: dict[str, Callable[[Mapping[str, Any]], str | int]] = {
    "all": lambda view: "all",
    "attribute": lambda view: view["attribute"],
    "shared attributes": lambda view: view["shared"],
    "distance": lambda view: view["distance"],
}


def table(records: Sequence[Mapping[str, Any]], folder: Path) -> pd.DataFrame:
    """One line for every model, condition and group of other views.

    Returns:
        ``n`` questions with such a view; ``leaked``, the share of their answers that are true of
        one; ``expected`` of the confusion matrix; ``excess``, the difference, with its interval.
    """
    frame = observed(records)
    lines = []
    for model, own in frame.groupby("model", sort=False):
        alone = own[own["condition"] == ALONE].set_index("id")
        weights = _weights(alone["cluster"])
        for condition, part in own.groupby("condition", sort=False):
            if condition == ALONE:
                continue
            views = _views(part)
            for by, group_of in BY.items():
                groups = views.assign(group=[group_of(view) for view in views.to_dict("records")])
                for value in sorted(groups["group"].unique()):
                    line = _line(groups[groups["group"] == value], alone, weights)
                    cell = {"model": model, "condition": condition, "by": by, "value": str(value)}
                    lines.append({**cell, **line})
    return pd.DataFrame(lines)


def _views(part: pd.DataFrame) -> pd.DataFrame:
    """One line for every other view of every question; ``weight`` shares values among views."""
    rows = []
    for record in part.to_dict("records"):
        values = [view["value"] for view in record["others"]]
        rows += [
            {
                **{name: record[name] for name in COLUMNS},
                **view,
                "weight": 1 / values.count(view["value"]),
            }
            for view in record["others"]
        ]
    return pd.DataFrame(rows)


def _weights(clusters: pd.Series) -> np.ndarray:
    """How often each question is drawn: once, and in every resample; ``[1 + resamples, n]``."""
    codes, names = pd.factorize(clusters)
    drawn = generator(0, "chance").multinomial(
        len(names), np.full(len(names), 1 / len(names)), size=RESAMPLES
    )
    return np.concatenate([np.ones((1, len(codes))), drawn[:, codes]]).astype(float)


def _line(views: pd.DataFrame, alone: pd.DataFrame, weights: np.ndarray) -> dict[str, Any]:
    """Observed, expected and excess of some other views.

    Args:
        views: see `_views`.
        alone: what is said of every question's asked view alone, by question.
        weights: see `_weights`; in the order of `alone`.
    """
    own = views[["attribute", "right"]].to_numpy()
    known = alone[["attribute", "right"]].to_numpy()
    same = (own[:, None, :] == known[None, :, :]).all(-1)  # [views, questions]
    confused = same & (views["value"].to_numpy()[:, None] == alone["said"].to_numpy()[None, :])
    cases = weights @ same.T.astype(float)  # [1 + resamples, views]
    share = weights @ confused.T.astype(float) / np.where(cases > 0, cases, np.nan)
    weight = views["weight"].to_numpy()
    leaked = weight * (views["said"] == views["value"]).to_numpy()
    place = alone.index.get_indexer(views["id"])
    drawn = weights[:, place]
    # A question counts once, however many such views it has.
    first = ~views["id"].duplicated().to_numpy()
    questions = drawn[:, first].sum(1)
    questions = np.where(questions > 0, questions, np.nan)  # none drawn: no such resample
    observed_share = (drawn * leaked).sum(1) / questions
    expected = np.nansum(drawn * weight * share, axis=1) / questions
    excess = observed_share - expected
    low, high = np.nanquantile(excess[1:], [0.025, 0.975])
    if high - low < 1e-9:  # all answers alike: what so many clusters may never show
        unseen = wilson_interval(0, views["cluster"].nunique())[1]
        low, high = excess[0] - unseen, excess[0] + unseen
    return {
        "n": int(first.sum()),
        "leaked": observed_share[0],
        "expected": expected[0],
        "excess": excess[0],
        "low": low,
        "high": high,
    }


def headline(found: pd.DataFrame) -> pd.DataFrame:
    """All questions together, by condition."""
    return found[found["by"] == "all"].drop(columns=["by", "value"])


def figure(found: pd.DataFrame) -> Figure:
    """Excess by attribute, likeness and distance; models side by side, conditions in colours."""
    sns.set_theme(style="whitegrid", context="paper", font_scale=0.8)
    models = list(found["model"].unique())
    shown = found.assign(group=[_name(by, value) for by, value in
                                zip(found["by"], found["value"], strict=True)])  # fmt: skip
    groups, conditions = list(shown["group"].unique()), list(shown["condition"].unique())
    figure, grid = plt.subplots(
        1, len(models), squeeze=False, sharex=True, sharey=True, layout="constrained",
        figsize=(COLUMN, 0.8 + 0.17 * len(groups)),
    )  # fmt: skip
    colours = sns.color_palette("colorblind", len(conditions))
    for axes, model in zip(grid[0], models, strict=True):
        for k, (condition, colour) in enumerate(zip(conditions, colours, strict=True)):
            own = shown[(shown["model"] == model) & (shown["condition"] == condition)]
            places = [groups.index(group) + (k - (len(conditions) - 1) / 2) * 0.18
                      for group in own["group"]]  # fmt: skip
            axes.hlines(places, own["low"], own["high"], color=colour, lw=1)
            axes.plot(own["excess"], places, "o", color=colour, ms=2.5, label=condition)
        axes.axvline(0, color="0.3", lw=0.8)
        axes.set_title(model.replace("-", "\n", 1), fontsize=7)
        axes.tick_params(axis="x", labelsize=6, pad=0)
    grid[0, 0].set_yticks(range(len(groups)), groups, fontsize=6.5)
    grid[0, 0].invert_yaxis()
    figure.supxlabel("leaked answers beyond chance", fontsize=7)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False, fontsize=7)
    return figure


def _name(by: str, value: str) -> str:
    if by == "distance":
        return f"{abs(int(value))} {'behind' if int(value) > 0 else 'before'} the asked"
    return f"{value} attributes shared" if by == "shared attributes" else value
