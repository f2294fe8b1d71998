"""The tables that a run ends with, and those of pages: text of what `analysis.summary` found."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table

from analysis.statistics import detectable_difference
from analysis.summary import BASELINE, CELL, SCORES, Metrics

PAIRED_NOTE = (
    "score: accuracy of the generated text; of minimal pairs the image score, for which both "
    "questions of a pair must be right. difference: paired, in points. ranked: the same first step "
    "read as a ranking of the candidate answers. leakage: answers that are true of another image."
)


def power_note(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the comparisons of accuracy in a table could not have shown."""
    compared = [row for row in rows if row["metric"] == "accuracy" and "discordant" in row]
    if not compared:
        return ""
    smallest = [detectable_difference(row["n"], row["discordant"]) for row in compared]
    low, high = min(smallest), max(smallest)
    if low >= 1:
        return "With so few questions and disagreements no difference in accuracy could be shown."
    span = f"{low:.3f}" if round(low, 3) == round(high, 3) else f"{low:.3f} to {high:.3f}"
    return (
        f"With these n and rates of disagreement, true differences in accuracy below {span} "
        "(by row) would be missed more than one time in five."
    )


def length_note(rows: Sequence[Mapping[str, Any]]) -> str:
    """Says where more than 1% of the answers were cut; empty where none were."""
    cut = [r for r in rows if r["metric"] == "truncated rate" and r["value"] > 0.01]
    if not cut:
        return ""
    worst = max(cut, key=lambda row: row["value"])
    return (
        f"Up to {worst['value']:.1%} of the answers ({worst['model']}, {worst['decoding']}) were "
        "cut at their longest length; raise settings.max_new_tokens before reading accuracies."
    )


#: Column and metric of what a table shows where some row has it.
OPTIONAL = {
    "failed": "failed rate",
    "truncated": "truncated rate",
    "leakage": "leakage rate",
    "unparsed": "unparsed rate",
    "choice accuracy": "choice accuracy",
    "text score": "text score",
    "image score": "image score",
    "group score": "group score",
    "image choice score": "image choice score",
    "swap consistency": "swap consistency",
    "mc pairs": "mc pair accuracy",
    "yes/no pairs": "binary pair accuracy",
    "yes/no quads": "binary quad accuracy",
    "adversarial errors": "adversarial error rate",
}


def table_lines(
    rows: Sequence[Mapping[str, Any]],
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns, and one line of text per benchmark, model and strategy."""
    cells, shown = _cells(rows)
    seeds = any("seed_sd" in row for row in rows)
    columns = (
        *(*CELL, "n", "accuracy [95%]", *shown),
        *(("sd over noise seeds",) if seeds else ()),
        *("s / question", "accuracy - plain [95%]", "p (Holm)"),
    )
    lines = []
    for labels, metrics in cells.items():
        accuracy = metrics["accuracy"]
        spread = f"{accuracy['seed_sd']:.3f} ({accuracy['seeds']})" if "seed_sd" in accuracy else ""
        line = (
            *(*labels, str(accuracy["n"]), _proportion(accuracy, interval=True)),
            *(_proportion(metrics.get(metric)) for metric in shown.values()),
            *((spread,) if seeds else ()),
            *(f"{metrics['seconds']['value']:.3f}", _delta(accuracy)),
            f"{accuracy['p_holm']:.2g}" if "p_holm" in accuracy else "",
        )
        lines.append(line)
    return columns, lines


def summary_table(rows: Sequence[Mapping[str, Any]], *, title: str = "") -> Table:
    """The rows as a table for the terminal: benchmark and model stand under each other."""
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("benchmark\nmodel")
    columns, cells = table_lines(rows)
    for column in columns[2:]:
        words = (
            column.replace(" [", "\n[").replace(" score", "\nscore").replace("choice ", "choice\n")
        )
        table.add_column(words, justify="left" if column in CELL else "right")
    blocks: dict[tuple[str, ...], list[tuple[str, ...]]] = {}
    for line in cells:
        blocks.setdefault(line[:2], []).append(line[2:])
    for labels, lines in blocks.items():
        for label, line in itertools.zip_longest(labels, lines, fillvalue=()):
            table.add_row(label or "", *line)
        table.add_section()
    return table


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as a table for a document."""
    columns, lines = table_lines(rows)
    frame = pd.DataFrame(lines, columns=list(columns))
    return frame.to_markdown(index=False, disable_numparse=True)


def paired_lines(
    rows: Sequence[Mapping[str, Any]],
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Columns, and one line in percent per benchmark and model: plain decoding → a strategy.

    The score of a benchmark is the first of `SCORES` that it has. Differences are paired.
    """
    cells, _ = _cells(rows)
    others = {decoding for *_, decoding in cells} - {BASELINE}
    columns = (
        *(*CELL[:2], *(CELL[2:] if len(others) > 1 else ()), "n"),
        *("score", "difference [95%]", "ranked", "leakage"),
    )
    lines = []
    for labels, metrics in cells.items():
        if labels[-1] == BASELINE:
            continue
        before = cells[*labels[:2], BASELINE]
        score = next(name for name in SCORES if name in metrics)
        steps = [_step(before, metrics, m) for m in (score, SCORES[score], "leakage rate")]
        shown = labels if len(others) > 1 else labels[:2]
        difference = _delta(metrics[score], percent=True)
        line = (*shown, str(metrics[score]["n"]), steps[0], difference, *steps[1:])
        lines.append(line)
    return columns, lines


def paired_table(rows: Sequence[Mapping[str, Any]], *, title: str) -> Table:
    """`paired_lines` for the terminal."""
    columns, lines = paired_lines(rows)
    table = Table(
        title=title, title_justify="left", header_style="bold",
        box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False,
    )  # fmt: skip
    for column in columns:
        table.add_column(column, justify="left" if column in CELL else "right", no_wrap=True)
    for _, block in itertools.groupby(lines, key=lambda line: line[0]):
        for line in block:
            table.add_row(*line)
        table.add_section()
    return table


def paired_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """`paired_lines` for a document."""
    columns, lines = paired_lines(rows)
    frame = pd.DataFrame(lines, columns=list(columns))
    return frame.to_markdown(index=False, disable_numparse=True)


def _step(before: Metrics, after: Metrics, metric: str) -> str:
    if metric not in before or metric not in after:
        return "-"
    return f"{100 * before[metric]['value']:.0f} → {100 * after[metric]['value']:.0f}"


def bench_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Ratios that `experiments.bench` measured, as a table for a document."""
    frame = pd.DataFrame(
        {
            "N": [str(row["num_images"]) for row in rows],
            "scheme": [row["scheme"] for row in rows],
            "seconds": [f"{row['seconds']:.2f}" for row in rows],
            "x plain decoding": [f"{row['over_plain']:.2f}" for row in rows],
            "faster than published": [f"{row['published_over_this']:.2f}" for row in rows],
        }
    )
    return frame.to_markdown(index=False, disable_numparse=True)


def throughput_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Questions per second one by one and in batches, beside what bounds them, as a table."""
    rates = {"alone_per_second": "one by one", "batched_per_second": "in batches",
             "model_per_second": "model alone", "floor_per_second": "operations"}  # fmt: skip
    frame = pd.DataFrame(
        [
            {"read as": row["read"], "": row["scheme"],
             **{name: f"{row[key]:.0f}" for key, name in rates.items()},
             "faster": f"{row['faster']:.1f}"}
            for row in rows
        ]
    )  # fmt: skip
    return frame.to_markdown(index=False, disable_numparse=True)


def prefill_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Cost of the first token over plain decoding's, measured and (by operations), as a table: of
    the shortest text, where the images weigh most."""
    shortest = min(row["text"] for row in rows)
    chosen = [row for row in rows if row["text"] == shortest]
    frame = pd.DataFrame(chosen)
    frame["cost"] = [f"{row['over_plain']:.2f} ({row['flops_over_plain']:.2f})" for row in chosen]
    names = {"num_images": "N", "image": "tokens per image"}
    schemes = [name for name in dict.fromkeys(frame["scheme"]) if name != "plain decoding"]
    table = frame.pivot_table(index=list(names), columns="scheme", values="cost", aggfunc="first")
    table = table[schemes].reset_index().rename(columns=names)
    return table.to_markdown(index=False, disable_numparse=True)


def _cells(
    rows: Sequence[Mapping[str, Any]],
) -> tuple[dict[tuple[str, ...], dict[str, Mapping[str, Any]]], dict[str, str]]:
    """Rows by metric for each benchmark, model and strategy, and the optional columns they fill."""
    cells: dict[tuple[str, ...], dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        cells.setdefault(tuple(row[key] for key in CELL), {})[row["metric"]] = row
    present = {row["metric"] for row in rows}
    return cells, {column: metric for column, metric in OPTIONAL.items() if metric in present}


def _proportion(row: Mapping[str, Any] | None, *, interval: bool = False) -> str:
    if row is None:
        return "-"
    value = f"{row['value']:.3f}"
    return f"{value} [{row['ci_low']:.3f}, {row['ci_high']:.3f}]" if interval else value


def _delta(row: Mapping[str, Any], *, percent: bool = False) -> str:
    if "delta" not in row:
        return ""
    values = (row[key] for key in ("delta", "delta_low", "delta_high"))
    delta, low, high = (f"{100 * v:+.0f}" if percent else f"{v:+.3f}" for v in values)
    return f"{delta} [{low}, {high}]"
