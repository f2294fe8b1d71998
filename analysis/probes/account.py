"""What FOCUS's gain is made of, see `focus.probes.account`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from analysis.figures import COLUMN
from analysis.probes.common import mean, observed
from focus.probes.account import EXACT, NEEDS, STEPS

#: Kind of answer that each measure counts.
MEASURES = {"accuracy": "right", "leakage": "leaked"}
#: Lines beside the steps: where it starts, all steps together, and the bound: the others hidden
#: from the text by someone who knows which image is asked.
PLAIN, WHOLE, KNOWN = "plain", "focus", "asked image known"
LINES = (*STEPS, EXACT, WHOLE)

Steps = tuple[str, ...]


def orders() -> Iterator[Steps]:
    """Orders of the steps in which each comes after what it needs: 40."""
    for order in itertools.permutations(STEPS):
        if all(order.index(NEEDS.get(step, step)) <= order.index(step) for step in STEPS):
            yield order


def table(records: Sequence[Mapping[str, Any]], folder: Path) -> pd.DataFrame:
    """One line for every model, measure and part.

    A step brings what it changes when it is added, on average over all orders: the Shapley value of
    a game with precedence (Faigle and Kern, 1992). ``exact`` comes last in all of them; the lines
    before ``focus`` add up to it.

    Returns:
        ``change`` against plain decoding (of ``plain``, the share itself) with its 95% interval
        (bootstrap over clusters), ``least`` and ``most`` of any order, and ``moved``, the share of
        answers that it changes either way.
    """
    frame = observed(records)
    frame["steps"] = frame["steps"].map(tuple)
    rows = []
    for model, part in frame.groupby("model", sort=False):
        clusters = part.groupby("id", sort=False)["cluster"].first()
        for measure, kind in MEASURES.items():
            hits = part.assign(hit=(part["kind"] == kind).astype(float))
            cells = hits.pivot(index="id", columns="steps", values="hit").loc[clusters.index]
            values = {steps: cells[[steps]].iloc[:, 0] for steps in cells}
            for line, changes in _parts(values).items():
                found = mean(sum(changes) / len(changes), clusters)
                means = [float(change.mean()) for change in changes]
                rows.append({
                    "model": model, "measure": measure, "part": line, "n": found["n"],
                    "change": found["mean"], "low": found["low"], "high": found["high"],
                    "least": min(means), "most": max(means),
                    "moved": float(sum(abs(change) for change in changes).mean()) / len(changes),
                })  # fmt: skip
    return pd.DataFrame(rows)


def _parts(values: Mapping[Steps, pd.Series]) -> dict[str, list[pd.Series]]:
    """What every part changes of each question, in every order."""
    everything = values[STEPS]
    focus = values[*STEPS, EXACT]
    found: dict[str, list[pd.Series]] = {PLAIN: [values[()]]} | {step: [] for step in STEPS}
    for order in orders():
        for k, step in enumerate(order):
            before, after = (_sorted(order[:end]) for end in (k, k + 1))
            found[step].append(values[after] - values[before])
    found |= {EXACT: [focus - everything], WHOLE: [focus - values[()]]}
    return found | {KNOWN: [values["hidden",] - values[()]]}


def _sorted(steps: Sequence[str]) -> Steps:
    return tuple(step for step in STEPS if step in steps)


def headline(found: pd.DataFrame) -> pd.DataFrame:
    """Changes alone."""
    return found.drop(columns=["least", "most", "moved"])


def figure(found: pd.DataFrame) -> Figure:
    """From plain decoding to FOCUS, part by part: a column of panels for every model."""
    sns.set_theme(style="whitegrid", context="paper")
    models = list(found["model"].unique())
    figure, grid = plt.subplots(
        len(MEASURES), len(models), squeeze=False, sharey=True, sharex="row", layout="constrained",
        figsize=(COLUMN, 3.0),
    )  # fmt: skip
    up, down, whole = (sns.color_palette("colorblind")[k] for k in (0, 3, 7))
    for axes_row, measure in zip(grid, MEASURES, strict=True):
        for axes, model in zip(axes_row, models, strict=True):
            own = found[(found["model"] == model) & (found["measure"] == measure)]
            own = own.set_index("part").loc[list(LINES)]
            change = own["change"].to_numpy()
            left = np.append(np.cumsum(change[:-1]) - change[:-1], 0)
            colours = [whole if part == WHOLE else up if value >= 0 else down
                       for part, value in zip(LINES, change, strict=True)]  # fmt: skip
            places = range(len(LINES))
            axes.barh(places, change, left=left, color=colours, height=0.7)
            axes.hlines(places, left + own["low"], left + own["high"], color="0.15", lw=0.8)
            axes.axvline(0, color="0.3", lw=0.8)
            axes.set_yticks(places, LINES, fontsize=7)
            axes.tick_params(labelsize=7, length=0)
            axes.set_xlabel(f"{measure}, change", fontsize=7)
            axes.set_title(model.replace("-", "\n", 1) if measure == "accuracy" else "", fontsize=7)
    grid[0, 0].invert_yaxis()
    return figure
