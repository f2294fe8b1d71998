"""Where leakage begins: along training and by number of images, see `focus.probes.origin`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures import COLUMN
from analysis.kinds import ABSTAINING, ANSWERING, GUESSING, model_kinds
from analysis.probes import chance, entanglement, knockout
from analysis.probes.common import mean, observed, rate
from focus.probes.chance import ALONE, TOGETHER
from focus.probes.entanglement import COMPANY
from focus.probes.knockout import NOTHING
from focus.probes.origin import BETWEEN, FOCUS, TO_TEXT

Records = Sequence[Mapping[str, Any]]
#: What tells lines apart.
KEYS = ("benchmark", "num_images", "model", "step")
#: Accuracies by name: the asked image alone, plain decoding of all images, FOCUS.
ACCURACIES = {"alone": ALONE, "plain": TOGETHER, "focus": FOCUS}
#: What the figure shows of a training, and across models, with its colour.
_PLAIN, _FOCUS, _LEAK = (sns.color_palette("colorblind")[k] for k in (0, 2, 3))
ALONG = {"alone": "0.5", "plain": _PLAIN, "focus": _FOCUS, "excess": _LEAK}
ACROSS = {"gain": _FOCUS, "excess": _LEAK}
NAMES = {
    "alone": "asked image alone",
    "plain": "plain decoding",
    "focus": "FOCUS",
    "excess": "leakage",
    "gain": "FOCUS minus plain",
}
WORLDS = {"scenes": "-", "digits": "--"}
KIND_DASHES = {ABSTAINING: "-", ANSWERING: "--", GUESSING: ":"}
Panel = Callable[[plt.Axes], None]


def table(records: Records, folder: Path) -> pd.DataFrame:
    """One line for every benchmark, number of images and model; ``step`` of a training at which a
    model was kept is told by the end of its name, and is empty for others.

    Returns:
        Accuracy of the asked image ``alone``, ``plain`` and of ``focus``, whose paired ``gain``;
        ``leakage`` of plain decoding (``focus_leakage`` of FOCUS) and ``excess``, how much of it is
        beyond chance; of the ``leaked_n`` leaked answers the share that moves where the text does
        not see the other images, ``text_moved``, and where images do not see each other,
        ``images_moved``; and ``mixing``: one minus the cosine of an image's states in two
        companies, as the last layer reads them. Each with its interval, ``.._low`` and ``.._high``.
    """
    cells: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for record in records:
        key = (record["benchmark"], record["num_images"], record["model"])
        cells.setdefault(key, []).append(record)
    lines = []
    for (benchmark, number, model), own in cells.items():
        run, step = run_and_step(model)
        cell = dict(zip(KEYS, (benchmark, number, run, step), strict=True))
        lines.append({**cell, "n": len(own), **_line(own, folder)})
    return pd.DataFrame(lines).astype({"step": "Int64"})


def run_and_step(model: str) -> tuple[str, int | None]:
    """The run that a model is of, and the step at which it was kept.

    >>> run_and_step("internvl-guessing-seed1-00250"), run_and_step("internvl-guessing")
    (('internvl-guessing-seed1', 250), ('internvl-guessing', None))
    """
    kept = re.fullmatch(r"(.+)-(\d{5})", model)
    return (kept[1], int(kept[2])) if kept else (model, None)


def _line(records: Records, folder: Path) -> dict[str, Any]:
    told = observed(_of("chance", records))
    clusters = told.groupby("id", sort=False)["cluster"].first()
    right = told.assign(hit=(told["said"] == told["right"]).astype(float)).pivot(
        index="id", columns="condition", values="hit"
    ).reindex(clusters.index, columns=list(ACCURACIES.values()))  # fmt: skip
    line: dict[str, Any] = {}
    for name, condition in ACCURACIES.items():
        known = right[condition].dropna()  # FOCUS is not asked of a planted fault
        line |= _named(name, rate(known, clusters[known.index]), "share")
    gain = (right[FOCUS] - right[TOGETHER]).dropna()
    line |= _named("gain", mean(gain, clusters[gain.index]), "mean")
    cut = observed(_of("knockout", records))
    leaks = cut[cut["edge"] == NOTHING]
    line |= _named("leakage", rate(leaks["kind"] == "leaked", leaks["cluster"]), "share")
    beyond = chance.headline(chance.table(_of("chance", records), folder)).set_index("condition")
    line |= _named("excess", beyond.loc[TOGETHER], "excess")
    line["focus_leakage"] = beyond["leaked"].get(FOCUS)
    moved = knockout.table(_of("knockout", records), folder).set_index("edge")
    line["leaked_n"] = moved["leaked_n"].iloc[0]
    for name, edge in (("text", TO_TEXT), ("images", BETWEEN)):
        line |= {f"{name}_moved{end}": moved.loc[edge, f"leaked_moved{end}"]
                 for end in ("", "_low", "_high")}  # fmt: skip
    states = entanglement.table(_of("entanglement", records), folder)
    # Behind it are what the last layer makes and the head's input, which no image token sees.
    last = states[states["condition"] == COMPANY].sort_values("place").iloc[-3]
    line["mixing"] = 1 - last["cosine"]
    return line | {"mixing_low": 1 - last["high"], "mixing_high": 1 - last["low"]}


def _of(probe: str, records: Records) -> list[dict[str, Any]]:
    """Records with what one probe has seen."""
    return [
        {**record, "observed": [seen for seen in record["observed"] if seen["probe"] == probe]}
        for record in records
    ]


def _named(name: str, found: Mapping[str, Any] | pd.Series, value: str) -> dict[str, float]:
    return {name: found[value], f"{name}_low": found["low"], f"{name}_high": found["high"]}


def headline(found: pd.DataFrame) -> pd.DataFrame:
    """Without the intervals."""
    return found[[name for name in found if not name.endswith(("_low", "_high"))]]


def along(found: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Lines of every training in the order of steps, by name of the run.

    Stages that several recipes begin with are trained once: a run that was kept later than another
    one begins with what that one was until then.
    """
    kept = found[found["step"].notna()].sort_values("step", kind="stable")
    first = kept.groupby("model")["step"].min()
    runs = {}
    for run in sorted(first.index):
        own = kept[kept["model"] == run]
        before = kept[(kept["model"] == first.idxmin()) & (kept["step"] < first[run])]
        runs[run] = pd.concat([before, own])
    return runs


def recipes(points: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Leakage and FOCUS minus plain by share of questions about several clean images, means over
    seeds and worlds, for every level of abstention along whose line that share changes."""
    for level, part in points.groupby("abstains"):
        means = part.groupby("clean_multi")[["plain_leakage", "delta"]].mean()
        if len(means) > 2:  # the others lie along the other axis
            yield str(level), means


def figure(
    found: pd.DataFrame, ladder: pd.DataFrame | None = None, ends: Sequence[int] = ()
) -> Figure:
    """A panel for every training above; below the ladder, and models by number of images.

    Args:
        found: the table.
        ladder: from `analysis.zoo_ladder.ladder_points`; None for no panel.
        ends: last step of every stage but the last, drawn as lines.
    """
    sns.set_theme(style="whitegrid", context="paper")
    runs = along(found[found["num_images"] == 2])
    final = found[found["step"].isna()]
    above: list[Panel] = [partial(_trajectory, run=run, ends=ends) for run in runs.items()]
    below: list[Panel] = [] if ladder is None else [partial(_ladder, points=ladder)]
    below += [partial(_by_number, final=final)] if len(final) else []
    rows = [
        (panels, colours, dashes)
        for panels, colours, dashes in ((above, ALONG, WORLDS), (below, ACROSS, KIND_DASHES))
        if panels
    ]
    figure = plt.figure(figsize=(COLUMN, 0.1 + 1.9 * len(rows)), layout="constrained")
    parts = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for part, (panels, colours, dashes) in zip(parts, rows, strict=True):
        grid = part.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, draw in zip(grid, panels, strict=True):
            draw(axes)
            axes.tick_params(labelsize=6, pad=0)
            axes.xaxis.label.set_size(7)
        lines = [
            Line2D([], [], color=colour, label=NAMES[name]) for name, colour in colours.items()
        ]
        lines += [Line2D([], [], color="0.3", ls=ls, label=name) for name, ls in dashes.items()]
        part.legend(handles=lines, loc="outside upper center", ncols=3, frameon=False, fontsize=6.5,
                    handlelength=1.6, columnspacing=1.2)  # fmt: skip
    return figure


def _trajectory(axes: plt.Axes, run: tuple[str, pd.DataFrame], ends: Sequence[int]) -> None:
    """A training, by step; bands of the world with solid lines."""
    name, lines = run
    for world, dashes in WORLDS.items():
        part = lines[lines["benchmark"] == f"{world}_indexed"]
        steps = part["step"].astype(float) / 1000
        for measure, colour in ALONG.items():
            axes.plot(steps, part[measure], color=colour, ls=dashes, lw=0.9)
            if dashes == "-":
                low, high = part[f"{measure}_low"], part[f"{measure}_high"]
                axes.fill_between(steps, low, high, color=colour, alpha=0.15, lw=0)
    for end in ends:
        axes.axvline(end / 1000, color="0.3", lw=0.6, ls=":", zorder=0)
    axes.set(ylim=(-0.03, 1.03), yticks=[0, 0.5, 1], xlabel="thousand steps")
    axes.set_title(model_kinds([name], {})[name], fontsize=7)


def _ladder(axes: plt.Axes, points: pd.DataFrame) -> None:
    """Short recipes by their share of questions about several clean images, means over seeds and
    worlds."""
    shares = sorted(points["clean_multi"].unique())
    for level, means in recipes(points):
        at = [shares.index(share) for share in means.index]
        ls = KIND_DASHES["answering" if level == "none" else "abstaining"]
        axes.plot(at, means["plain_leakage"], color=ACROSS["excess"], ls=ls, lw=0.9)
        axes.plot(at, means["delta"], color=ACROSS["gain"], ls=ls, lw=0.9)
    axes.axhline(0, color="0.3", lw=0.6)
    axes.set_xticks(range(len(shares)), [f"{share * 100:g}" for share in shares])
    axes.set(xlabel="% of several clean images", yticks=[0, 0.25, 0.5, 0.75])
    axes.set_title("short recipes", fontsize=7)


def _by_number(axes: plt.Axes, final: pd.DataFrame) -> None:
    """Models by number of images, in the first world that they were asked about."""
    own = final[final["benchmark"] == final["benchmark"].iloc[0]].sort_values("num_images")
    kinds = model_kinds(own["model"].unique(), {})
    for model, part in own.groupby("model", sort=False):
        for measure, colour in ACROSS.items():
            value, low, high = (part[f"{measure}{end}"] for end in ("", "_low", "_high"))
            axes.errorbar(
                part["num_images"], value, yerr=[value - low, high - value], color=colour,
                lw=0.9, elinewidth=0.6, ls=KIND_DASHES.get(kinds[model], "-"),
            )  # fmt: skip
    numbers = sorted(own["num_images"].unique())
    axes.plot(numbers, [1 - 1 / n for n in numbers], color="0.3", lw=0.8, ls=(0, (1, 3)))
    axes.text(numbers[-1], 0.93, "one at random", fontsize=6, ha="right", color="0.3")
    axes.axhline(0, color="0.3", lw=0.6)
    axes.set(xlabel="images", xticks=numbers, ylim=(None, 1.02))
    axes.set_title("stored models, scenes", fontsize=7)
