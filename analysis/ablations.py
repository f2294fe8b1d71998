"""From lines of marks to tables: accuracies, leakage and differences to plain decoding.

A record is one line of `experiments.ablate`: settings, and the marks of all questions
(`focus.marks`). Lines of one model about the same ``questions`` pair question by question;
those whose ``rule`` is ``plain`` are the baseline.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from analysis.resampling import difference_row, mean_interval
from analysis.statistics import holm
from analysis.zoo import TRACEABLE
from focus.errors import InvalidValueError
from focus.marks import CANDIDATES, TEXT
from focus.records import Record

PLAIN = "plain"
#: What a line must share with the plain line it is compared with.
PAIRED = ("model", "questions", "reading", "temperature")
#: Settings of a line, in the order of a table's columns.
SETTINGS = (
    *("model", "world", "kind", "num_images", "similarity", "position", "split", "questions"),
    *(
        "rule",
        "alpha",
        "beta",
        "noise",
        "scale",
        "severity",
        "seed",
        "sharing",
        "targets",
        "tint",
        "scheme",
    ),
    *("temperature", "setting", "reading"),
)
#: What tables and figures put together, unless they are about it: worlds, how alike images are, and
#: what was chosen on dev.
POOLED = ("world", "similarity", "alpha", "setting")
METRICS = {"accuracy": "+", "leakage": "x", "abstained": "?"}
#: Of minimal pairs: a pair counts only if both captions find their image (VisMin, Winoground).
IMAGE_SCORE = "image score"
#: Accuracy or, for minimal pairs, the image score: what a set of questions is judged by.
HEADLINE = "headline"


#: Name of the rows of FOCUS among the schemes; lines of records about them name none.
FOCUS_ROWS = "focus"


def on_scheme(rule: str, scheme: str) -> str:
    """Name of a rule on rows of a scheme; on those of FOCUS it is the rule's own.

    >>> on_scheme("sum", "focus"), on_scheme("sum", "composed")
    ('sum', 'composed sum')
    """
    return rule if scheme == FOCUS_ROWS else f"{scheme} {rule}"


def of_kind(records: Iterable[Record], kind: str) -> list[Record]:
    """Records whose ``record`` is ``answers``, ``questions``, ``rows`` or ``cost``."""
    return [record for record in records if record["record"] == kind]


def shown_reading(records: Iterable[Record], wanted: str = TEXT) -> str:
    """The reading that tables and figures show: the ranking where answers have no other.

    >>> shown_reading([{"record": "answers", "reading": "candidates"}])
    'candidates'
    """
    found = {record["reading"] for record in of_kind(records, "answers") if "reading" in record}
    return wanted if wanted in found else CANDIDATES


def values_of(record: Mapping[str, Any], metric: str = "accuracy") -> np.ndarray:
    """One value per question: whether it has the metric's mark, or its expected accuracy."""
    if record.get("scores") is not None:  # in hundredths
        if metric != "accuracy":
            raise InvalidValueError("metric", metric, "accuracy, where answers are sampled")
        return np.asarray(record["scores"], dtype=float) / 100
    if metric not in METRICS:
        raise InvalidValueError("metric", metric, f"one of {', '.join(METRICS)}")
    marks = np.frombuffer(record["marks"].encode(), dtype="S1")
    return (marks == METRICS[metric].encode()).astype(float)


def unit_values(
    line: Mapping[str, Any], questions: Mapping[str, Any], metric: str
) -> tuple[np.ndarray, list[str]]:
    """One value per unit that a metric is measured on, and the cluster of each.

    Args:
        line: answers of one setting.
        questions: the ``questions`` record of those answers; its ``groups`` tell which questions
            count only together.
        metric: key of `METRICS`, or `IMAGE_SCORE`: one value per pair, the product of its questions
            (both right; where answers are sampled, the probability that both are, since each is
            drawn by itself).
    """
    known, clusters = questions["questions"], questions["clusters"]
    if metric != IMAGE_SCORE:
        return values_of(line, metric), _labels(known, tuple(clusters))
    if line["kind"] != "matching":
        raise InvalidValueError("metric", metric, f"accuracy, for questions of kind {line['kind']}")
    pairs: dict[Any, float] = {}
    cluster_of: dict[Any, Any] = {}
    for value, group, cluster in zip(values_of(line), questions["groups"], clusters, strict=True):
        pairs[group] = pairs.get(group, 1.0) * float(value)
        cluster_of[group] = cluster
    return np.array(list(pairs.values())), _labels(known, tuple(cluster_of.values()))


@lru_cache(maxsize=10_000)
def _labels(known: str, clusters: tuple[Any, ...]) -> list[str]:
    """Labels of clusters that no other questions have; made once for all lines about them."""
    return [f"{known}/{label}" for label in clusters]


def metric_of(line: Mapping[str, Any], metric: str) -> str:
    """The metric itself; for `HEADLINE` that of the line's kind of questions."""
    if metric != HEADLINE:
        return metric
    return IMAGE_SCORE if line["kind"] == "matching" else "accuracy"


def answers_frame(
    records: Iterable[Record], *, metric: str = "accuracy", pooled: Sequence[str] = ()
) -> pd.DataFrame:
    """One row per line: its value with interval, and its paired difference to plain decoding.

    Args:
        records: of one experiment; plain lines among them.
        metric: key of `METRICS`, `IMAGE_SCORE` or `HEADLINE`; lines that have none are left out.
        pooled: settings over which units are put together (``world``: all worlds in one row).

    Returns:
        Columns `SETTINGS` without the pooled ones, then metric, value, ci_low, ci_high, n (units),
        clusters and, but for plain lines, delta, delta_low, delta_high, p_value and p_holm (over
        all rows).
    """
    records = list(records)
    questions = {r["questions"]: r for r in of_kind(records, "questions")}
    lines = [line for line in of_kind(records, "answers") if _measured(line, metric)]
    plain = {_pair(line): line for line in lines if line["rule"] == PLAIN}
    groups: dict[tuple[Any, ...], list[Record]] = {}
    dropped = {*pooled, *(("questions",) if pooled else ())}
    kept = [name for name in SETTINGS if name not in dropped]
    for line in lines:
        key = (*(line.get(name) for name in kept), metric_of(line, metric))
        groups.setdefault(key, []).append(line)
    rows = []
    for key, members in groups.items():
        values, labels = pool_units(members, questions, key[-1])
        row = {**dict(zip((*kept, "metric"), key, strict=True)), **level_row(values, labels)}
        if members[0]["rule"] != PLAIN:
            base = [plain[_pair(member)] for member in members if _pair(member) in plain]
            if len(base) == len(members):
                other, _ = pool_units(base, questions, key[-1])
                row |= difference_row(values, other, labels)
        rows.append(row)
    return adjusted(rows)


def _measured(line: Record, metric: str) -> bool:
    if metric == IMAGE_SCORE:
        return bool(line["kind"] == "matching")
    if metric == "leakage" and line["kind"] not in TRACEABLE:
        return False
    return "marks" in line or metric in ("accuracy", HEADLINE)


def pool_units(
    lines: Iterable[Record], questions: Mapping[str, Record], metric: str
) -> tuple[np.ndarray, list[str]]:
    """Values and cluster labels of several lines in one, in their order; see `unit_values`.

    `HEADLINE` is that of each line, so lines of several kinds may be put together.
    """
    parts = [
        unit_values(line, questions[line["questions"]], metric_of(line, metric)) for line in lines
    ]
    return np.concatenate([values for values, _ in parts]), [x for _, xs in parts for x in xs]


def adjusted(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows as a frame, with p_holm: Holm's adjustment over all of them that have a p-value."""
    compared = [row for row in rows if "p_value" in row]
    for row, p_holm in zip(compared, holm([row["p_value"] for row in compared]), strict=True):
        row["p_holm"] = p_holm
    frame = pd.DataFrame(rows)
    for column in ("delta", "delta_low", "delta_high", "p_value", "p_holm"):
        if column not in frame:
            frame[column] = np.nan
    return frame


def _pair(line: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(line.get(name) for name in PAIRED)


def level_row(values: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    """Mean of values with its interval, n and the number of clusters."""
    low, high = mean_interval(values, labels)
    mean = float(values.mean())
    return {
        "value": mean,
        "ci_low": low,
        "ci_high": high,
        "n": len(values),
        "clusters": len(set(labels)),
    }


def by_label(record: Mapping[str, Any], labels: Sequence[Any]) -> pd.DataFrame:
    """Accuracy of one line by a label of its questions (position, domain, right answer).

    Returns:
        Columns label, value, ci_low, ci_high, n, in the order of first appearance.
    """
    values = values_of(record)
    if len(labels) != len(values):
        raise InvalidValueError("len(labels)", len(labels), f"{len(values)}, one per question")
    rows = []
    for label in dict.fromkeys(labels):
        part = values[[other == label for other in labels]]
        low, high = mean_interval(part)
        mean = float(part.mean())
        rows.append({"label": label, "value": mean, "ci_low": low, "ci_high": high, "n": len(part)})
    return pd.DataFrame(rows)


def choose(scores: Mapping[float, float]) -> float:
    """The setting with the highest score on dev; of equal ones the smallest.

    >>> choose({0.0: 0.5, 0.3: 0.75, 0.7: 0.75})
    0.3

    Raises:
        InvalidValueError: nothing to choose from.
    """
    if not scores:
        raise InvalidValueError("scores", scores, "at least one setting")
    return max(sorted(scores), key=lambda setting: scores[setting])


def adaptive_curve(
    margins: np.ndarray, plain: np.ndarray, focus: np.ndarray, *, branched_rows: float
) -> pd.DataFrame:
    """Accuracy against cost of branching only where plain decoding is unsure.

    Args:
        margins: between the two most likely first tokens of plain decoding, per question.
        plain: accuracy of plain decoding, per question.
        focus: accuracy of FOCUS, per question.
        branched_rows: rows of a question that branches, without the look at plain decoding.

    Returns:
        One row per threshold (from never to always): threshold, branched (share of the questions),
        rows (mean number of rows run) and value. A question branches where its margin is below the
        threshold; it then costs the plain row and those of the branches.
    """
    thresholds = [0.0, *sorted(set(margins[margins > 0].tolist())), np.inf]
    rows = []
    for threshold in thresholds:
        unsure = margins < threshold
        rows.append(
            {
                "threshold": threshold,
                "branched": float(unsure.mean()),
                # Where nothing is ever sure there is no need to look first.
                "rows": float(branched_rows)
                if threshold == np.inf
                else 1 + float(unsure.mean()) * branched_rows,
                "value": float(np.where(unsure, focus, plain).mean()),
            }
        )
    return pd.DataFrame(rows)


def pareto(frame: pd.DataFrame, cost: str, value: str = "value") -> pd.Series:
    """Whether no other row is at least as good at no higher cost, and better in one of them."""
    better = [
        ((frame[cost] <= row[cost]) & (frame[value] >= row[value])
         & ((frame[cost] < row[cost]) | (frame[value] > row[value]))).any()
        for _, row in frame.iterrows()
    ]  # fmt: skip
    return ~pd.Series(better, index=frame.index)
