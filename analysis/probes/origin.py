"""Where leakage begins: along training and by number of images, see `focus.probes.origin`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

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
        line |= _named(name, rate(right[condition].dropna(), clusters), "share")
    line |= _named("gain", mean((right[FOCUS] - right[TOGETHER]).dropna(), clusters), "mean")
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


def figure(found: pd.DataFrame) -> Figure:
    import matplotlib.pyplot as plt
    return plt.figure()
    raise NotImplementedError
