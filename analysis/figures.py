"""Figures: functions from data to a matplotlib figure; none of them runs a model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from PIL import Image

from analysis.leakage import KINDS


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Writes a figure and forgets it: a grid of runs would pile them up in memory."""
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)


@dataclass(frozen=True)
class BranchView:
    """One model's view of one question.

    Args:
        model: its name.
        rows: per row, its label and the images it was shown; none for the combined row.
        probabilities: per row, the probability of each answer in `answers`.
        answers: candidate answers, and whatever else a row would rather say.
        right: the right answer.
    """

    model: str
    rows: Sequence[tuple[str, Sequence[Image.Image]]]
    probabilities: Mapping[str, Sequence[float]]
    answers: Sequence[str]
    right: str


def branch_figure(question: str, views: Sequence[BranchView]) -> Figure:
    """What each model was shown, row by row, and the answers that each row favours."""
    sns.set_theme(style="whitegrid", context="paper")
    num_rows = max(len(view.rows) for view in views)
    num_images = max(len(images) for view in views for _, images in view.rows)
    figure = plt.figure(figsize=(3.4 + 4.2 * len(views), 1.15 * num_rows + 1.3))
    widths = [0.85] * num_images + [3.0] * len(views)
    grid = figure.add_gridspec(
        num_rows, num_images + len(views), width_ratios=widths, hspace=0.35, wspace=0.22
    )
    for r, (label, images) in enumerate(views[0].rows):
        _show_images(figure, grid, r, label, images, num_images)
    for v, view in enumerate(views):
        for r, (label, _) in enumerate(view.rows):
            axes = figure.add_subplot(grid[r, num_images + v])
            _answer_bars(axes, view, label)
            if r == 0:
                axes.set_title(view.model, fontweight="bold")
            if r < len(view.rows) - 1:
                axes.set_xticklabels([])
            if v > 0:
                axes.set_yticklabels([])
    figure.suptitle(question, fontsize=10, y=0.96)
    return figure


def _show_images(
    figure: Figure, grid: object, r: int, label: str, images: Sequence[Image.Image], width: int
) -> None:
    for k in range(width):
        axes = figure.add_subplot(grid[r, k])  # type: ignore[index]
        axes.set_axis_off()
        if k < len(images):
            axes.imshow(np.asarray(images[k]), interpolation="nearest")
        if r == 0:
            axes.set_title(f"image {k + 1}", fontsize=8)
        if k == 0:
            text = label if images else f"{label}\n(combined)"
            axes.text(
                -0.12, 0.5, text, transform=axes.transAxes, ha="right", va="center", fontsize=9
            )


def _answer_bars(axes: plt.Axes, view: BranchView, label: str) -> None:
    values = list(view.probabilities[label])
    colours = ["C2" if answer == view.right else "0.7" for answer in view.answers]
    axes.bar(range(len(values)), values, color=colours)
    axes.set_ylim(0, 1.25)  # room for the label of a full bar
    axes.set_yticks([0, 0.5, 1])
    axes.tick_params(labelsize=7)
    axes.set_xticks(range(len(values)), view.answers, rotation=30, ha="right", fontsize=8)
    axes.grid(axis="x", visible=False)
    best = int(np.argmax(values))
    axes.annotate(
        view.answers[best],
        (best, values[best]),
        xytext=(0, 1),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=7,
        annotation_clip=False,
    )


def accuracy_figure(rows: Sequence[Mapping[str, object]], metrics: Sequence[str]) -> Figure:
    """Each metric with its 95% interval: a panel for each benchmark that has it, models down.

    Args:
        rows: from `analysis.tables.summarise`.
        metrics: names; benchmarks without a metric have no panel of it.
    """
    sns.set_theme(style="whitegrid", context="paper")
    frame = pd.DataFrame([row for row in rows if row["metric"] in metrics])
    models, decodings = (list(dict.fromkeys(frame[name])) for name in ("model", "decoding"))
    cells = [
        (metric, benchmark)
        for metric in metrics
        for benchmark in dict.fromkeys(frame.loc[frame["metric"] == metric, "benchmark"])
    ]
    figure, panels = _wrapped(len(cells), width=2.9, height=0.7 + 0.3 * len(models))
    for axes, (metric, benchmark) in zip(panels, cells, strict=False):
        part = frame[(frame["metric"] == metric) & (frame["benchmark"] == benchmark)]
        for k, decoding in enumerate(decodings):
            points = part[part["decoding"] == decoding]
            low, high = points["value"] - points["ci_low"], points["ci_high"] - points["value"]
            at = [models.index(name) + 0.16 * (2 * k - len(decodings) + 1)
                  for name in points["model"]]  # fmt: skip
            axes.errorbar(
                points["value"], at, xerr=[low, high], fmt="os^vD"[k % 5], ms=4, capsize=2,
                label=decoding,
            )  # fmt: skip
        axes.set(title=f"{metric}, {benchmark}", xlim=(0, 1), ylim=(len(models) - 0.5, -0.5))
        axes.set_yticks(range(len(models)), models)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    return figure


def behaviour_figure(behaviour: pd.DataFrame) -> Figure:
    """What each kind of row says first, per model (from `analysis.leakage.row_behaviour`)."""
    sns.set_theme(style="whitegrid", context="paper")
    names = list(behaviour["model"].unique())
    figure, panels = _wrapped(len(names), width=2.7, height=1.5)
    for axes, name in zip(panels, names, strict=False):
        table = behaviour[behaviour["model"] == name].pivot(
            index="row", columns="kind", values="share"
        )[list(KINDS)]
        table.plot.barh(
            stacked=True, ax=axes, color=["C2", "C0", "C3", "0.7"], legend=False, width=0.7
        )
        axes.set(title=name, xlabel="", ylabel="", xlim=(0, 1))
    figure.supxlabel("share of rows", fontsize=9)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    return figure


def _wrapped(number: int, *, width: float, height: float) -> tuple[Figure, list[plt.Axes]]:
    """So many panels of one size, at most four side by side, sharing their axes."""
    columns = min(4, number)
    rows = -(-number // columns)
    figure, grid = plt.subplots(
        rows, columns, sharex=True, sharey=True, squeeze=False, layout="constrained",
        figsize=(1.8 + width * columns, 0.3 + height * rows),
    )  # fmt: skip
    panels = list(grid.flat)
    for axes in panels[number:]:
        axes.set_axis_off()
    for axes in panels[max(0, number - columns) : number]:  # the lowest of each column
        axes.tick_params(labelbottom=True)
    return figure, panels[:number]


def contrast_weight_figure(cells: pd.DataFrame) -> Figure:
    """Accuracy against the contrast weight, as generated text and as a ranking of the candidates.

    Args:
        cells: what `experiments.logging.CsvLogger` wrote for a sweep over ``decoding.alpha``.
    """
    sns.set_theme(style="whitegrid", context="paper")
    shown = cells[cells["metric"].isin(["accuracy", "choice accuracy"])].copy()
    shown["alpha"] = shown["overrides"].str.extract(r"decoding\.alpha=([\d.]+)").astype(float)
    shown["read as"] = shown["metric"].map(
        {"accuracy": "generated text", "choice accuracy": "candidate answers"}
    )
    focus = shown[shown["decoding"] == "focus"]
    grid = sns.relplot(
        focus,
        x="alpha",
        y="value",
        hue="read as",
        style="read as",
        markers=True,
        dashes=False,
        col="model",
        row="benchmark",
        kind="line",
        height=2.1,
        aspect=1.7,
    )
    for (benchmark, model), axes in grid.axes_dict.items():
        cell = shown[(shown["benchmark"] == benchmark) & (shown["model"] == model)]
        plain = cell[(cell["decoding"] == "vanilla") & (cell["metric"] == "accuracy")]
        axes.axhline(plain["value"].mean(), color="0.4", ls="--", lw=1, label="plain decoding")
    grid.set_titles("{row_name} · {col_name}").set_axis_labels("contrast weight alpha", "accuracy")
    grid.set(ylim=(0, 1.02))
    return grid.figure
