"""How each ablation is shown: which settings name a line of its tables, and its figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis.ablation_figures import (
    adaptive_figure,
    cost_figure,
    heat_figure,
    lines_figure,
    rows_figure,
)
from analysis.ablation_tables import (
    adaptive_frame,
    case_names,
    cost_points,
    label_frame,
    measured_points,
)
from analysis.ablations import (
    FOCUS_ROWS,
    HEADLINE,
    PLAIN,
    POOLED,
    Record,
    answers_frame,
    of_kind,
    shown_reading,
)
from analysis.claims import DEFAULT_NOISE
from analysis.equivalence import CELL, compared, equivalence_figure, pairs
from analysis.judging import rule_cells
from analysis.kinds import model_kinds, names_of
from focus.marks import CANDIDATES, READINGS, TEXT

Draw = Callable[[list[Record], pd.DataFrame], Figure | None]
"""From the records of an experiment and its pooled frame to a figure, if there is one to draw."""


@dataclass(frozen=True)
class View:
    """How one experiment is shown.

    Args:
        title: of its page.
        index: columns that name a line of a table, beside reading and kind.
        figures: by file name, from the records and the pooled frame.
        cases: columns that tell the panels of a figure apart, beside kind and number of images.
    """

    title: str
    index: Sequence[str]
    figures: Mapping[str, Draw]
    cases: Sequence[str] = ()


def pooled_frame(records: Iterable[Record], view: View) -> pd.DataFrame:
    """Every line of a view's tables, with a column ``case`` that names the questions.

    Settings that were chosen on dev differ between models and tell no lines apart, unless the view
    names them.
    """
    pooled = [name for name in POOLED if name not in view.index]
    frame = answers_frame(records, metric=HEADLINE, pooled=pooled)
    cases = case_names(frame)
    for name in view.cases:
        cases = [f"{case}, {value}" for case, value in zip(cases, frame[name], strict=True)]
    return frame.assign(case=cases)


def _greedy(pooled: pd.DataFrame, reading: str = TEXT) -> pd.DataFrame:
    if not (pooled["reading"] == reading).any():  # such as text, where answers are only ranked
        reading = CANDIDATES
    return pooled[(pooled["reading"] == reading) & pooled["temperature"].isna()]


def _only(frame: pd.DataFrame, *, case: str | None = None, **settings: Any) -> pd.DataFrame:
    """Plain decoding, and the lines with these settings; of one set of questions if it is named."""
    frame = frame if case is None else frame[frame["case"] == case]
    for name, value in settings.items():
        frame = frame[(frame["rule"] == PLAIN) | (frame[name] == value)]
    return frame


def _lines(x: str, hue: str = "rule", reading: str = TEXT, label: str = "",
           **only: Any) -> Draw:  # fmt: skip
    def draw(records: list[Record], pooled: pd.DataFrame) -> Figure | None:
        frame = _only(_greedy(pooled, reading), **only)
        if x == "num_images":  # on the axis, so it tells no panels apart
            frame = frame.assign(case=frame["kind"])
        return lines_figure(frame, x, hue=hue, label=label) if frame[x].notna().any() else None

    return draw


def _map(y: str, reading: str = TEXT, **only: Any) -> Draw:
    """Differences to plain decoding: settings down, models across."""

    def draw(records: list[Record], pooled: pd.DataFrame) -> Figure | None:
        frame = _only(_greedy(pooled, reading), **only)
        frame = frame[frame["rule"] != PLAIN]
        return heat_figure(frame, y) if frame["delta"].notna().any() else None

    return draw


def _world_map(rule: str) -> Draw:
    def draw(records: list[Record], pooled: pd.DataFrame) -> Figure | None:
        frame = _greedy(pooled)
        frame = frame[(frame["rule"] == rule) & frame["delta"].notna()]
        return heat_figure(frame, "world") if len(frame) else None

    return draw


def _rows(x: str, label: str = "", **only: Any) -> Draw:
    """What rows say, all worlds and rules put together."""

    def draw(records: list[Record], pooled: pd.DataFrame) -> Figure | None:
        rows = pd.DataFrame(of_kind(records, "rows"))
        if rows.empty:
            return None
        rows = rows.assign(case=case_names(rows))
        for name, value in only.items():
            rows = rows[rows[name] == value]
        return rows_figure(rows, x, label=label) if len(rows) else None

    return draw


def _labelled(column: str, label: str, numbers: Sequence[int] = (), **only: Any) -> Draw:
    """Accuracy by a label of the questions."""

    def draw(records: list[Record], pooled: pd.DataFrame) -> Figure | None:
        frame = label_frame(records, column)
        for name, value in only.items():
            frame = frame[frame[name].isin(value)]
        if numbers and len(frame):
            frame = frame[frame["num_images"].isin(numbers)]
        if frame.empty:
            return None
        return lines_figure(frame.assign(case=case_names(frame)), "label", label=label)

    return draw


def _cost(kind: str, number: int) -> Draw:
    def draw(records: list[Record], pooled: pd.DataFrame) -> Figure | None:
        points = cost_points(records, kind, number)
        return cost_figure(points) if len(points) else None

    return draw


def _equivalence(records: list[Record], pooled: pd.DataFrame) -> Figure | None:
    """Against FOCUS; of models whose name does not tell their kind, each is one of its own."""
    paired = pairs(records, model_kinds(names_of(records), {}))
    if paired.empty:
        return None
    cells = compared(paired, (*CELL, "kind", "ours"))
    return equivalence_figure(cells[cells["reading"] == shown_reading(records, CANDIDATES)])


def _schemes(records: list[Record], pooled: pd.DataFrame) -> Figure | None:
    named = pooled.assign(scheme=pooled["scheme"].fillna(FOCUS_ROWS))
    return _map("scheme", CANDIDATES, rule="sum")(records, named)


def _measured(kind: str, number: int) -> Draw:
    def draw(records: list[Record], pooled: pd.DataFrame) -> Figure | None:
        points = measured_points(records, kind, number)
        label = "seconds, in those of plain decoding"
        return cost_figure(points, "seconds", label) if len(points) else None

    return draw


def _adaptive(records: list[Record], pooled: pd.DataFrame) -> Figure | None:
    curves = adaptive_frame([r for r in records if r.get("kind") == "indexed"])
    return adaptive_figure(curves) if len(curves) else None


def _judged(split: str) -> Draw:
    """Candidate rules minus the sum, worlds put together."""

    def draw(records: list[Record], pooled: pd.DataFrame) -> Figure | None:
        cells = rule_cells(records, by=("model", "kind", "num_images"), bounded=True)
        cells = cells[cells["split"] == split] if len(cells) else cells
        if cells.empty:
            return None
        cells = cells.assign(case=case_names(cells))
        return heat_figure(cells, "rule", title="difference to the sum")

    return draw


def _scales(records: list[Record], pooled: pd.DataFrame) -> Figure | None:
    """Against the scale of the noise: types that were tried at several."""
    frame = _greedy(pooled)
    several = frame.groupby("noise")["scale"].transform("nunique") > 1
    frame = frame[several | (frame["rule"] == PLAIN)]
    if frame["scale"].isna().all():
        return None
    return lines_figure(frame, "scale", hue="noise", label="scale of the noise")


def _cooled(records: list[Record], pooled: pd.DataFrame) -> Figure | None:
    """Against temperature; greedy decoding stands at zero."""
    text = pooled["reading"] == TEXT
    frame = pooled[text] if text.any() else pooled
    frame = frame.assign(temperature=frame["temperature"].fillna(0.0))
    return lines_figure(frame, "temperature", label="temperature (0: greedy)")


VIEWS: dict[str, View] = {
    "strategies": View(
        "All strategies",
        ("num_images", "rule"),
        {
            **{f"difference-{reading}": _map("rule", reading) for reading in READINGS},
            "cost": _cost("indexed", 2),
            "adaptive": _adaptive,
        },
    ),
    "schemes": View(
        "How the other images are hidden",
        ("num_images", "scheme", "rule"),
        {
            "equivalence": _equivalence,
            "sum": _schemes,
            "cost": _measured("indexed", 2),
        },
    ),
    "benchmarks": View(
        "All strategies on the other kinds of questions",
        ("num_images", "rule"),
        {f"difference-{reading}": _map("rule", reading) for reading in READINGS},
    ),
    "noise": View(
        "Noise types and scales",
        ("noise", "scale"),
        {
            "types": _map("noise", scale=1.0),
            "scales": _scales,
        },
    ),
    "seeds": View(
        "Noise seeds and sharing",
        ("sharing", "seed"),
        {"seeds": _lines("sharing", hue="seed", label="noise shared by")},
    ),
    "aggregation": View(
        "Aggregations",
        ("num_images", "rule"),
        {reading: _lines("num_images", reading=reading, label="images N") for reading in READINGS},
    ),
    "rules": View(
        "Candidate rules",
        ("split", "num_images", "rule"),
        {split: _judged(split) for split in ("dev", "test")},
    ),
    "contrast": View(
        "Contrast weight, on dev",
        ("num_images", "rule", "noise", "alpha"),
        {
            **{
                reading: _lines("alpha", reading=reading, label="contrast weight alpha",
                                noise=DEFAULT_NOISE)
                for reading in READINGS
            },
            "noise": _lines("alpha", hue="noise", label="contrast weight alpha", rule="sum",
                            case="indexed, N = 2"),
        },
    ),
    "images": View(
        "Number of images and place of the asked one",
        ("num_images", "rule"),
        {
            "number": _lines("num_images", label="images N"),
            "place": _labelled("target", "place of the asked image", numbers=(2, 4, 8)),
        },
    ),
    "targets": View(
        "Target images",
        ("world", "num_images", "targets"),
        {"targets": _map("targets")},
        cases=("world",),
    ),
    "domains": View(
        "Domains",
        ("world", "num_images", "rule"),
        {rule: _world_map(rule) for rule in ("sum", "max", "routed")},
    ),
    "similarity": View(
        "Similar images",
        ("num_images", "similarity", "rule"),
        {
            "accuracy": _lines("similarity", label="attributes that the images share"),
            "rows": _rows("similarity", "attributes that the images share",
                          case="indexed, N = 2"),
        },
    ),
    "correlated": View(
        "Noise that tells of the content",
        ("scale", "tint", "rule"),
        {
            "scale": _lines("scale", label="scale of the noise", tint="none"),
            "rows": _rows("scale", "scale of the noise", tint="none"),
            "tint": _lines("tint", label="colour of the noise", scale=1.0),
        },
    ),
    "collective": View(
        "Questions that need several images",
        ("num_images", "rule"),
        {
            "answers": _labelled("answer", "right answer", kind=("counting", "odd", "same")),
            "rows": _rows("case", "kind of question"),
        },
    ),
    "sampling": View(
        "Sampling and matched temperature",
        ("num_images", "rule", "temperature"),
        {"temperature": _cooled},
    ),
}  # fmt: skip
