"""Rates with intervals, and panels small enough for a column."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scipy.stats
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from analysis.figures import COLUMN
from analysis.statistics import clustered_interval, wilson_interval
from focus.randomness import generator

RESAMPLES = 2000


def observed(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """One line for every observation, with its model, question and cluster."""
    rows = [
        {"model": record["model"], "id": record["id"], "cluster": record["cluster"], **seen}
        for record in records
        for seen in record["observed"]
    ]
    return pd.DataFrame(rows)


def rate(values: pd.Series, clusters: pd.Series) -> dict[str, float]:
    """Share of True with its 95% interval, by cluster where questions share one; NaN without any.

    Returns:
        ``n``, ``share``, ``low`` and ``high``.
    """
    n = len(values)
    if not n:
        return {"n": 0, "share": np.nan, "low": np.nan, "high": np.nan}
    hits = values.astype(bool)
    if clusters.nunique() == n:
        low, high = wilson_interval(int(hits.sum()), n)
    else:
        low, high = clustered_interval(hits.to_numpy(), list(clusters), resamples=RESAMPLES)
    return {"n": n, "share": float(hits.mean()), "low": low, "high": high}


def mean(values: pd.Series, clusters: pd.Series) -> dict[str, float]:
    """Mean with its 95% interval (bootstrap over clusters); NaN without any value.

    Returns:
        ``n``, ``mean``, ``low`` and ``high``.
    """
    return ratio(values, pd.Series(1.0, index=values.index), clusters, name="mean")


def ratio(
    above: pd.Series, below: pd.Series, clusters: pd.Series, *, name: str = "ratio"
) -> dict[str, float]:
    """Sum over sum with its 95% interval (bootstrap over clusters).

    Returns:
        ``n``, the ratio under `name`, ``low`` and ``high``.
    """
    sums = pd.DataFrame({"a": above, "b": below}).groupby(clusters.to_numpy()).sum()
    if sums.empty or not sums["b"].sum():
        return {"n": len(above), name: np.nan, "low": np.nan, "high": np.nan}
    value = float(sums["a"].sum() / sums["b"].sum())
    if len(sums) < 2:
        return {"n": len(above), name: value, "low": np.nan, "high": np.nan}
    if np.allclose(sums["a"], value * sums["b"], rtol=0, atol=1e-9):  # the same for all
        return {"n": len(above), name: value, "low": value, "high": value}

    def over(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        below = b.sum(axis=axis)
        return a.sum(axis=axis) / np.where(below == 0, np.nan, below)

    interval = scipy.stats.bootstrap(
        (sums["a"].to_numpy(), sums["b"].to_numpy()), over, paired=True, vectorized=True,
        n_resamples=RESAMPLES, method="percentile", rng=generator(0, "probe"),
    ).confidence_interval  # fmt: skip
    return {"n": len(above), name: value, "low": float(interval.low), "high": float(interval.high)}


def grouped(
    frame: pd.DataFrame, keys: Sequence[str], line: Callable[[pd.DataFrame], Mapping[str, Any]]
) -> pd.DataFrame:
    """One line for every value of the keys, in order of first appearance."""
    rows = [
        {**dict(zip(keys, values, strict=True)), **line(part)}
        for values, part in frame.groupby(list(keys), sort=False)
    ]
    return pd.DataFrame(rows)


def heat_maps(
    frame: pd.DataFrame,
    *,
    rows: str,
    columns: str,
    value: str,
    across: str,
    down: str = "model",
    label: str = "",
    limits: tuple[float, float] = (0, 1),
) -> Figure:
    """A heat map for every pair of `across` and `down`, one colour scale, as wide as a column."""
    sns.set_theme(style="white", context="paper")
    over, under = list(frame[across].unique()), list(frame[down].unique())
    lines, cells = frame[rows].unique(), frame[columns].unique()
    figure, grid = plt.subplots(
        len(under), len(over), squeeze=False, sharex=True, sharey=True,
        layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02),
        figsize=(COLUMN, 0.5 + len(under) * (0.1 + 0.15 * max(len(lines), 4))),
    )  # fmt: skip
    for r, below in enumerate(under):
        for c, above in enumerate(over):
            part = frame[(frame[across] == above) & (frame[down] == below)]
            table = part.pivot_table(
                index=rows, columns=columns, values=value, sort=False, dropna=False
            )
            shown = table.reindex(index=lines, columns=cells).astype(float)
            axes = grid[r, c]
            sns.heatmap(
                shown, ax=axes, vmin=limits[0], vmax=limits[1], cmap="rocket_r",
                annot=shown.map(short), fmt="", annot_kws={"size": 5}, cbar=False, linewidths=0.4,
                xticklabels=True, yticklabels=True,
            )  # fmt: skip
            axes.set(xlabel="", ylabel="")
            axes.set_title("" if r else str(above), fontsize=6.5)
            axes.set_ylabel("" if c else str(below).replace("-", "\n", 1), fontsize=6.5)
            axes.tick_params(labelsize=5.5, length=0, pad=1)
    figure.supxlabel(label, fontsize=6.5)
    return figure


def short(value: float) -> str:
    """Two digits and no zero before them.

    >>> short(0.456), short(1.0), short(-0.001)
    ('.46', '1', '0')
    """
    if np.isnan(value):
        return ""
    text = pointed(value)
    return {".00": "0", "1.00": "1"}.get(text, text)


def pointed(value: float, digits: int = 2, sign: str = "") -> str:
    """A share as pages write it: without the zero before the point.

    >>> pointed(0.456), pointed(0.05, sign="+"), pointed(-0.001)
    ('.46', '+.05', '.00')
    """
    rounded = round(value, digits) + 0.0  # no minus zero
    return f"{rounded:{sign}.{digits}f}".replace("0.", ".", 1)
