"""What the records of the embedded models say: rates, intervals, and FOCUS against plain decoding.

Pure functions from parsed JSON: the ``results`` of a model's record hold one character per answer
(`focus.zoo.evaluation.Answers`), so everything here can be computed again without a model.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats

from analysis.resampling import difference_row
from analysis.statistics import holm, wilson_interval
from focus.marks import CANDIDATES, TEXT
from focus.records import read_records
from focus.zoo.card import BAR, RECORD, record_folders
from focus.zoo.evaluation import FOCUS, PLAIN

#: Kinds whose wrong answers can be traced to another image.
TRACEABLE = ("indexed", "probe")
#: Kinds that need all images at once, or choose between them, in the order of the tables.
CHOICE = ("which", "same", "counting", "probe", "odd")
#: What FOCUS and plain decoding are compared by, per reading.
COMPARED = {CANDIDATES: ("indexed", "matching", *CHOICE), TEXT: ("indexed", "matching")}
#: Metrics with a paired difference; leakage has none: an answer can leave it for another error.
COMPARED_METRICS = ("accuracy", "image score")
#: Error rate of a family of comparisons.
LEVEL = 0.05

LABELS = ("world", "kind", "num_images", "category", "decoding", "reading", "metric")
VALUES = ("value", "low", "high", "n")
DELTAS = ("delta", "delta_low", "delta_high", "p_value")
COLUMNS = (*LABELS, *VALUES, *DELTAS, "p_holm")
MODEL = ("model", "family", "seed")
POINT = ("family", "world", "seed", "clean_multi", "abstention", "abstain_share")

Record = Mapping[str, Any]
Row = dict[str, Any]


def read_models(folder: Path) -> list[Record]:
    """Records of all stored models that were measured in the present form, by name."""
    paths = (each / RECORD for each in record_folders(folder).values())
    records = [json.loads(path.read_text()) for path in paths]
    return [record for record in records if is_current(record)]


def read_ladder(path: Path) -> list[Record]:
    """Finished runs of the ladder; none where there is no file."""
    if not path.exists():
        return []
    return sorted(read_records(path), key=_place)


def is_current(record: Record) -> bool:
    """Whether a record holds answers of both readings, as records do now."""
    return "alphas" in record.get("results", {})


def _place(record: Record) -> tuple[Any, ...]:
    return tuple(record[name] for name in ("family", "world", *_ABSTENTION, "clean_multi", "seed"))


_ABSTENTION = ("abstention", "abstain_share")


def models_frame(records: Iterable[Record]) -> pd.DataFrame:
    """All rates of all models, tidy; see `answer_rows`. Holm's adjustment is over all of them."""
    rows = [
        {"model": record["name"], "family": family_of(record), "seed": record["recipe"]["seed"]}
        | row
        for record in records
        for row in answer_rows(record["results"])
    ]
    return _finished(rows, MODEL)


def ladder_frame(records: Iterable[Record]) -> pd.DataFrame:
    """The same for the runs of the ladder, of indexed questions and minimal pairs."""
    rows = [
        {name: record[name] for name in POINT} | row
        for record in records
        for row in answer_rows(record["results"], kinds=COMPARED[TEXT])
    ]
    return _finished(rows, POINT)


def _finished(rows: list[Row], labels: Sequence[str]) -> pd.DataFrame:
    """Rows as a frame, with Holm's adjustment and without digits that differ between processors."""
    for family in families(rows):
        for row, p_holm in zip(family, holm([r["p_value"] for r in family]), strict=True):
            row["p_holm"] = p_holm
    columns = list(dict.fromkeys((*labels, *COLUMNS)))
    frame = pd.DataFrame(rows).reindex(columns=columns)
    for name in ("value", "low", "high", "delta", "delta_low", "delta_high"):
        frame[name] = frame[name].astype(float).round(6)
    for name in ("p_value", "p_holm"):
        frame[name] = [float(f"{p:.6g}") for p in frame[name].astype(float)]
    return frame


def families(rows: Iterable[Row]) -> list[list[Row]]:
    """Comparisons that share an error rate: indexed questions with pairs, and all other kinds."""
    compared = [row for row in rows if "p_value" in row]
    first = [row for row in compared if row["kind"] in COMPARED[TEXT]]
    return [first, [row for row in compared if row["kind"] not in COMPARED[TEXT]]]


def answer_rows(results: Record, *, kinds: Sequence[str] | None = None) -> list[Row]:
    """One row per rate of one model.

    Args:
        results: ``cells`` and ``rows`` of a record.
        kinds: to leave out others; None for all, also single images.

    Returns:
        Rows with keys `LABELS` and `VALUES`; rows of FOCUS that are compared with plain decoding
        also have `DELTAS`. The interval of a rate is Wilson's, over questions or, for scores, over
        pairs. ``category`` is a skill for single images, the kind of row for ``branches`` and
        empty elsewhere.
    """
    cells = {
        (c["world"], c["kind"], c["num_images"], c["decoding"]): c
        for c in results["cells"]
        if kinds is None or c["kind"].split()[0] in kinds
    }
    rows: list[Row] = []
    for (world, name, number, decoding), cell in cells.items():
        kind = name.split()[0]
        text = cells.get((world, "matching text", 1, PLAIN))
        plain = cells.get((world, name, number, PLAIN))
        for reading in (CANDIDATES, TEXT):
            baseline: dict[tuple[str, str], list[bool]] = {}
            if decoding == FOCUS and plain and kind in COMPARED[reading]:
                baseline = cell_scores(plain, reading, text)
            for (category, metric), scores in cell_scores(cell, reading, text).items():
                labels = (world, kind, number, category, decoding, reading, metric)
                row = dict(zip(LABELS, labels, strict=True)) | rate(sum(scores), len(scores))
                if metric in COMPARED_METRICS and (category, metric) in baseline:
                    row |= difference(scores, baseline[category, metric])
                rows.append(row)
    return rows + branch_rows(results["rows"])


def cell_scores(
    cell: Record, reading: str, text: Record | None = None
) -> dict[tuple[str, str], list[bool]]:
    """One score per unit, by category and metric.

    A unit is a question or, for minimal pairs, a pair, which counts if both of its questions are
    right; for the group score the same pair of the other direction must be right as well. FOCUS
    changes nothing about a single image, so the text direction is always that of plain decoding.

    Args:
        cell: answers of one model to one set of questions.
        reading: `CANDIDATES` or `TEXT`.
        text: cell of the text direction of the same pairs, for the group score of the image
            direction. Pairs are numbered alike in both.
    """
    marks = cell[reading]
    kind = cell["kind"]
    if kind == "single":
        by_skill = defaultdict(list)
        for mark, index in zip(marks, cell["category"], strict=True):
            by_skill[cell["categories"][int(index)], "accuracy"].append(mark == "+")
        return dict(by_skill)
    if kind == "matching text":
        return {("", "text score"): list(pair_scores(cell, reading).values())}
    if kind == "matching image":
        pairs = pair_scores(cell, reading)
        scores = {("", "image score"): list(pairs.values())}
        if text is not None:
            other = pair_scores(text, reading)
            if set(other) != set(pairs):
                raise ValueError(f"{cell['world']}: the two directions hold different pairs")
            scores["", "group score"] = [right and other[pair] for pair, right in pairs.items()]
        return scores
    scores = {("", "accuracy"): [mark == "+" for mark in marks]}
    if kind in TRACEABLE:
        scores["", "leakage"] = [mark == "x" for mark in marks]
    return scores


def pair_scores(cell: Record, reading: str) -> dict[int, bool]:
    """Whether all questions of each group are right."""
    right: dict[int, bool] = {}
    for group, mark in zip(cell["group"], cell[reading], strict=True):
        right[group] = right.get(group, True) and mark == "+"
    return right


def branch_rows(rows: Iterable[Record]) -> list[Row]:
    """What branches say on their own, as rates of the kind ``branches``.

    Off-target branches of one question are not independent, and their number is N - 1: only with
    two images do they have an interval.
    """
    found = []
    for row in rows:
        for metric in ("right", "own", "unknown"):
            place = (row["world"], "branches", row["num_images"], row["row"])
            labels = (*place, FOCUS, TEXT, metric)
            value = rate(row[metric], row["total"])
            if row["row"] == "off target" and row["num_images"] > 2:
                value |= {"low": None, "high": None}
            found.append(dict(zip(LABELS, labels, strict=True)) | value)
    return found


def rate(count: int, total: int) -> Row:
    """Rate with its 95% Wilson interval and n."""
    low, high = _wilson(count, total)
    return {"value": count / total, "low": low, "high": high, "n": total}


_wilson = cache(wilson_interval)  # thousands of rates, but few different ones


def difference(first: Sequence[bool], second: Sequence[bool]) -> Row:
    """Paired difference of two strategies on the same units, which are independent."""
    return difference_row(np.asarray(first, dtype=float), np.asarray(second, dtype=float))


def overview(record: Record) -> Row:
    """What one model is and saw, and how well it does on single images.

    Returns:
        Among others ``kind``: where it learned to abstain (on single noise images, in the context
        of several), or that it did not; shares of "unknown" among its training questions and of
        noise among its training images; ``clean_multi``: expected share of questions about several
        clean images in the whole training, and ``clean_multi_stage``, the largest share in a stage.
    """
    stages = record["recipe"]["stages"]
    mixtures = [(stage["steps"], stage["mixture"]) for stage in stages]
    seen = {
        key: sum(counts[key] for counts in record["seen"].values())
        for key in ("questions", "images", "noise images", "abstentions", "multi")
    }
    steps = sum(number for number, _ in mixtures)
    worst = worst_single(record["results"])
    return {
        "model": record["name"],
        "family": family_of(record),
        "seed": record["recipe"]["seed"],
        "parameters": record["parameters"],
        "minutes": record["minutes"],
        "steps": steps,
        "kind": kind_of(record),
        "unknown": seen["abstentions"],
        "unknown_share": seen["abstentions"] / seen["questions"],
        "noise": seen["noise images"],
        "noise_share": seen["noise images"] / seen["images"],
        "clean_multi": sum(n * mixture["clean_multi"] for n, mixture in mixtures) / steps,
        "clean_multi_stage": max(mixture["clean_multi"] for _, mixture in mixtures),
        **worst,
        "reaches_bar": worst["worst_value"] >= BAR,
    }


def family_of(record: Record) -> str:
    """Architecture family of a model."""
    return str(record["recipe"]["architecture"]["family"])


def kind_of(record: Record) -> str:
    """Where a model learned to say "unknown", or to guess, by its recipe."""
    mixtures = [stage["mixture"] for stage in record["recipe"]["stages"]]
    places = {"single noise image": "abstain_single", "noise among several": "abstain_multi"}
    found = [name for name, key in places.items() if any(m[key] > 0 for m in mixtures)]
    if found:
        return f"abstains: {' and '.join(found)}"
    # Recipes from before there were guesses do not name them.
    return "guesses" if any(m.get("guess_multi", 0) > 0 for m in mixtures) else "never abstains"


def worst_single(results: Record) -> Row:
    """The single-image skill with the lowest accuracy; the first of several."""
    skills = [
        {"worst_world": cell["world"], "worst_skill": skill}
        | {f"worst_{key}": value for key, value in rate(sum(scores), len(scores)).items()}
        for cell in results["cells"]
        if cell["kind"] == "single"
        for (skill, _), scores in cell_scores(cell, CANDIDATES).items()
    ]
    return min(skills, key=lambda row: row["worst_value"])


def select(frame: pd.DataFrame, **labels: Any) -> pd.DataFrame:
    """Rows of a frame by their labels; a sequence of values stands for any of them."""
    chosen = pd.Series(True, index=frame.index)
    for name, value in labels.items():
        values = value if isinstance(value, (list, tuple)) else (value,)
        chosen &= frame[name].isin(values)
    return frame[chosen]


def focus_points(frame: pd.DataFrame, labels: Sequence[str]) -> pd.DataFrame:
    """FOCUS minus plain at two images beside what the branches say there.

    Args:
        frame: from `models_frame` or `ladder_frame`.
        labels: columns that name a model or run, without the world.

    Returns:
        One row per model and world: ``plain``, ``focus`` and `DELTAS` on indexed questions, the
        same with the prefix ``pairs_`` for the image score of minimal pairs, ``text_`` and
        ``pairs_text_`` for the differences over the whole vocabulary; ``off_unknown``,
        ``off_own``, ``off_right``, ``reference_unknown`` and ``on_right`` of the branches.
    """
    keys = [*(name for name in labels if name != "world"), "world"]
    cells: dict[tuple[Any, ...], dict[tuple[str, ...], Row]] = {}
    for row in select(frame, num_images=2).to_dict("records"):
        found = cells.setdefault(tuple(row[key] for key in keys), {})
        found[tuple(row[name] for name in _INSIDE)] = row
    points = []
    for values, found in cells.items():
        point = dict(zip(keys, values, strict=True))
        point |= _compared(found, "indexed", "accuracy", "")
        point |= _compared(found, "matching", "image score", "pairs_")
        point["plain_leakage"] = _value(found, ("indexed", "", PLAIN, CANDIDATES, "leakage"))
        for name, sort in (("off", "off target"), ("on", "on target"), ("reference", "reference")):
            for metric in ("unknown", "own", "right"):
                place = ("branches", sort, FOCUS, TEXT, metric)
                point[f"{name}_{metric}"] = _value(found, place)
        points.append(point)
    return pd.DataFrame(points)


#: What tells the rows of one model, world and number of images apart.
_INSIDE = ("kind", "category", "decoding", "reading", "metric")


def _compared(cells: Mapping[tuple[str, ...], Row], kind: str, metric: str, prefix: str) -> Row:
    row: Row = {
        f"{prefix}{name}": _value(cells, (kind, "", decoding, CANDIDATES, metric))
        for name, decoding in (("plain", PLAIN), ("focus", FOCUS))
    }
    for reading, infix in ((CANDIDATES, ""), (TEXT, "text_")):
        for name in (*DELTAS, "p_holm"):
            place = (kind, "", FOCUS, reading, metric)
            row[f"{prefix}{infix}{name}"] = _value(cells, place, name)
    return row


def _value(
    cells: Mapping[tuple[str, ...], Row], place: tuple[str, ...], column: str = "value"
) -> float:
    """NaN where there is no such cell."""
    return float(cells[place][column]) if place in cells else float("nan")


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, int]:
    """Spearman's rank correlation, its p-value and n; NaN where either does not vary or n < 3."""
    pairs = np.array([(a, b) for a, b in zip(x, y, strict=True) if a == a and b == b])
    n = len(pairs)
    if n < 3 or np.ptp(pairs[:, 0]) == 0 or np.ptp(pairs[:, 1]) == 0:
        return float("nan"), float("nan"), n
    found = scipy.stats.spearmanr(pairs[:, 0], pairs[:, 1])
    return float(found.statistic), float(found.pvalue), n


def verdicts(frame: pd.DataFrame) -> pd.Series:
    """``gain``, ``loss`` or ``neither`` of each comparison, by its adjusted p-value."""
    significant = frame["p_holm"] < LEVEL
    return pd.Series(
        np.select([significant & (frame["delta"] > 0), significant], ["gain", "loss"], "neither"),
        index=frame.index,
    )
