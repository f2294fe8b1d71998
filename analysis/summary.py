"""From records to the numbers of a run: each metric of each cell, interval and difference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from analysis.mvh import is_mvh, mvh_metrics
from analysis.statistics import (
    clustered_interval,
    holm,
    paired_difference,
    wilson_interval,
)

BASELINE = "plain"
CELL = ["benchmark", "model", "decoding"]
Metrics = Mapping[str, Mapping[str, Any]]  # summary rows of one cell, by metric
#: What a benchmark is judged by, the first that it has (pairs are about both their images), and the
#: same first step read as a ranking of the candidates.
SCORES = {"image score": "image choice score", "accuracy": "choice accuracy"}


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
