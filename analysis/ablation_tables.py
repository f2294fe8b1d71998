"""Tables of the ablations, as text for a document, and frames that figures are drawn from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

from analysis.ablations import (
    FOCUS_ROWS,
    HEADLINE,
    IMAGE_SCORE,
    METRICS,
    PLAIN,
    POOLED,
    Record,
    adaptive_curve,
    answers_frame,
    by_label,
    of_kind,
    on_scheme,
    shown_reading,
    values_of,
)
from analysis.comparisons import compare, selected
from analysis.rules import TAKES_OVER, rows_taken
from focus.marks import CANDIDATES, TEXT

#: Most lines of a table in the terminal.
SCREEN = 30
NAMES = {
    "sum": "FOCUS (sum)",
    "routed": "routed FOCUS",
    "adaptive_focus": "adaptive FOCUS",
    "adaptive_routed": "adaptive routed FOCUS",
    "plain_matched": "plain, matched temperature",
}
READ = {TEXT: "as generated text", CANDIDATES: "as a ranking of the candidates"}


def cells_frame(records: Iterable[Record]) -> pd.DataFrame:
    """Every cell under every metric; p-values are adjusted over the cells of one metric."""
    records = list(records)
    frames = [answers_frame(records, metric=metric) for metric in (*METRICS, IMAGE_SCORE)]
    return pd.concat([frame for frame in frames if len(frame)], ignore_index=True)


def difference(row: Any, bold: bool = False) -> str:
    """Paired difference with its interval.

    >>> difference({"delta": 0.25, "delta_low": 0.1, "delta_high": 0.4})
    '+0.250 [+0.100, +0.400]'
    """
    text = f"{row['delta']:+.3f} [{row['delta_low']:+.3f}, {row['delta_high']:+.3f}]"
    return f"**{text}**" if bold and (row["delta_low"] > 0 or row["delta_high"] < 0) else text


def proportion(row: Any) -> str:
    """Value, and its paired difference to plain decoding with interval.

    >>> proportion({"value": 0.5, "delta": np.nan})
    '0.500'
    """
    text = f"{row['value']:.3f}"
    return text if pd.isna(row["delta"]) else f"{text} ({difference(row)})"


def tables_markdown(frame: pd.DataFrame, index: Sequence[str]) -> str:
    """One table for each reading and kind of questions: settings down, models across.

    Args:
        frame: from `analysis.ablations.answers_frame`, of the headline metric.
        index: columns that name a line of a table; those of one value are left out. The column n
            is the least number of units of a line.
    """
    parts = []
    for (reading, kind), part in frame.groupby(["reading", "kind"], sort=False):
        metric = part["metric"].iloc[0]
        parts += [f"### {kind}: {metric}, read {READ[reading]}", _pivot(part, index)]
    return "\n\n".join(parts)


def _pivot(frame: pd.DataFrame, index: Sequence[str]) -> str:
    names = [name for name in index if frame[name].nunique(dropna=False) > 1] or [index[-1]]
    keys = {name: frame[name].map(setting_text) for name in names}
    text = frame.assign(cell=frame.apply(proportion, axis=1), **keys)
    table = text.pivot_table(
        index=names, columns="model", values="cell", aggfunc="first", sort=False
    )
    table.insert(0, "n", text.groupby(names, sort=False)["n"].min().astype(str))
    return markdown(table.fillna("-").reset_index())


def markdown(frame: pd.DataFrame) -> str:
    """A frame as a table of a document; numbers as they are."""
    return str(frame.to_markdown(index=False, disable_numparse=True))


def setting_text(value: Any) -> str:
    """A setting as text; missing ones are empty, and the published rule is called by its name.

    >>> setting_text(0.30), setting_text(2.0), setting_text(None), setting_text("sum")
    ('0.3', '2', '', 'FOCUS (sum)')
    """
    if pd.isna(value):
        return ""
    return f"{value:g}" if isinstance(value, float) else NAMES.get(value, str(value))


def condition_name(across: str, value: Any) -> str:
    """Name of a column: names stand for themselves, numbers need theirs.

    >>> condition_name("num_images", 2), condition_name("noise", "black")
    ('num images 2', 'black')
    """
    text = setting_text(value)
    return text if isinstance(value, str) else f"{across.replace('_', ' ')} {text}"


def sorted_settings(column: pd.Series) -> list[Any]:
    """Values of a column, numbers by size and names as they come."""
    values = list(dict.fromkeys(column))
    return sorted(values) if pd.api.types.is_numeric_dtype(column) else values


def run_table(records: Iterable[Record], name: str, rows: Mapping[str, Any]) -> Table:
    """What a run ends with: plain decoding, FOCUS and their difference, per model and questions.

    Worlds are put together and, where the table would not fit a screen, numbers of images and then
    kinds too. A grid of contrast weights shows the one that does best in it.

    Args:
        records: of the run.
        name: of the experiment.
        rows: settings of the rows of FOCUS that are shown.
    """
    records = list(records)
    focus, reading = {"rule": "sum", **rows}, shown_reading(records)
    lines = [r for r in of_kind(records, "answers")
             if selected(r, {**focus, "temperature": None, "reading": reading})]  # fmt: skip
    grid = len({(r["model"], r["questions"]) for r in lines}) < len(lines)
    for by in (("model", "split", "kind", "num_images"), ("model", "split", "kind"), ("model",)):
        whole = list(by)
        apart = (*by, *(("alpha",) if grid else ()))
        frame = compare(records, focus, {"rule": PLAIN}, by=apart, reading=reading)
        if grid:
            frame = frame.loc[frame.groupby(whole, sort=False)["delta"].idxmax()]
        if len(frame) <= SCREEN:
            break
    settings = [*by, *(("alpha",) if grid else ())]
    title = f"{name}: plain decoding and FOCUS, read {READ[reading]}"
    table = Table(title=title, title_justify="left")
    for column in (*settings, "n", "plain", "FOCUS", "FOCUS - plain [95%]"):
        table.add_column(column.replace("_", " "), justify="left" if column in by else "right")
    for row in frame.to_dict("records"):
        rates = [f"{row[which]:.3f}" for which in ("second", "first")]
        texts = [setting_text(row[column]) for column in settings]
        table.add_row(*texts, str(row["n"]), *rates, difference(row))
    return table


def label_frame(records: Iterable[Record], column: str, *, reading: str = TEXT) -> pd.DataFrame:
    """Accuracy by a label of the questions, worlds put together.

    Args:
        records: of one experiment.
        column: of the ``questions`` records: ``target`` (place, counted from 1), ``domain`` or
            ``answer``.
        reading: of the answers.

    Returns:
        Columns model, kind, num_images, rule, label, value, ci_low, ci_high, n; questions without
        a label are left out.
    """
    records = list(records)
    reading = shown_reading(records, reading)
    known = {r["questions"]: r[column] for r in of_kind(records, "questions")}
    names = ("model", "kind", "num_images", "rule")
    groups: dict[tuple[Any, ...], tuple[list[str], list[Any]]] = {}
    for line in of_kind(records, "answers"):
        if line["reading"] != reading or "marks" not in line:
            continue
        marks, labels = groups.setdefault(tuple(line[name] for name in names), ([], []))
        for mark, label in zip(line["marks"], known[line["questions"]], strict=True):
            if label is not None:
                marks.append(mark)
                labels.append(label + 1 if column == "target" else label)
    parts = [
        by_label({"marks": "".join(marks)}, labels).assign(**dict(zip(names, key, strict=True)))
        for key, (marks, labels) in groups.items()
        if marks
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def adaptive_frame(records: Iterable[Record], *, reading: str = TEXT) -> pd.DataFrame:
    """Accuracy-cost curves of adaptive FOCUS, worlds put together.

    Returns:
        Columns of `analysis.ablations.adaptive_curve`, model, case (kind, number of images) and
        rule (adaptive FOCUS, or its routed form).
    """
    records = list(records)
    reading = shown_reading(records, reading)
    lines: dict[tuple[Any, ...], Record] = {
        (line["model"], line["questions"], line["rule"]): line
        for line in of_kind(records, "answers")
        if line["reading"] == reading and "marks" in line
    }
    groups: dict[tuple[Any, ...], list[tuple[np.ndarray, ...]]] = {}
    for (model, questions, rule), line in lines.items():
        if rule not in TAKES_OVER:
            continue
        plain, focus = (lines[model, questions, name] for name in (PLAIN, TAKES_OVER[rule]))
        groups.setdefault((model, line["kind"], line["num_images"], rule), []).append(
            (np.array(line["margins"]), values_of(plain), values_of(focus))
        )
    curves = []
    for (model, kind, number, rule), parts in groups.items():
        margins, plain_values, focus_values = (np.concatenate(x) for x in zip(*parts, strict=True))
        rows = rows_taken(TAKES_OVER[rule], number)
        curve = adaptive_curve(margins, plain_values, focus_values, branched_rows=rows)
        curves.append(curve.assign(model=model, case=case_name(kind, number), rule=rule))
    return pd.concat(curves, ignore_index=True) if curves else pd.DataFrame()


def case_name(kind: str, number: float | None) -> str:
    """Name of a set of questions in figures, with the number of images if all have the same.

    >>> case_name("indexed", 2), case_name("matching", 2), case_name("muirbench", None)
    ('indexed, N = 2', 'matching', 'muirbench')
    """
    return kind if kind == "matching" or pd.isna(number) else f"{kind}, N = {number:g}"


def case_names(frame: pd.DataFrame) -> list[str]:
    """`case_name` of every row, from its columns kind and num_images."""
    return [case_name(*each) for each in zip(frame["kind"], frame["num_images"], strict=True)]


def cost_points(
    records: Iterable[Record], kind: str, number: int, reading: str = TEXT
) -> pd.DataFrame:
    """Accuracy and mean rows run of every strategy on one set of questions, worlds put together.

    Returns:
        Columns of `analysis.ablations.answers_frame` and rows.
    """
    asked = [r for r in records if r.get("kind") == kind and r.get("num_images") == number]
    reading = shown_reading(asked, reading)
    asked = [r for r in asked if r.get("reading", reading) == reading]
    lines = pd.DataFrame(of_kind(asked, "answers"))
    if lines.empty:
        return lines
    rows = lines.groupby(["model", "rule"])["rows"].mean().reset_index()
    return answers_frame(asked, metric=HEADLINE, pooled=POOLED).drop(
        columns="rows", errors="ignore").merge(rows, on=["model", "rule"])  # fmt: skip


def measured_points(
    records: Iterable[Record], kind: str, number: int, reading: str = CANDIDATES
) -> pd.DataFrame:
    """Accuracy of every rule on rows of every scheme, worlds put together, and measured seconds.

    Adaptive decoding, whose share of questions that branch depends on the questions, is taken to
    cost a plain answer and, where it branches, all of the rule that takes over.

    Returns:
        Columns of `analysis.ablations.answers_frame`, with rules named by their scheme, and seconds
        (over those of plain decoding); rules that were not measured are left out.
    """
    records = list(records)
    seconds = {
        (line["model"], line["rule"]): line["over_plain"]
        for line in of_kind(records, "cost")
        if line["kind"] == kind and line["num_images"] == number
    }
    asked = [r for r in records if r.get("kind") == kind and r.get("num_images") == number]
    asked = [r for r in asked if r.get("reading", reading) == reading]
    frame = answers_frame(asked, metric=HEADLINE, pooled=POOLED)
    if frame.empty:
        return frame
    frame["scheme"] = frame["scheme"].fillna(FOCUS_ROWS)
    lines = pd.DataFrame(of_kind(asked, "answers"))
    lines["scheme"] = lines["scheme"].fillna(FOCUS_ROWS) if "scheme" in lines else FOCUS_ROWS
    rows = lines.groupby(["model", "rule", "scheme"])["rows"].mean()

    def cost(row: Any) -> float:
        model, rule, scheme = row["model"], row["rule"], row["scheme"]
        taking = TAKES_OVER.get(rule)
        whole = seconds.get((model, on_scheme(taking or rule, scheme)), np.nan)
        if taking is None:
            return float(whole)
        share = (rows[model, rule, scheme] - 1) / rows_taken(taking, number)
        return float(whole if share > 1 else 1 + share * whole)

    frame["seconds"] = frame.apply(cost, axis=1)
    names = [on_scheme(*each) for each in zip(frame["rule"], frame["scheme"], strict=True)]
    return frame.assign(rule=names).dropna(subset="seconds")


def seed_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Spread of the accuracy over noise seeds, beside the interval over questions.

    Args:
        frame: from `analysis.ablations.answers_frame`, with several seeds.

    Returns:
        Columns model, kind, sharing, reading, seeds, mean, sd (over seeds), half_width (mean half
        width of the 95% interval over questions).
    """
    noisy = frame[frame["rule"] != PLAIN]
    width = (noisy["ci_high"] - noisy["ci_low"]) / 2
    groups = noisy.assign(width=width).groupby(["model", "kind", "sharing", "reading"], sort=False)
    return groups.agg(
        seeds=("seed", "nunique"),
        mean=("value", "mean"),
        sd=("value", "std"),
        half_width=("width", "mean"),
    ).reset_index()
