"""Figures: functions from data to a matplotlib figure; none of them runs a model."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from analysis.leakage import KINDS, kind_of_word

#: Of a figure's file, in pixels: about what a page shows it at.
WIDTH = 1100
#: Pixels per inch of a figure that is narrower, and of one for a column of a paper, whose letters
#: are small; the width of such a column, in inches (8.6 cm).
DPI, COLUMN_DPI = 150, 220
COLUMN = 3.4


def save_figure(
    figure: Figure, path: str | os.PathLike[str], pdf: str | os.PathLike[str] | None = None
) -> None:
    """Writes a figure as PNG and forgets it: a grid of runs would pile them up in memory.

    As wide as a page shows it, and in at most 256 colours: a third of the bytes, which stay in the
    history of the repository.

    Args:
        figure: closed afterwards.
        path: of the PNG.
        pdf: of a PDF to print, in the size that the figure has; None for none.
    """
    buffer = io.BytesIO()
    width = figure.get_figwidth()
    dpi = min(DPI if width > COLUMN + 0.5 else COLUMN_DPI, WIDTH / width)
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight")
    if pdf is not None:
        figure.savefig(pdf, format="pdf", bbox_inches="tight", metadata={"CreationDate": None})
    plt.close(figure)
    with Image.open(buffer) as drawn:
        drawn.convert("RGB").quantize(dither=Image.Dither.NONE).save(path, "PNG", optimize=True)


#: What is said, as `analysis.leakage` sorts it.
COLOURS = dict(zip(KINDS, ("C2", "C0", "C3", "0.7"), strict=True))


@dataclass(frozen=True)
class Row:
    """One row of a question: what it was shown and what it would say first.

    Args:
        label: its name.
        images: what it was shown; none for the combined row.
        said: probability of each first word.
    """

    label: str
    images: Sequence[Image.Image]
    said: Mapping[str, float]

    @property
    def favourite(self) -> str:
        """The most likely word."""
        return max(self.said, key=lambda word: self.said[word])


@dataclass(frozen=True)
class BranchView:
    """One model's view of one question.

    Args:
        model: its name.
        rows: the same for all models.
    """

    model: str
    rows: Sequence[Row]


def branch_figure(
    question: str,
    views: Sequence[BranchView],
    *,
    right: str,
    leaks: Sequence[str],
    choices: Sequence[str],
) -> Figure:
    """What each model was shown, row by row, and the answers that each row favours.

    Args:
        question: the title.
        views: one per model.
        right: the right answer.
        leaks: answers that another image makes true.
        choices: candidate answers; whatever else a row would rather say is shown beside them.
    """
    sns.set_theme(style="whitegrid", context="paper")
    favourites = [row.favourite for view in views for row in view.rows]
    answers = list(dict.fromkeys([right, *leaks, *choices, *favourites]))
    colours = [COLOURS[kind_of_word(answer, right, leaks)] for answer in answers]
    rows, columns = views[0].rows, max(len(row.images) for row in views[0].rows)
    figure, grid = plt.subplots(
        len(rows), columns + len(views), width_ratios=[0.62] * columns + [1.7] * len(views),
        figsize=(0.8 + 0.95 * columns + 2.1 * len(views), 0.95 * len(rows) + 0.9),
        layout="constrained", squeeze=False,
    )  # fmt: skip
    for r, row in enumerate(rows):
        _show_images(list(grid[r, :columns]), row, first=r == 0)
        for axes, view in zip(grid[r, columns:], views, strict=True):
            _answer_bars(axes, view.rows[r], answers, colours)
            axes.set_title(view.model if r == 0 else "", fontsize=10, fontweight="bold")
            if r < len(rows) - 1:
                axes.set_xticklabels([])
            if view is not views[0]:
                axes.set_yticklabels([])
    handles = [Patch(color=colour, label=kind) for kind, colour in COLOURS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.suptitle(question, fontsize=11)
    return figure


def _show_images(panels: Sequence[plt.Axes], row: Row, *, first: bool) -> None:
    for k, axes in enumerate(panels):
        axes.set_axis_off()
        if k < len(row.images):
            axes.imshow(np.asarray(row.images[k]), interpolation="nearest")
        if first:
            axes.set_title(f"image {k + 1}", fontsize=9)
    text = row.label if row.images else f"{row.label}\n(combined)"
    panels[0].text(
        -0.12, 0.5, text, transform=panels[0].transAxes, ha="right", va="center", fontsize=9
    )


def _answer_bars(axes: plt.Axes, row: Row, answers: Sequence[str], colours: Sequence[str]) -> None:
    values = [row.said.get(answer, 0.0) for answer in answers]
    axes.bar(range(len(values)), values, color=colours)
    axes.set_xlim(-0.8, len(values) - 0.2)
    axes.set_ylim(0, 1.35)  # room for the label of a full bar
    axes.set_yticks([0, 0.5, 1])
    axes.tick_params(labelsize=8)
    axes.set_xticks(range(len(values)), answers, rotation=35, ha="right", fontsize=9)
    axes.grid(axis="x", visible=False)
    best = answers.index(row.favourite)
    axes.annotate(
        row.favourite, (best, values[best]), xytext=(0, 1), textcoords="offset points",
        ha="center", va="bottom", fontsize=8, annotation_clip=False,
    )  # fmt: skip


def accuracy_figure(rows: Sequence[Mapping[str, object]], metrics: Sequence[str]) -> Figure:
    """Each metric with its 95% interval: a panel for each benchmark that has it, models down.

    Args:
        rows: from `analysis.summary.summarise`.
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
            stacked=True, ax=axes, color=list(COLOURS.values()), legend=False, width=0.7
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


def bench_figures(record: Mapping[str, Any]) -> Iterator[tuple[str, Figure]]:
    """Names and figures of the parts that a record of `experiments.bench` has."""
    if record.get("rows") and record.get("throughput"):
        yield "bench", bench_figure(record["rows"], record["throughput"])
    if record.get("prefill"):
        yield "prefill", prefill_figure(record["prefill"])


def bench_figure(
    rows: Sequence[Mapping[str, Any]], throughput: Sequence[Mapping[str, Any]]
) -> Figure:
    """Cost of an answer over plain decoding by number of images, and questions per second.

    Crosses are ratios of floating-point operations: what no implementation of the scheme can beat.

    Args:
        rows: of one answer at a time, from `experiments.bench`.
        throughput: of many questions, from the same.
    """
    sns.set_theme(style="whitegrid", context="paper")
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9.5, 3.4), layout="constrained", width_ratios=[1.1, 1]
    )
    cost = pd.DataFrame(rows)
    sns.lineplot(cost, x="num_images", y="over_plain", hue="scheme", marker="o", ax=left)
    sns.scatterplot(
        cost, x="num_images", y="flops_over_plain", hue="scheme", marker="X", s=40,
        legend=False, ax=left,
    )  # fmt: skip
    left.set(xlabel="images", ylabel="x plain decoding (time; crosses: operations)", yscale="log")
    left.set_xticks(sorted(set(cost["num_images"])))
    left.legend(fontsize=6, title=None, loc="upper left", bbox_to_anchor=(0, -0.18), ncols=2)
    speed = pd.DataFrame(throughput).melt(
        id_vars=["read", "scheme"],
        value_vars=["alone_per_second", "batched_per_second"],
        var_name="asked",
    )
    speed["asked"] = speed["asked"].map(
        {"alone_per_second": "one by one", "batched_per_second": "in batches"}
    )
    speed["question"] = speed["scheme"] + ", " + speed["read"]
    sns.barplot(speed, y="question", x="value", hue="asked", ax=right)
    right.set(xlabel="questions per second", ylabel="")
    right.tick_params(axis="y", labelsize=7)
    right.legend(fontsize=7, title=None)
    return figure


def prefill_figure(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Cost of the first token over plain decoding's: a panel for each size of image, a row for each
    length of text. Crosses are ratios of floating-point operations.

    Args:
        rows: of the first token, from `experiments.bench`.
    """
    sns.set_theme(style="whitegrid", context="paper")
    found = pd.DataFrame([row for row in rows if row["scheme"] != "plain decoding"])
    names = {"image": "tokens an image", "text": "words", "num_images": "images"}
    grid = sns.FacetGrid(
        found.rename(columns=names), col="tokens an image", row="words", hue="scheme",
        height=1.9, aspect=1.15, margin_titles=True,
    )  # fmt: skip
    grid.map_dataframe(sns.lineplot, x="images", y="over_plain", marker="o")
    grid.map_dataframe(sns.scatterplot, x="images", y="flops_over_plain", marker="X", s=30)
    counts, costs = sorted(set(found["num_images"])), [1, 2, 4, 8]
    grid.set(xscale="log", yscale="log", ylim=(0.7, 10))
    for ticks, labels in (("xticks", counts), ("yticks", costs)):
        grid.set(**{ticks: labels, f"{ticks[:1]}ticklabels": labels})
    for axes in grid.axes.flat:
        axes.minorticks_off()
    grid.set_axis_labels("images", "x plain decoding")
    grid.add_legend(title="")
    return grid.figure
