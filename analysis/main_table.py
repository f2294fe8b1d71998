"""The paper's comparison as a table: published numbers, ours, and what has not been run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich.table import Table

from analysis.paper import PUBLISHED, Published, published
from analysis.statistics import holm
from analysis.summary import BASELINE, summarise

OURS = "focus"
EMBEDDED = ("scenes_indexed", "scenes_matching")
PAIRED = ("text score", "image score", "group score")
#: What is reported of a benchmark; accuracy where nothing else is said.
METRICS: dict[str, tuple[str, ...]] = {
    "winoground": PAIRED,
    "vismin": PAIRED,
    "scenes_matching": ("accuracy", "image score"),
}
RESULTS = ("value", "ci_low", "ci_high")
DELTAS = ("delta", "delta_low", "delta_high", "p_value", "p_holm")
NOT_FOUND = "not found"

Row = dict[str, Any]


def cell_rows(records: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Rows of a finished cell, one per reported metric, without `p_holm`.

    Args:
        records: of one benchmark and model, under plain decoding and FOCUS.
    """
    by_key = {(row["decoding"], row["metric"]): row for row in summarise(records)}
    first = records[0]
    rows = []
    for metric in METRICS.get(first["benchmark"], ("accuracy",)):
        plain, focus = by_key.get((BASELINE, metric), {}), by_key.get((OURS, metric), {})
        row = {**labels(first["benchmark"], first["model"], metric), "status": "run"}
        row |= {"n": plain.get("n", focus.get("n"))}
        row |= {f"plain_{key}": plain.get(key) for key in RESULTS}
        row |= {f"focus_{key}": focus.get(key) for key in RESULTS}
        rows.append(row | {key: focus.get(key) for key in DELTAS if key != "p_holm"})
    return rows


def missing_rows(benchmark: str, model: str, status: str, reason: str) -> list[Row]:
    """Rows of a cell without results, with the reason."""
    return [
        {**labels(benchmark, model, metric), "status": status, "reason": reason}
        for metric in METRICS.get(benchmark, ("accuracy",))
    ]


def labels(benchmark: str, model: str, metric: str) -> Row:
    """What a row is about, and what was published about it."""
    plain = published(benchmark, metric, model, BASELINE)
    gains = published(benchmark, metric, model, OURS)
    return {
        "benchmark": benchmark,
        "metric": metric,
        "model": model,
        "published_plain": [number.value for number in plain],
        "published_plain_source": [source_of(number) for number in plain],
        "published_focus_gain": [number.value for number in gains],
    }


def adjust(rows: Sequence[Row]) -> None:
    """Adds `p_holm`: the comparisons of one metric are one family."""
    for metric in {row["metric"] for row in rows}:
        family = [r for r in rows if r["metric"] == metric and r.get("p_value") is not None]
        for row, p_holm in zip(family, holm([r["p_value"] for r in family]), strict=True):
            row["p_holm"] = p_holm


COLUMNS = (
    *("benchmark", "metric", "model", "published: plain", "paper: FOCUS - plain", "ours: n"),
    *("ours: plain [95%]", "ours: FOCUS [95%]", "ours: FOCUS - plain [95%]", "p (Holm)"),
)


def table_lines(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """One line of `COLUMNS` per row, as text, in percent; a cell not run says so."""
    numbers = {name: index for index, name in enumerate(source_names(), start=1)}
    times = Counter((row["benchmark"], row["metric"], row["model"]) for row in rows)
    lines: list[tuple[str, ...]] = []
    for row in rows:
        key = (row["benchmark"], row["metric"], row["model"])
        again = f" {row['folder'][-8:]}" if times[key] > 1 else ""
        line = (*key[:2], row["model"] + again, *_published(row, numbers))
        if row["status"] == "run":
            p_holm = row.get("p_holm")
            p_text = "-" if p_holm is None else "< 0.001" if p_holm < 0.001 else f"{p_holm:.3f}"
            ours = (str(row["n"]), _percent(row, "plain_"), _percent(row, "focus_"), _delta(row))
            lines.append((*line, *ours, p_text))
        else:
            lines.append((*line, "-", row["status"], "", "", ""))
    return lines


def _published(row: Row, numbers: Mapping[str, int]) -> tuple[str, str]:
    """The published numbers of a row, with the number of their source."""
    if row["benchmark"] in EMBEDDED:
        return "-", "-"
    found = zip(row["published_plain"], row["published_plain_source"], strict=True)
    plain = [f"{value:.1f} ({numbers[source]})" for value, source in found]
    gains = [f"{value:+.1f}" for value in row["published_focus_gain"]]
    claims = published(row["benchmark"], row["metric"], None, OURS)
    gains = gains or [f"up to {n.value:+.1f} ({numbers[source_of(n)]})" for n in claims]
    return " / ".join(plain) or NOT_FOUND, " / ".join(gains) or NOT_FOUND


def terminal_table(rows: Sequence[Row], *, title: str) -> Table:
    """The rows for the terminal, a section per benchmark."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for column in COLUMNS:
        table.add_column(column.replace(": ", ":\n").replace(" [", "\n["), justify="left")
    previous = None
    for line in table_lines(rows):
        if previous not in (None, line[0]):
            table.add_section()
        table.add_row(line[0] if line[0] != previous else "", *line[1:])
        previous = line[0]
    return table


def markdown(rows: Sequence[Row], embedded: Sequence[Row], embedded_source: str) -> str:
    """The document: the comparison, the embedded models, reasons, notes and sources."""
    parts = ["# Published numbers and ours", _markdown_table(rows)]
    if reasons := reasons_of(rows):
        parts += ["## Not run", "\n".join(f"- {line}" for line in reasons)]
    if embedded:
        heading = f"## Embedded models ({embedded_source}; not in the paper)"
        parts += [heading, _markdown_table(embedded)]
    parts += ["## Notes", "\n".join(f"- {note}" for note in notes())]
    parts += ["## Sources", "\n".join(f"{i}. {s}" for i, s in enumerate(source_names(), 1))]
    return "\n\n".join(parts) + "\n"


def csv_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """The rows as data: published numbers in percent, ours as proportions."""
    columns = [
        *("benchmark", "metric", "model", "status", "reason", "folder"),
        *("published_plain", "published_plain_source", "published_focus_gain", "n"),
        *(f"{name}_{key}" for name in ("plain", "focus") for key in RESULTS),
        *DELTAS,
    ]
    frame = pd.DataFrame(list(rows)).reindex(columns=columns)
    for column in ("published_plain", "published_plain_source", "published_focus_gain"):
        frame[column] = ["; ".join(map(str, values)) for values in frame[column]]
    return frame


def reasons_of(rows: Sequence[Row]) -> list[str]:
    """Why cells are missing, each reason once, with the cells that it holds for."""
    cells: dict[tuple[str, str], dict[str, None]] = {}
    for row in rows:
        if row["status"] != "run":
            name = f"{row['benchmark']} x {row['model']}"
            cells.setdefault((row["status"], row["reason"]), {})[name] = None
    return [f"{status} ({', '.join(names)}): {reason}" for (status, reason), names in cells.items()]


def notes() -> list[str]:
    """How to read the table."""
    claims = [n for n in PUBLISHED if n.model is None]
    claimed = ", ".join(f"{n.benchmark} {n.metric} up to {n.value:+.1f}" for n in claims)
    return [
        f"The paper's tables per model were not found; its summary claims {claimed} "
        f"({claims[0].source}, {claims[0].version}).",
        "Percent throughout; differences in percentage points, paired on the same questions, with "
        "Holm's adjustment over the comparisons of one metric.",
        "Protocols differ: published numbers of plain models are on all questions, with the "
        "prompts and parsers of their sources; ours are on the nine tenths that are not for "
        "tuning, strict (greedy, anchored parser) or official (temperature 0.2, the authors' "
        "prompts and parsers). Only differences compare.",
        "LLaVA-OneVision: the published code gives plain decoding any-resolution tiles (3,699 "
        "tokens for 512 x 512) and FOCUS one tile per image (730), so that its difference is one "
        "of resolution too. The official table does the same; the strict one gives both one tile.",
        "Several published numbers in one place are of the same checkpoint under other protocols.",
    ]


def source_names() -> list[str]:
    """The sources of all published numbers, in the order of the table's references."""
    return list(dict.fromkeys(source_of(number) for number in PUBLISHED))


def source_of(number: Published) -> str:
    """Source, version and whether it is at second hand."""
    hand = ", second-hand" if number.second_hand else ""
    return f"{number.source}, {number.version}{hand}"


def _markdown_table(rows: Sequence[Row]) -> str:
    lines = pd.DataFrame(table_lines(rows), columns=COLUMNS)
    return lines.to_markdown(index=False, disable_numparse=True)


def _percent(row: Row, prefix: str) -> str:
    value, low, high = (row[f"{prefix}{key}"] for key in RESULTS)
    if value is None:
        return "-"
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _delta(row: Row) -> str:
    if row["delta"] is None:
        return "-"
    low, high = 100 * row["delta_low"], 100 * row["delta_high"]
    return f"{100 * row['delta']:+.1f} [{low:+.1f}, {high:+.1f}]"
