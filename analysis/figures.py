"""Figures: functions from data to a matplotlib figure; none of them runs a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from PIL import Image

ROW_COLOURS = {"plain": "0.55", "reference": "0.75", "FOCUS": "C3"}


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
    figure.suptitle(question, fontsize=10, y=0.99)
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
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.5, 1])
    axes.tick_params(labelsize=7)
    axes.set_xticks(range(len(values)), view.answers, rotation=30, ha="right", fontsize=8)
    axes.grid(axis="x", visible=False)
    best = int(np.argmax(values))
    axes.annotate(
        view.answers[best],
        (best, min(values[best], 0.93)),
        xytext=(0, 1),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=7,
        annotation_clip=False,
    )
