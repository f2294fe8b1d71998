"""From records to the table that a run ends with, as data and as text."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table

from analysis.mvh import is_mvh, mvh_metrics
from analysis.statistics import (
    clustered_interval,
    detectable_difference,
    holm,
    paired_difference,
    wilson_interval,
)

BASELINE = "vanilla"
CELL = ["benchmark", "model", "decoding"]
Metrics = Mapping[str, Mapping[str, Any]]  # summary rows of one cell, by metric
#: What a benchmark is judged by, the first that it has (pairs are about both their images), and the
#: same first step read as a ranking of the candidates.
SCORES = {"image score": "image choice score", "accuracy": "choice accuracy"}
PAIRED_NOTE = (
    "score: accuracy of the generated text; of minimal pairs the image score, for which both "
    "questions of a pair must be right. difference: paired, in points. ranked: the same first step "
    "read as a ranking of the candidate answers. leakage: answers that are true of another image."
)


def metric_values(records: pd.DataFrame) -> dict[str, pd.Series]:
    """Per metric, one value for each unit that it is measured on.

    Returns:
        ``accuracy`` of the generated text, ``unparsed rate``, ``failed rate`` (could not be
        processed) and ``truncated rate`` (cut at the longest answer) where there are such,
        ``choice accuracy`` (of the most likely candidate answer) and, where a wrong answer can be
        traced to another image, ``leakage rate``: one value per question, indexed by its id. Where
        questions come in groups, ``<category> score`` and ``group score``: one value per group of
        questions that count only if all of them are right (Winoground, VisMin), indexed by the
        cluster; MVH-Bench has metrics of its own, see `analysis.mvh`.
    """
    by_id = records.set_index("id")
    metrics = {
        "accuracy": by_id["score"].astype(float),
        "unparsed rate": by_id["unparsed"].astype(float),
    }
    for name, column in (("failed rate", "error"), ("truncated rate", "truncated")):
        known = by_id.get(column, pd.Series(False, index=by_id.index))
        happened = known.notna() if column == "error" else known.fillna(False).astype(bool)
        if column in by_id and happened.any():
            metrics[name] = happened.astype(float)
    chosen = by_id["choice_answer"].notna()
    if chosen.any():
        right = by_id["choice_answer"] == by_id["answer"]
        metrics["choice accuracy"] = right[chosen].astype(float)
    traceable = by_id["traceable"].astype(bool)
    if traceable.any():
        metrics["leakage rate"] = by_id.loc[traceable, "leaked"].astype(float)
    if is_mvh(records["benchmark"].iloc[0]):
        metrics |= mvh_metrics(records)
    elif records["group"].duplicated().any():
        for category, part in records.groupby("category"):
            pairs = part.groupby("cluster")
            metrics[f"{category} score"] = pairs["correct"].all().astype(float)
            if part["choice_answer"].notna().all():
                right = (part["choice_answer"] == part["answer"]).groupby(part["cluster"])
                metrics[f"{category} choice score"] = right.all().astype(float)
        if records["category"].nunique() > 1:
            metrics["group score"] = records.groupby("cluster")["correct"].all().astype(float)
    return metrics


def summarise(records: Iterable[Mapping[str, Any]], *, level: float = 0.95) -> list[dict[str, Any]]:
    """One row per benchmark, model, strategy and metric.

    Proportions carry Wilson intervals, or cluster-robust ones where questions share images. The
    difference to plain decoding is paired: the same units under both strategies.

    Returns:
        Rows with keys benchmark, model, decoding, metric, value, ci_low, ci_high, n and, for
        strategies other than plain decoding, delta, delta_low, delta_high, p_value, p_test, p_holm
        (Holm's adjustment over the comparisons of that metric) and discordant (share of units on
        which the two differ).
        The metric ``seconds`` (mean per question) has no interval. Rows are about the first order
        and noise seed; further orders give swap metrics, further seeds ``seed_sd`` of the accuracy.
    """
    everything = pd.DataFrame(list(records))
    for column in ("order", "seed"):  # missing in records of one order and seed
        known = everything.get(column, 0)
        everything[column] = pd.Series(known, index=everything.index).fillna(0).astype(int)
    frame = everything[(everything["order"] == 0) & (everything["seed"] == 0)]
    rows: list[dict[str, Any]] = []
    for _, block in frame.groupby(CELL[:2], sort=False):
        cells = {name: cell for name, cell in block.groupby("decoding", sort=False)}
        baseline = metric_values(cells[BASELINE]) if BASELINE in cells else {}
        for cell in cells.values():
            clusters = cell.set_index("id")["cluster"]
            labels = cell.iloc[0][CELL].to_dict()
            labelled = everything[(everything[CELL] == cell.iloc[0][CELL]).all(axis=1)]
            for metric, values in (metric_values(cell) | swap_values(labelled)).items():
                row = {**labels, "metric": metric, **_interval(values, clusters, level)}
                if cell.iloc[0]["decoding"] != BASELINE and metric in baseline:
                    row |= _difference(values, baseline[metric], clusters, level)
                if metric == "accuracy":
                    row |= _seed_spread(labelled)
                rows.append(row)
            seconds = {"value": float(cell["seconds"].mean()), "ci_low": None, "ci_high": None}
            rows.append({**labels, "metric": "seconds", **seconds, "n": len(cell)})
    _adjust(rows)
    return rows


def swap_values(records: pd.DataFrame) -> dict[str, pd.Series]:
    """What a change of order does, on questions that were asked in several.

    Args:
        records: of one cell, in all orders.

    Returns:
        ``swap consistency``: whether the same content was chosen in every order (an unread answer
        is not), and ``swap accuracy``: whether it was the right one in every order; one value per
        question. Empty where there is one order only; questions without options have no order.
    """
    asked = records[records["seed"] == 0]
    if asked["order"].nunique() < 2:
        return {}
    several = asked.groupby("id")["order"].transform("nunique") > 1
    asked = asked[several & (asked["permutation"].str.len() > 1)]
    if asked.empty:
        return {}
    chosen = asked.apply(_chosen_content, axis=1).groupby(asked["id"])
    consistent = (chosen.nunique() == 1) & (chosen.count() == chosen.size())
    return {
        "swap consistency": consistent.astype(float),
        "swap accuracy": asked.groupby("id")["correct"].all().astype(float),
    }


def _chosen_content(record: pd.Series) -> float:
    """Original index of the chosen option, whatever the order it was shown in; NaN for none."""
    if record["unparsed"] or record["parsed"] not in record["choices"]:
        return float("nan")
    return float(record["permutation"][record["choices"].index(record["parsed"])])


def _seed_spread(records: pd.DataFrame) -> dict[str, Any]:
    """Standard deviation of the accuracy over noise seeds: not the variance over questions."""
    first = records[records["order"] == 0]
    everywhere = first.groupby("id")["seed"].transform("nunique") == first["seed"].nunique()
    by_seed = first[everywhere].groupby("seed")["score"].mean()  # the same questions each time
    if len(by_seed) < 2:
        return {}
    return {"seeds": len(by_seed), "seed_sd": float(by_seed.std(ddof=1))}


def _interval(values: pd.Series, clusters: pd.Series, level: float) -> dict[str, Any]:
    shared = clusters.reindex(values.index)
    if shared.notna().all() and shared.duplicated().any():
        low, high = clustered_interval(values.to_numpy(), shared.to_numpy(), level=level)
        return {"value": float(values.mean()), "ci_low": low, "ci_high": high, "n": len(values)}
    return independent_mean(values, level)


def independent_mean(values: pd.Series, level: float) -> dict[str, Any]:
    """Mean of scores that share nothing, with its interval and n."""
    if values.isin([0.0, 1.0]).all():
        low, high = wilson_interval(int(values.sum()), len(values), level=level)
    else:  # graded scores are no proportion of right answers
        low, high = clustered_interval(values.to_numpy(), range(len(values)), level=level)
    return {"value": float(values.mean()), "ci_low": low, "ci_high": high, "n": len(values)}


def _difference(
    values: pd.Series, baseline: pd.Series, clusters: pd.Series, level: float
) -> dict[str, Any]:
    common = values.index.intersection(baseline.index)
    shared = clusters.reindex(common)
    grouped = shared.notna().all() and shared.duplicated().any()
    result = paired_difference(
        values[common].to_numpy(),
        baseline[common].to_numpy(),
        clusters=shared.to_numpy() if grouped else None,
        level=level,
    )
    return {
        "delta": result.delta,
        "delta_low": result.low,
        "delta_high": result.high,
        "p_value": result.p_value,
        "p_test": result.test,
        "discordant": float((values[common] != baseline[common]).mean()),
    }


def _adjust(rows: list[dict[str, Any]]) -> None:
    """Adds `p_holm`: all comparisons of one metric in a table are one family."""
    for metric in {row["metric"] for row in rows}:
        family = [row for row in rows if row["metric"] == metric and "p_value" in row]
        for row, p_holm in zip(family, holm([r["p_value"] for r in family]), strict=True):
            row["p_holm"] = p_holm


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


def prefill_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Cost of the first token over plain decoding's, measured and (by operations), as a table."""
    frame = pd.DataFrame(rows)
    frame["cost"] = [f"{row['over_plain']:.2f} ({row['flops_over_plain']:.2f})" for row in rows]
    names = {"num_images": "N", "image": "tokens per image", "text": "words"}
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
