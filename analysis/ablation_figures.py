"""Figures of the ablations, from the frames of `analysis.ablations`; none of them runs a model."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from analysis.ablations import PLAIN, pareto

#: What a row says first, in the order of a bar.
SAID = {"right": "C2", "own image": "C0", "unknown": "C3", "other": "0.75"}


def settings_figure(
    frame: pd.DataFrame, x: str, *, hue: str = "rule", row: str = "kind", value: str = "value"
) -> Figure:
    """Accuracy (or its difference to plain decoding) against a setting, with 95% intervals.

    Args:
        frame: from `analysis.ablations.answers_frame`, of one reading.
        x: column on the horizontal axis; numbers are joined by lines.
        hue: column of the colours. Plain decoding, which has no setting, is a dashed line.
        row: column of the rows of panels; models stand side by side.
        value: ``value``, or ``delta``.
    """
    sns.set_theme(style="whitegrid", context="paper")
    low, high = ("ci_low", "ci_high") if value == "value" else ("delta_low", "delta_high")
    shown = frame[frame[value].notna()]
    varied = shown[shown["rule"] != PLAIN] if shown.loc[shown["rule"] == PLAIN, x].isna().any() \
        else shown  # fmt: skip
    levels = list(dict.fromkeys(varied[x].dropna()))
    numeric = pd.api.types.is_numeric_dtype(varied[x])
    levels = sorted(levels) if numeric else levels
    places = {level: level if numeric else i for i, level in enumerate(levels)}
    hues = list(dict.fromkeys(varied[hue].dropna()))
    width = 0.0 if numeric else 0.6 / max(1, len(hues))
    models, kinds = (list(dict.fromkeys(frame[name])) for name in ("model", row))
    figure, panels = plt.subplots(
        len(kinds),
        len(models),
        figsize=(1.2 + 2.6 * len(models), 0.8 + 2.0 * len(kinds)),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for axes_row, kind in zip(panels, kinds, strict=True):
        for axes, model in zip(axes_row, models, strict=True):
            panel = varied[(varied["model"] == model) & (varied[row] == kind)]
            for i, name in enumerate(hues):
                part = panel[panel[hue] == name].sort_values(x, kind="stable")
                at = np.array([places[level] for level in part[x]], dtype=float)
                at = at + (i - (len(hues) - 1) / 2) * width
                errors = np.clip([part[value] - part[low], part[high] - part[value]], 0, None)
                axes.errorbar(
                    at, part[value], yerr=errors, label=str(name), color=f"C{i % 10}", capsize=2,
                    marker="os^vDPX*"[i % 8], markersize=4, lw=1.2, ls="-" if numeric else "none",
                )  # fmt: skip
            base = shown[
                (shown["model"] == model) & (shown[row] == kind) & (shown["rule"] == PLAIN)
            ]
            if value == "value" and varied is not shown and len(base):
                axes.axhline(base["value"].mean(), color="0.4", ls="--", lw=1, label="plain")
            if value == "delta":
                axes.axhline(0, color="0.4", ls="--", lw=1)
            axes.set_title(f"{model} · {kind}", fontsize=8)
            if not numeric:
                axes.set_xticks(range(len(levels)), levels, rotation=60, ha="right", fontsize=7)
    label = "accuracy" if value == "value" else "accuracy - plain"
    for axes_row in panels:
        axes_row[0].set_ylabel(label)
    for axes in panels[-1]:
        axes.set_xlabel(x.replace("_", " "))
    handles, names = panels[0][0].get_legend_handles_labels()
    if names:
        figure.legend(
            handles, names, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8
        )
    figure.tight_layout()
    return figure


def cost_figure(frame: pd.DataFrame, *, cost: str = "rows") -> Figure:
    """Accuracy against cost, one panel per model; the line is the Pareto front.

    Args:
        frame: columns model, rule, value, ci_low, ci_high and the cost.
        cost: column on the horizontal axis.
    """
    sns.set_theme(style="whitegrid", context="paper")
    models = list(dict.fromkeys(frame["model"]))
    figure, panels = plt.subplots(
        1, len(models), figsize=(3.6 * len(models), 3.2), sharey=True, squeeze=False
    )
    rules = {rule: i for i, rule in enumerate(dict.fromkeys(frame["rule"]))}
    for axes, model in zip(panels[0], models, strict=True):
        part = frame[frame["model"] == model]
        for _, point in part.iterrows():
            errors = [[point["value"] - point["ci_low"]], [point["ci_high"] - point["value"]]]
            i = rules[point["rule"]]
            axes.errorbar(
                point[cost], point["value"], yerr=np.clip(errors, 0, None), color=f"C{i % 10}",
                marker="os^vDPX*"[i % 8], capsize=2, ls="none", label=point["rule"],
            )  # fmt: skip
        # The oracles know the asked image: no front that a method could reach.
        methods = part[~part["rule"].isin(["oracle", "single_image"])]
        front = methods[pareto(methods, cost)].sort_values(cost)
        axes.plot(front[cost], front["value"], color="0.4", lw=1, zorder=0)
        axes.set(title=model, xlabel=f"{cost.replace('_', ' ')} per question")
    panels[0][0].set_ylabel("accuracy")
    panels[0][-1].legend(bbox_to_anchor=(1.02, 1), loc="upper left", frameon=False, fontsize=8)
    figure.tight_layout()
    return figure


def adaptive_figure(curves: pd.DataFrame) -> Figure:
    """Accuracy of branching only where plain decoding is unsure, against what it costs.

    Args:
        curves: of `analysis.ablations.adaptive_curve`, with columns model and kind.
    """
    sns.set_theme(style="whitegrid", context="paper")
    grid = sns.relplot(
        curves, x="rows", y="value", hue="model", col="kind", kind="line", errorbar=None,
        estimator=None, height=2.6, sort=False, facet_kws={"sharey": True},
    )  # fmt: skip
    grid.set_axis_labels("rows per question", "accuracy").set_titles("{col_name}")
    return grid.figure


def rows_figure(rows: pd.DataFrame, x: str) -> Figure:
    """What each kind of row says first over the whole vocabulary, against a setting.

    Args:
        rows: columns model, role, `x`, total, right, own and unknown; counts are added up.
        x: setting, one bar for each of its values.
    """
    sns.set_theme(style="whitegrid", context="paper")
    roles = [r for r in ("plain", "on target", "off target", "branch", "reference")
             if r in set(rows["role"])]  # fmt: skip
    models = list(dict.fromkeys(rows["model"]))
    figure, panels = plt.subplots(
        len(roles), len(models), figsize=(1.2 + 2.6 * len(models), 0.8 + 1.5 * len(roles)),
        sharex=True, sharey=True, squeeze=False,
    )  # fmt: skip
    for axes_row, role in zip(panels, roles, strict=True):
        for axes, model in zip(axes_row, models, strict=True):
            part = rows[(rows["role"] == role) & (rows["model"] == model)]
            counts = part.groupby(x, sort=False)[["total", "right", "own", "unknown"]].sum()
            shares = pd.DataFrame(
                {
                    "right": counts["right"],
                    "own image": counts["own"],
                    "unknown": counts["unknown"],
                    "other": counts["total"] - counts[["right", "own", "unknown"]].sum(axis=1),
                }
            ).div(counts["total"], axis=0)
            shares.plot.bar(
                stacked=True, ax=axes, color=list(SAID.values()), legend=False, width=0.85
            )
            axes.set_title(f"{model} · {role}", fontsize=8)
            axes.set(xlabel=x.replace("_", " "), ylim=(0, 1))
            axes.tick_params(labelsize=7)
    handles, names = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.tight_layout()
    return figure


def label_figure(frame: pd.DataFrame, label: str, *, order: Sequence[str] | None = None) -> Figure:
    """Accuracy by a label of the questions (right answer, place, domain), rules side by side.

    Args:
        frame: columns model, kind, rule, label, value, ci_low and ci_high.
        label: what the label is.
        order: of the labels; None for that of the frame.
    """
    sns.set_theme(style="whitegrid", context="paper")
    models, kinds = (list(dict.fromkeys(frame[name])) for name in ("model", "kind"))
    rules = list(dict.fromkeys(frame["rule"]))
    figure, panels = plt.subplots(
        len(kinds), len(models), figsize=(1.2 + 2.6 * len(models), 0.8 + 1.9 * len(kinds)),
        sharey=True, squeeze=False,
    )  # fmt: skip
    for axes_row, kind in zip(panels, kinds, strict=True):
        for axes, model in zip(axes_row, models, strict=True):
            part = frame[(frame["model"] == model) & (frame["kind"] == kind)]
            labels = [v for v in order or dict.fromkeys(part["label"]) if v in set(part["label"])]
            for i, rule in enumerate(rules):
                points = part[part["rule"] == rule].set_index("label").reindex(labels)
                at = np.arange(len(labels)) + (i - (len(rules) - 1) / 2) * 0.2
                errors = [points["value"] - points["ci_low"], points["ci_high"] - points["value"]]
                axes.errorbar(
                    at, points["value"], yerr=np.clip(errors, 0, None), label=rule, capsize=2,
                    marker="os^vDPX*"[i % 8], markersize=4, ls="none", color=f"C{i % 10}",
                )  # fmt: skip
            axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", fontsize=7)
            axes.set_title(f"{model} · {kind}", fontsize=8)
            axes.set(xlabel=label, ylim=(-0.03, 1.03))
    panels[0][-1].legend(bbox_to_anchor=(1.02, 1), loc="upper left", frameon=False, fontsize=8)
    figure.tight_layout()
    return figure
