"""Figures of the ablations, from the frames of `analysis.ablations`; none of them runs a model.

They stay legible with two models or ten: panels of models stand under each other (or wrap, where
there is one question only), and where settings are names there is one map for all models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from analysis.ablation_tables import condition_name, setting_text, sorted_settings
from analysis.ablations import PLAIN, pareto
from analysis.judging import BOUNDS
from analysis.rules import TAKES_OVER

#: What a row says first, in the order of a bar.
SAID = {"right": "C2", "own image": "C0", "unknown": "C3", "other": "0.75"}
MARKERS = "os^vDPX*"
#: Panels side by side where they wrap.
ACROSS = 4
#: More numbers than these are not all written on an axis.
TICKS = 8


def lines_figure(
    frame: pd.DataFrame, x: str, *, hue: str = "rule", value: str = "value", label: str = ""
) -> Figure:
    """Accuracy (or its difference to plain decoding) against a setting, with 95% intervals.

    Args:
        frame: from `analysis.ablations.answers_frame`, of one reading, with a column ``case`` that
            names the questions: a column of panels each, one row for each model.
        x: column on the horizontal axis. Numbers are joined by lines; names stand side by side.
        hue: column of the colours. Plain decoding is dashed, across all where it has no setting.
        value: ``value`` or ``delta``.
        label: of the horizontal axis; `x` without one.
    """
    low, high = ("ci_low", "ci_high") if value == "value" else ("delta_low", "delta_high")
    shown = frame[frame[value].notna()]
    flat = shown[(shown["rule"] == PLAIN) & shown[x].isna()]
    varied = shown[shown[x].notna()]
    numeric = pd.api.types.is_numeric_dtype(varied[x])
    hues = list(dict.fromkeys(varied[hue].dropna()))
    colours = "colorblind" if len(hues) <= 10 else "husl"  # it has ten, and begins again
    palette = dict(zip(hues, sns.color_palette(colours, len(hues)), strict=True))
    figure, panels = _panels(frame)
    for axes, model, case in panels:
        part = _of(varied, model, case)
        levels = sorted_settings(varied.loc[varied["case"] == case, x])
        for i, name in enumerate(hues):
            points = part[part[hue] == name].sort_values(x, kind="stable")
            at = points[x].to_numpy(float) if numeric else places(points[x], levels, i, len(hues))
            axes.errorbar(
                at, points[value], yerr=ends(points, value, low, high),
                label=condition_name(hue, name),
                color="0.25" if name == PLAIN else palette[name], capsize=1.5, elinewidth=0.8,
                marker=MARKERS[i % len(MARKERS)], markersize=3.5, lw=1.2,
                ls=("--" if name == PLAIN else "-") if numeric else "none",
            )  # fmt: skip
        base = _of(flat, model, case)
        if value == "value" and len(base):
            axes.axhline(base["value"].mean(), color="0.25", ls="--", lw=1.2, label="plain")
        if value == "delta":
            axes.axhline(0, color="0.25", lw=0.8)
        if not numeric:
            axes.set_xticks(range(len(levels)), levels, rotation=45, ha="right", fontsize=8)
            axes.set_xlim(-0.5, len(levels) - 0.5)
        elif 0 < len(levels) <= TICKS:
            axes.set_xticks(levels, [f"{level:g}" for level in levels])
    name = "accuracy" if value == "value" else "difference to plain"
    _finish(figure, label or x.replace("_", " "), name)
    return figure


def heat_figure(
    frame: pd.DataFrame, y: str, *, value: str = "delta", title: str = "difference to plain"
) -> Figure:
    """A map of differences: settings down, models across, one panel for each case.

    A number is bold where its 95% interval excludes zero.

    Args:
        frame: columns case, model, `y`, `value`, and its interval ``<value>_low`` and ``_high``.
        y: column with the settings.
        value: of a field, in [-1, 1].
        title: of the colour bar.
    """
    sns.set_theme(style="white", context="paper")
    cases, models = (list(dict.fromkeys(frame[name])) for name in ("case", "model"))
    settings = list(dict.fromkeys(frame[y]))
    columns = min(len(cases), ACROSS, max(1, 24 // (len(models) + 2)))
    rows = -(-len(cases) // columns)
    figure, panels = plt.subplots(
        rows, columns, squeeze=False, sharex=True, sharey=True, layout="constrained",
        figsize=(2.2 + columns * max(1.5, 0.3 + 0.5 * len(models)),
                 1.7 + rows * (0.5 + 0.22 * len(settings))),
    )  # fmt: skip
    widest = max(0.05, float(frame[value].abs().max()))
    image: Any = None
    for axes, case in zip(panels.flat, cases, strict=False):
        part = frame[frame["case"] == case].set_index([y, "model"])
        grid = part[value].unstack("model").reindex(index=settings, columns=models)
        image = axes.imshow(grid, cmap="RdBu", vmin=-widest, vmax=widest, aspect="auto")
        for (setting, model), row in part.iterrows():
            if pd.isna(row[value]):
                continue
            sure = row[f"{value}_low"] > 0 or row[f"{value}_high"] < 0
            axes.text(
                models.index(model), settings.index(setting), f"{row[value]:+.2f}", ha="center",
                va="center", fontsize=6.5, fontweight="bold" if sure else "normal",
                color="white" if abs(row[value]) > 0.7 * widest else "black",
            )  # fmt: skip
        axes.set_title(case, fontsize=9)
        axes.set_xticks(range(len(models)), models, rotation=45, ha="right", fontsize=7.5)
        axes.set_yticks(range(len(settings)), map(setting_text, settings), fontsize=7.5)
    for axes in panels.flat[len(cases) :]:
        axes.set_axis_off()
    _tick_under_gaps(panels, len(cases))
    figure.colorbar(image, ax=panels, label=title, shrink=0.6, aspect=30, pad=0.02)
    return figure


def _tick_under_gaps(panels: np.ndarray, number: int) -> None:
    """Shared axes label their lowest row only; a column that ends earlier needs its own labels."""
    columns = panels.shape[1]
    for k in range(max(0, number - columns), number):
        panels.flat[k].tick_params(labelbottom=True)


def rows_figure(rows: pd.DataFrame, x: str, *, label: str = "") -> Figure:
    """What each kind of row says first over the whole vocabulary, against a setting.

    Args:
        rows: columns model, role, `x`, total, right, own and unknown; counts are added up.
        x: setting, one bar for each of its values.
        label: of the horizontal axis; `x` without one.
    """
    order = ("plain", "on target", "off target", "branch", "reference")
    levels = sorted_settings(rows[x])
    rows = rows.assign(
        level=rows[x], case=pd.Categorical(rows["role"], order).remove_unused_categories()
    ).sort_values("case", kind="stable")
    step = 1 if len(levels) <= TICKS else 2  # or labels would run into each other
    figure, panels = _panels(rows)
    for axes, model, role in panels:
        counts = _of(rows, model, role).groupby("level")[["total", "right", "own", "unknown"]].sum()
        counts = counts.reindex(levels)
        bottom = np.zeros(len(levels))
        for name, colour in SAID.items():
            shares = (_count(counts, name) / counts["total"]).fillna(0.0).to_numpy(float)
            axes.bar(range(len(levels)), shares, 0.85, bottom, color=colour, label=name, lw=0)
            bottom += shares
        texts = [setting_text(level) for level in levels]
        numeric = all(isinstance(v, int | float) for v in levels)
        axes.set_xticks(
            range(0, len(levels), step), texts[::step], rotation=0 if numeric else 45, fontsize=7,
            ha="center" if numeric else "right",
        )  # fmt: skip
        axes.set_ylim(0, 1)
        axes.grid(axis="x", visible=False)
    _finish(figure, label or x.replace("_", " "), "share of rows")
    return figure


def _count(counts: pd.DataFrame, name: str) -> pd.Series:
    if name == "other":
        return counts["total"] - counts[["right", "own", "unknown"]].sum(axis=1)
    return counts[name.split()[0]]


def cost_figure(
    points: pd.DataFrame, cost: str = "rows", label: str = "rows per question"
) -> Figure:
    """Accuracy against a cost, one panel per model; the line is the Pareto front.

    Args:
        points: columns model, rule, `cost`, value, ci_low and ci_high.
        cost: column of the cost.
        label: of its axis.
    """
    points = points.assign(case="")
    rules = list(dict.fromkeys(points["rule"]))
    colours = sns.color_palette("husl", len(rules))
    figure, panels = _panels(points, height=2.6, width=2.8)
    for axes, model, case in panels:
        part = _of(points, model, case)
        for _, point in part.iterrows():
            i = rules.index(point["rule"])
            errors = [[point["value"] - point["ci_low"]], [point["ci_high"] - point["value"]]]
            # Most strategies run one row: side by side, or one would hide the others.
            at = point[cost] * 1.03 ** (i - (len(rules) - 1) / 2)
            axes.errorbar(
                at, point["value"], yerr=np.clip(errors, 0, None), color=colours[i],
                marker=MARKERS[i % len(MARKERS)], ms=5, capsize=2, ls="none",
                label=setting_text(point["rule"]),
            )  # fmt: skip
        # What knows the asked image is a bound: no front that a method could reach.
        methods = part[~part["rule"].isin(BOUNDS)]
        front = methods[pareto(methods, cost)].sort_values(cost)
        axes.plot(front[cost], front["value"], color="0.4", lw=1, zorder=0, drawstyle="steps-post")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
    _finish(figure, label, "accuracy")
    return figure


def adaptive_figure(curves: pd.DataFrame) -> Figure:
    """Accuracy of branching only where plain decoding is unsure, against what it costs.

    Args:
        curves: of `analysis.ablation_tables.adaptive_frame`.
    """
    figure, panels = _panels(curves)
    for axes, model, case in panels:
        part = _of(curves, model, case)
        axes.plot(part["rows"].iloc[0], part["value"].iloc[0], ls="none", marker="o", color="0.25",
                  ms=4.5, label="plain")  # fmt: skip
        for i, (rule, curve) in enumerate(part.groupby("rule", sort=False)):
            inside = curve[np.isfinite(curve["threshold"])]
            axes.plot(
                inside["rows"], inside["value"], color=f"C{i}", lw=1.2, label=setting_text(rule)
            )
            axes.plot(curve["rows"].iloc[-1], curve["value"].iloc[-1], ls="none", marker="s",
                      color=f"C{i}", ms=4.5,
                      label=f"always {setting_text(TAKES_OVER[str(rule)])}")  # fmt: skip
    _finish(figure, "rows per question", "accuracy")
    return figure


def _panels(
    frame: pd.DataFrame, *, height: float = 1.6, width: float = 2.3
) -> tuple[Figure, Iterator[tuple[Any, str, str]]]:
    """A figure with a panel for each model and case: models down, or wrapped if there is one case.

    Returns:
        The figure, and its panels with their model and case.
    """
    sns.set_theme(style="whitegrid", context="paper", rc={"axes.titlesize": 8.5})
    models, cases = (list(dict.fromkeys(frame[name])) for name in ("model", "case"))
    wrapped = len(cases) == 1
    columns = min(ACROSS, len(models)) if wrapped else len(cases)
    rows = -(-len(models) // columns) if wrapped else len(models)
    figure, grid = plt.subplots(
        rows, columns, sharex="col", sharey=True, squeeze=False, layout="constrained",
        figsize=(0.9 + width * columns, 0.9 + height * rows),
    )  # fmt: skip
    pairs = [(model, case) for model in models for case in cases]
    for axes in grid.flat[len(pairs) :]:
        axes.set_axis_off()
    _tick_under_gaps(grid, len(pairs))

    def titled() -> Iterator[tuple[Any, str, str]]:
        for k, (axes, (model, case)) in enumerate(zip(grid.flat, pairs, strict=False)):
            if wrapped:
                axes.set_title(model)
            elif k < columns:
                axes.set_title(case)
            if not wrapped and k % columns == 0:
                axes.set_ylabel(model.replace("-", "\n"), fontsize=8.5)
            yield axes, model, case

    return figure, titled()


def _of(frame: pd.DataFrame, model: str, case: str) -> pd.DataFrame:
    return frame[(frame["model"] == model) & (frame["case"] == case)]


def places(column: pd.Series, levels: Sequence[Any], i: int, hues: int) -> np.ndarray:
    """Places of named levels, those of one level side by side."""
    shift = (i - (hues - 1) / 2) * 0.7 / max(1, hues)
    return np.array([levels.index(level) for level in column], dtype=float) + shift


def ends(points: pd.DataFrame, value: str, low: str, high: str) -> np.ndarray:
    return np.clip([points[value] - points[low], points[high] - points[value]], 0, None)


def _finish(figure: Figure, xlabel: str, ylabel: str) -> None:
    """Axis labels once for all panels, and one legend beside them."""
    figure.supxlabel(xlabel, fontsize=9)
    figure.supylabel(ylabel, fontsize=9)
    legend(figure)


def legend(figure: Figure) -> None:
    """One legend for the entries of all panels."""
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        handles, names = axes.get_legend_handles_labels()
        entries |= {name: handle for name, handle in zip(names, handles, strict=True)
                    if name not in entries}  # fmt: skip
    if len(entries) > 1:
        figure.legend(
            entries.values(), entries.keys(), loc="outside right upper", frameon=False, fontsize=8
        )
