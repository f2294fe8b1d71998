"""Figures of the report of the embedded models, from the frames of `analysis.zoo`."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.zoo import MODEL, focus_points, kind_of, select
from analysis.zoo_ladder import AXES, ladder_lines, ladder_points
from focus.marks import CANDIDATES
from focus.zoo.evaluation import FOCUS, PLAIN

MARKERS = "os^vD*P"
DASHES = {PLAIN: "-", FOCUS: "--"}
NAMES = {PLAIN: "plain", FOCUS: "FOCUS"}


def by_number_figure(
    frame: pd.DataFrame, records: Sequence[Mapping[str, Any]], metric: str
) -> Figure:
    """A rate on indexed questions against N: a row per family, a column per world.

    Colour tells where a model learned to abstain, the marker its seed; bands are 95% intervals.

    Args:
        frame: from `analysis.zoo.models_frame`.
        records: the models, for their kinds.
        metric: "accuracy" or "leakage".
    """
    sns.set_theme(style="whitegrid", context="paper")
    cells = select(frame, kind="indexed", reading=CANDIDATES, metric=metric)
    kinds = {record["name"]: kind_of(record) for record in records}
    palette = _colours(kinds.values())
    markers = dict(zip(sorted(cells["seed"].unique()), itertools.cycle(MARKERS), strict=False))
    families, worlds = list(dict.fromkeys(cells["family"])), list(dict.fromkeys(cells["world"]))
    numbers = {world: sorted(set(select(cells, world=world)["num_images"])) for world in worlds}
    widths = [1.0 + 0.27 * (len(each) - 1) for each in numbers.values()]
    figure, panels = plt.subplots(
        len(families),
        len(worlds),
        figsize=(sum(widths) + 0.6, 2.1 * len(families) + 0.6),
        sharex="col",
        sharey=True,
        squeeze=False,
        width_ratios=widths,
    )
    for i, family in enumerate(families):
        for j, world in enumerate(worlds):
            axes = panels[i][j]
            part = select(cells, family=family, world=world)
            lines = list(part.groupby(["model", "decoding"], sort=False))
            for k, ((model, decoding), line) in enumerate(lines):
                # Side by side where there is one number only.
                shift = 0.0 if len(numbers[world]) > 1 else (k + 0.5) / len(lines) - 0.5
                colour, marker = palette[kinds[model]], markers[line["seed"].iloc[0]]
                _line(axes, line, colour, marker, decoding, shift)
            axes.set(ylim=(-0.03, 1.03), xticks=numbers[world])
            axes.set_xlim(numbers[world][0] - 0.6, numbers[world][-1] + 0.6)
            if i == 0:
                axes.set_title(world, fontweight="bold")
            if j == 0:
                axes.set_ylabel(f"{family}\n{metric}")
            if i == len(families) - 1:
                axes.set_xlabel("images N")
    handles = [Line2D([], [], color=colour, label=kind) for kind, colour in palette.items()]
    handles += [
        Line2D([], [], color="0.3", ls=DASHES[decoding], label=NAMES[decoding])
        for decoding in (PLAIN, FOCUS)
    ]
    handles += [
        Line2D([], [], color="0.3", ls="", marker=marker, ms=4, label=f"seed {seed}")
        for seed, marker in markers.items()
    ]
    figure.tight_layout()
    _legend_below(figure, handles)
    return figure


def _line(
    axes: plt.Axes, line: pd.DataFrame, colour: Any, marker: str, decoding: str, shift: float
) -> None:
    ordered = line.sort_values("num_images")
    x, y = ordered["num_images"].to_numpy() + shift, ordered["value"].to_numpy()
    low, high = ordered["low"].to_numpy(), ordered["high"].to_numpy()
    if len(x) == 1:  # a band has no width there
        axes.errorbar(x, y, yerr=_both_sides(y, low, high), color=colour, fmt="none", lw=1)
    else:
        axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
    face = colour if decoding == PLAIN else "white"
    axes.plot(
        x, y, color=colour, ls=DASHES[decoding], lw=1.2, marker=marker, ms=3.5, mfc=face, mew=0.8
    )


def abstention_figure(frame: pd.DataFrame, ladder: pd.DataFrame) -> Figure:
    """FOCUS minus plain at two images against how often off-target branches abstain."""
    sns.set_theme(style="whitegrid", context="paper")
    points = focus_points(frame, MODEL)
    runs = ladder_points(ladder) if len(ladder) else pd.DataFrame()
    worlds = list(dict.fromkeys([*points["world"], *runs.get("world", [])]))
    palette = _colours(worlds)
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), sharex=True, sharey=True)
    titles = {"": "indexed questions", "pairs_": "minimal pairs, image score"}
    for axes, (prefix, title) in zip(panels, titles.items(), strict=True):
        for table, marker, filled in ((runs, "D", False), (points, "o", True)):
            for _, row in table.iterrows():
                colour = palette[row["world"]]
                value = row[f"{prefix}delta"]
                ends = (row[f"{prefix}delta_low"], row[f"{prefix}delta_high"])
                axes.errorbar(
                    row["off_unknown"],
                    value,
                    yerr=_both_sides(value, *ends),
                    fmt=marker,
                    ms=5 if filled else 4,
                    color=colour,
                    mfc=colour if filled else "white",
                    lw=0.8,
                    alpha=0.9 if filled else 0.6,
                )
        axes.axhline(0, color="0.3", lw=1)
        axes.set(title=title, xlabel='off-target branches that say "unknown"', xlim=(-0.04, 1.04))
    panels[0].set_ylabel("FOCUS minus plain, N = 2")
    handles = [
        Line2D([], [], color=colour, marker="o", ls="", label=name)
        for name, colour in palette.items()
    ]
    if len(runs):
        handles += [
            Line2D([], [], color="0.3", marker="o", ls="", label="model"),
            Line2D([], [], color="0.3", marker="D", mfc="white", ls="", label="ladder run"),
        ]
    figure.tight_layout()
    _legend_below(figure, handles)
    return figure


def ladder_figure(ladder: pd.DataFrame) -> Figure:
    """Leakage and FOCUS minus plain along both axes: means as lines, single seeds as points."""
    sns.set_theme(style="whitegrid", context="paper")
    points = ladder_points(ladder)
    measures = {
        "plain_leakage": "leakage of plain decoding, N = 2",
        "delta": "FOCUS minus plain, N = 2",
    }
    figure, panels = plt.subplots(2, len(AXES), figsize=(9.5, 6.6), sharey="row", sharex="col")
    for column, (axis, (along, _)) in enumerate(AXES.items()):
        order = "clean_multi" if along == "clean_multi" else "step"
        lines = ladder_lines(points, axis)
        places = sorted({value for _, line in lines for value in line[order]})
        names = {
            row[order]: f"{row[along]:.0%}" if along == "clean_multi" else row[along]
            for _, line in lines
            for _, row in line.iterrows()
        }
        palette = _colours([label for label, _ in lines])
        for i, (measure, name) in enumerate(measures.items()):
            axes = panels[i][column]
            for k, (label, line) in enumerate(lines):
                shift = 0.06 * (k - (len(lines) - 1) / 2)  # or intervals would hide each other
                x = np.array([places.index(value) for value in line[order]]) + shift
                _seeds(axes, x, line, measure, palette[label])
                means = line.groupby(order)[measure].mean()
                centres = np.array([places.index(value) for value in means.index]) + shift
                axes.plot(centres, means, color=palette[label], lw=1.6, label=label)
            if measure == "delta":
                axes.axhline(0, color="0.3", lw=1)
                axes.set_xticks(range(len(places)), [_stacked(names[place]) for place in places])
                axes.set_xlabel(axis if column else f"share of questions about {axis}")
            if column == 0:
                axes.set_ylabel(name)
        panels[0][column].set_ylim(bottom=-0.02)
        if lines:
            panels[0][column].legend(
                title="held fixed", loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2,
                frameon=False, fontsize=7.5,
            )  # fmt: skip
    figure.tight_layout()
    return figure


def _stacked(label: str) -> str:
    """Two words a line, for the labels of an axis."""
    words = label.split()
    return "\n".join(" ".join(words[i : i + 2]) for i in range(0, len(words), 2))


def _seeds(axes: plt.Axes, x: np.ndarray, line: pd.DataFrame, measure: str, colour: Any) -> None:
    y = line[measure].to_numpy()
    if measure == "delta":
        ends = _both_sides(y, line["delta_low"].to_numpy(), line["delta_high"].to_numpy())
        axes.errorbar(x, y, yerr=ends, fmt="none", color=colour, lw=0.8, alpha=0.5)
    axes.plot(x, y, ls="", marker="o", ms=4, color=colour, mfc="white")


def _both_sides(value: Any, low: Any, high: Any) -> np.ndarray:
    """Lengths of error bars; rounding may put an end on the wrong side of its value."""
    return np.maximum(0, np.array([value - low, high - value])).reshape(2, -1)


def _colours(names: Any) -> dict[str, Any]:
    unique = list(dict.fromkeys(names))
    return dict(zip(unique, sns.color_palette("colorblind", len(unique)), strict=True))


def _legend_below(figure: Figure, handles: list[Line2D]) -> None:
    figure.legend(
        handles=handles,
        loc="upper center",
        bbox_to_anchor=(0.5, 0),
        ncol=min(4, len(handles)),
        frameon=False,
    )
