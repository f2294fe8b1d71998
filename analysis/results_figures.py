"""Figures of docs/results.md: all verdicts, each claim, and when the sum helps."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from analysis.ablation_figures import MARKERS, ends, legend, places
from analysis.ablation_tables import setting_text, sorted_settings
from analysis.comparisons import HOLDS, OPEN, REVERSED, by_kind
from analysis.outcomes import Outcome


def abstention_figure(points: pd.DataFrame) -> Figure:
    """What FOCUS gains against how often off-target branches abstain, a panel for each rule.

    Args:
        points: of `analysis.findings.abstention_points`: rule, unknown, delta with interval,
            num_images; a point for each model, world and number of images.
    """
    sns.set_theme(style="whitegrid", context="paper")
    rules = list(dict.fromkeys(points["rule"]))
    numbers = sorted(set(points["num_images"]))
    palette = dict(zip(numbers, sns.color_palette("viridis", len(numbers)), strict=True))
    figure, panels = plt.subplots(
        1, len(rules), figsize=(0.8 + 3.6 * len(rules), 3.2), sharey=True, sharex=True,
        squeeze=False, layout="constrained",
    )  # fmt: skip
    for axes, rule in zip(panels.flat, rules, strict=True):
        for number, part in points[points["rule"] == rule].groupby("num_images"):
            axes.errorbar(
                part["unknown"], part["delta"], color=palette[number], fmt="o", ms=4, lw=0.7,
                yerr=ends(part, "delta", "delta_low", "delta_high"), label=f"N = {number}",
            )  # fmt: skip
        axes.axhline(0, color="0.25", lw=0.8)
        axes.set(
            title=setting_text(rule),
            xlabel='off-target branches that say "unknown"',
            xlim=(-0.04, 1.04),
        )
    panels[0][0].set_ylabel("difference to plain")
    legend(figure)
    return figure


def effect_figure(outcomes: Sequence[Outcome], kinds: Mapping[str, str]) -> Figure:
    """Differences of tests: a panel for each, conditions across, a marker for each model in the
    colour of its kind, with 95% intervals.

    Args:
        outcomes: each with something to compare.
        kinds: by model.
    """
    sns.set_theme(style="whitegrid", context="paper", rc={"axes.titlesize": 8})
    names = sorted({kinds[model] for each in outcomes for model in each.words})
    palette = dict(zip(names, sns.color_palette("colorblind", len(names)), strict=True))
    columns = min(len(outcomes), 4 if len(outcomes) == 4 else 3)
    rows = -(-len(outcomes) // columns)
    figure, panels = plt.subplots(
        rows, columns, sharey=True, squeeze=False, layout="constrained",
        figsize=(1.4 + 2.6 * columns, 0.5 + 2.1 * rows),
    )  # fmt: skip
    for axes in panels.flat[len(outcomes) :]:
        axes.set_axis_off()
    for axes, found in zip(panels.flat, outcomes, strict=False):
        across, models = found.test.across, by_kind(found.words, kinds)
        levels = sorted_settings(found.cells[across])
        numeric = all(isinstance(level, int | float) for level in levels)
        for i, model in enumerate(models):
            part = found.cells[found.cells["model"] == model].sort_values(across, kind="stable")
            axes.errorbar(
                places(part[across], levels, i, len(models)), part["delta"],
                yerr=ends(part, "delta", "delta_low", "delta_high"), color=palette[kinds[model]],
                marker=MARKERS[i % len(MARKERS)], ms=3, lw=0.7, elinewidth=0.7, label=kinds[model],
                ls="-" if numeric and len(levels) > 1 else "none",
            )  # fmt: skip
        axes.axhline(0, color="0.25", lw=0.8)
        axes.grid(axis="x", visible=False)
        axes.set_title(textwrap.fill(found.test.label, 40))
        turn = {} if numeric else {"rotation": 30, "ha": "right"}
        axes.set_xticks(range(len(levels)), [*map(setting_text, levels)], fontsize=7, **turn)
        axes.set_xlim(-0.6, len(levels) - 0.4)
        axes.set_xlabel(across.replace("_", " ") if numeric else "", fontsize=7.5)
    figure.supylabel("difference", fontsize=9)
    legend(figure)
    return figure


#: Colours of a claim that holds, is reversed or stays open.
VERDICT_COLOURS = {HOLDS: "C2", REVERSED: "C3", OPEN: "0.85"}


def verdict_figure(frame: pd.DataFrame) -> Figure:
    """What became of every claim on every model: tests down, models across.

    Args:
        frame: of `analysis.outcomes.verdict_frame`. The number in a field is the difference that
            its word is made from.
    """
    sns.set_theme(style="white", context="paper")
    models = list(dict.fromkeys(frame["model"]))
    tests = list(dict.fromkeys(zip(frame["claim"], frame["label"], strict=True)))
    figure, axes = plt.subplots(
        figsize=(6.6 + 0.55 * len(models), 1.6 + 0.22 * len(tests)), layout="constrained"
    )
    grid = np.full((len(tests), len(models)), np.nan)
    for row in frame.to_dict("records"):
        at = tests.index((row["claim"], row["label"])), models.index(row["model"])
        grid[at] = list(VERDICT_COLOURS).index(row["word"])
        axes.text(at[1], at[0], f"{row['delta']:+.2f}", ha="center", va="center", fontsize=6.5)
    palette = ListedColormap([
        colour if word == OPEN else sns.light_palette(colour)[3]
        for word, colour in VERDICT_COLOURS.items()
    ])  # fmt: skip
    axes.imshow(grid, cmap=palette, vmin=0, vmax=len(VERDICT_COLOURS) - 1, aspect="auto")
    for k in range(1, len(tests)):
        if tests[k][0] != tests[k - 1][0]:  # another claim
            axes.axhline(k - 0.5, color="0.25", lw=0.8)
    axes.set_xticks(range(len(models)), models, rotation=45, ha="right", fontsize=7.5)
    axes.set_yticks(range(len(tests)), [f"{n}. {label}" for n, label in tests], fontsize=7)
    for k, name in enumerate(VERDICT_COLOURS):
        axes.plot([], [], ls="none", marker="s", color=palette(k), ms=8, label=name)
    legend(figure)
    return figure
