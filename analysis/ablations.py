"""From lines of marks to tables: accuracies, leakage and differences to plain decoding.

A record is one line of `experiments.ablate`: settings, and the marks of all questions
(`analysis.answers`). Lines of one model about the same ``questions`` pair question by question;
those whose ``rule`` is ``plain`` are the baseline.
"""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.resampling import mean_interval
from analysis.statistics import holm, paired_difference
from focus.errors import InvalidValueError

Record = dict[str, Any]
PLAIN = "plain"
#: What a line must share with the plain line it is compared with.
PAIRED = ("model", "questions", "reading", "temperature")
#: Settings of a line, in the order of a table's columns.
SETTINGS = (
    *("model", "world", "kind", "num_images", "similarity", "position", "split", "questions"),
    *("rule", "alpha", "beta", "noise", "scale", "severity", "seed", "sharing", "targets", "tint"),
    *("temperature", "setting", "reading"),
)
METRICS = {"accuracy": "+", "leakage": "x", "abstained": "?"}


def write_records(path: str | os.PathLike[str], records: Iterable[Mapping[str, Any]]) -> None:
    """Writes JSON lines, gzipped, in one move; equal records give equal bytes."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0, filename="") as file:
        file.write(text.encode())
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(buffer.getvalue())
    partial.replace(path)


def read_records(path: str | os.PathLike[str]) -> list[Record]:
    """Records of a file; none if there is no file."""
    if not Path(path).exists():
        return []
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def of_kind(records: Iterable[Record], kind: str) -> list[Record]:
    """Records whose ``record`` is ``answers``, ``questions``, ``rows`` or ``cost``."""
    return [record for record in records if record["record"] == kind]


def values_of(record: Mapping[str, Any], metric: str = "accuracy") -> np.ndarray:
    """One value per question: whether it has the metric's mark, or its expected accuracy."""
    if record.get("scores") is not None:  # in thousandths
        if metric != "accuracy":
            raise InvalidValueError("metric", metric, "accuracy, where answers are sampled")
        return np.asarray(record["scores"], dtype=float) / 1000
    if metric not in METRICS:
        raise InvalidValueError("metric", metric, f"one of {', '.join(METRICS)}")
    marks = np.frombuffer(record["marks"].encode(), dtype="S1")
    return (marks == METRICS[metric].encode()).astype(float)


def answers_frame(
    records: Iterable[Record], *, metric: str = "accuracy", pooled: Sequence[str] = ()
) -> pd.DataFrame:
    """One row per line: its value with interval, and its paired difference to plain decoding.

    Args:
        records: of one experiment; plain lines among them.
        metric: key of `METRICS`.
        pooled: settings over which questions are put together (``world``: all worlds in one row);
            only lines that have every pooled setting that the group's plain lines have.

    Returns:
        Columns `SETTINGS` without the pooled ones, then value, ci_low, ci_high, n, clusters and,
        but for plain lines, delta, delta_low, delta_high, p_value and p_holm (over all rows).
    """
    records = list(records)
    clusters = {r["questions"]: r["clusters"] for r in of_kind(records, "questions")}
    lines = of_kind(records, "answers")
    plain = {_pair(line): line for line in lines if line["rule"] == PLAIN}
    groups: dict[tuple[Any, ...], list[Record]] = {}
    dropped = {*pooled, *(("questions",) if pooled else ())}
    kept = [name for name in SETTINGS if name not in dropped]
    for line in lines:
        groups.setdefault(tuple(line.get(name) for name in kept), []).append(line)
    rows = []
    for key, members in groups.items():
        labels = [
            f"{member['questions']}/{label}"
            for member in members
            for label in clusters[member["questions"]]
        ]
        values = np.concatenate([values_of(member, metric) for member in members])
        row = {**dict(zip(kept, key, strict=True)), **_level(values, labels)}
        if members[0]["rule"] != PLAIN:
            base = [plain.get(_pair(member)) for member in members]
            if all(base):
                other = np.concatenate([values_of(line, metric) for line in base if line])
                row |= _difference(values, other, labels)
        rows.append(row)
    adjusted = holm([row["p_value"] for row in rows if "p_value" in row])
    for row, p_holm in zip((r for r in rows if "p_value" in r), adjusted, strict=True):
        row["p_holm"] = p_holm
    frame = pd.DataFrame(rows)
    for column in ("delta", "delta_low", "delta_high", "p_value", "p_holm"):
        if column not in frame:
            frame[column] = np.nan
    return frame


def _pair(line: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(line.get(name) for name in PAIRED)


def _level(values: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    low, high = mean_interval(values, labels)
    mean = float(values.mean())
    return {
        "value": mean,
        "ci_low": low,
        "ci_high": high,
        "n": len(values),
        "clusters": len(set(labels)),
    }


def _difference(values: np.ndarray, other: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    low, high = mean_interval(values - other, labels, bounds=(-1.0, 1.0))
    alone = len(set(labels)) == len(labels)
    # Of the thorough comparison only the test is taken; its bootstrap would take minutes here.
    test = paired_difference(values, other, None if alone else labels, resamples=1000)
    return {
        "delta": float((values - other).mean()),
        "delta_low": low,
        "delta_high": high,
        "p_value": test.p_value,
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
    margins: np.ndarray, plain: np.ndarray, focus: np.ndarray, *, num_branches: int
) -> pd.DataFrame:
    """Accuracy against cost of branching only where plain decoding is unsure.

    Args:
        margins: between the two most likely first tokens of plain decoding, per question.
        plain: accuracy of plain decoding, per question.
        focus: accuracy of FOCUS, per question.
        num_branches: of a question.

    Returns:
        One row per threshold (from never to always): threshold, branched (share of the questions),
        rows (mean number of rows run) and value. A question branches where its margin is below the
        threshold; it then costs the plain row, the branches and the reference.
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
                "rows": num_branches + 1.0
                if threshold == np.inf
                else 1 + float(unsure.mean()) * (num_branches + 1),
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
