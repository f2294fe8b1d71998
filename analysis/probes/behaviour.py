"""What is said of the asked image, of another one and of both in one: `focus.probes.behaviour`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scipy.stats
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.probes.common import mean, observed, rate
from focus.probes.behaviour import (
    CONDITIONS,
    LETTERS,
    MULTI,
    NUM_PUBLISHED,
    OPTIONS,
    ORDERS,
    SINGLE,
)

KEYS = ("model", "condition", "orders", "option")
#: Which orders of the options are counted: those with the merged one last, or all.
PUBLISHED, ALL = "published", "all"
#: Bins of the densities: so many of equal width in [0, 1].
BINS = 20
#: Standard deviation of the kernel that smooths them.
WIDTH = 0.04
NAMES = {"right": "right", "other": "other image's", "merged": "merged"}
COLOURS = dict(zip(OPTIONS, ("seagreen", "darkorange", "firebrick"), strict=True))


def table(records: Sequence[Mapping[str, Any]], folder: Path) -> pd.DataFrame:
    """One line for every model, condition, set of orders and option.

    A question counts once for every order. ``orders`` is ``published``, the merged option last, or
    ``all``.

    Returns:
        ``n`` questions; ``share`` of the answers that are this option, with its interval, and how
        it differs from that of the asked image alone, ``from_single``, and from plain decoding
        with the images as they are, ``from_multi`` (paired, with intervals); its mean
        ``probability`` among the three; ``in_all_orders``, the share of questions in which it is
        said in every order; ``at_A``, ``at_B``, ``at_C``: its share where it stands there; and
        ``bin_0`` to ``bin_19``: the share of answers whose probability is in that part of [0, 1].
    """
    frame = observed(records)
    long = frame.melt(
        id_vars=["model", "id", "cluster", "condition", "order", "said"],
        value_vars=list(OPTIONS), var_name="option", value_name="probability",
    )  # fmt: skip
    long["chosen"] = (long["said"] == long["option"]).astype(float)
    long["letter"] = [
        LETTERS[ORDERS[order].index(option)]
        for order, option in zip(long["order"], long["option"], strict=True)
    ]
    key = ["model", "id", "order", "option"]
    for condition in (SINGLE, MULTI):
        own = long[long["condition"] == condition].set_index(key)["chosen"]
        long = long.join(own.rename(condition), on=key)
    lines = []
    for (model, condition), part in long.groupby(["model", "condition"], sort=False):
        published = part[part["order"] < NUM_PUBLISHED]
        for orders, counted in ((PUBLISHED, published), (ALL, part)):
            for option, own in counted.groupby("option", sort=False):
                cell = dict(zip(KEYS, (model, condition, orders, option), strict=True))
                lines.append(cell | _line(own))
    return pd.DataFrame(lines)


def _line(part: pd.DataFrame) -> dict[str, Any]:
    share = rate(part["chosen"], part["cluster"])
    line: dict[str, Any] = {"n": part["id"].nunique()}
    line |= {name: share[name] for name in ("share", "low", "high")}
    for condition in (SINGLE, MULTI):
        name, known = f"from_{condition}", part[part[condition].notna()]
        change = mean(known["chosen"] - known[condition], known["cluster"])
        line |= {name: change["mean"]}
        line |= {f"{name}_{end}": change[end] for end in ("low", "high")}
    line["probability"] = part["probability"].mean()
    line["in_all_orders"] = part.groupby("id")["chosen"].min().mean()
    at = part.groupby("letter")["chosen"].mean()
    line |= {f"at_{letter}": at.get(letter, np.nan) for letter in LETTERS}
    counts, _ = np.histogram(part["probability"], bins=BINS, range=(0, 1))
    return line | {f"bin_{k}": count / len(part) for k, count in enumerate(counts)}


def headline(found: pd.DataFrame) -> pd.DataFrame:
    """Shares in the published orders, and their difference from the asked image alone."""
    columns = ["model", "condition", "option", "n", "share", "low", "high", "from_single"]
    shown = [*columns, "from_single_low", "from_single_high", "probability"]
    return found.loc[found["orders"] == PUBLISHED, shown]


def figure(found: pd.DataFrame) -> Figure:
    """The published figure, in the published orders: densities of the three probabilities, alone
    (dotted) and among other images (solid); one panel for plain decoding and one for the first
    strategy, models down."""
    sns.set_theme(style="ticks", context="paper", font_scale=0.8)
    found = found[found["orders"] == PUBLISHED]
    strategies = [c for c in found["condition"].unique() if c not in CONDITIONS]
    across, models = [MULTI, *strategies[:1]], list(found["model"].unique())
    figure, grid = plt.subplots(
        len(models), len(across), squeeze=False, sharex=True, sharey="row", layout="constrained",
        figsize=(0.5 + 1.35 * len(across), 0.55 + 0.95 * len(models)),
    )  # fmt: skip
    for row, model in zip(grid, models, strict=True):
        for axes, condition in zip(row, across, strict=True):
            for shown, line in ((SINGLE, ":"), (condition, "-")):
                own = found[(found["model"] == model) & (found["condition"] == shown)]
                for _, one in own.iterrows():
                    _density(axes, one, line, fill=shown == condition)
            axes.axvline(1 / 3, color="0.6", lw=0.6, ls="--", zorder=0)
            # Peaks at the ends would flatten everything else.
            axes.set_yscale("function", functions=(np.sqrt, np.square))
            axes.set(xlim=(0, 1), ylim=(0, None), xlabel="", ylabel="", yticks=[])
            axes.set_xticks([0, 0.5, 1], ["0", ".5", "1"])
        row[0].set_ylabel(model.replace("-", "\n", 1), fontsize=7)
    for axes, condition in zip(grid[0], across, strict=True):
        axes.set_title("plain decoding" if condition == MULTI else condition, fontsize=8)
    figure.supxlabel("probability of an option (density, square-root scale)", fontsize=8)
    handles = [Line2D([], [], color=COLOURS[o], lw=2, label=NAMES[o]) for o in OPTIONS]
    handles += [
        Line2D([], [], color="0.3", ls=ls, label=label)
        for ls, label in ((":", "alone"), ("-", "together"))
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False, fontsize=7,
                  handlelength=1.4, columnspacing=1.0)  # fmt: skip
    return figure


def _density(axes: plt.Axes, line: pd.Series, style: str, *, fill: bool) -> None:
    """Density of one option's probability, from its bins."""
    x = np.linspace(0, 1, 201)
    y = density(line[[f"bin_{k}" for k in range(BINS)]].to_numpy(dtype=float), x)
    colour = COLOURS[line["option"]]
    axes.plot(x, y, color=colour, ls=style, lw=1.2)
    if fill:
        axes.fill_between(x, y, color=colour, alpha=0.15, lw=0)


def density(shares: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Of values in [0, 1], smoothed by a Gaussian that the ends reflect; it integrates to one.

    Args:
        shares: of the values that are in each of equal parts of [0, 1]; they sum to one.
        x: where.
    """
    centres = (np.arange(len(shares)) + 0.5) / len(shares)
    images = np.stack([centres, -centres, 2 - centres])  # mirrored at either end
    kernels = scipy.stats.norm.pdf(x[:, None, None], images, WIDTH).sum(axis=1)
    return np.asarray(kernels @ shares)
