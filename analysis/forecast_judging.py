"""How good is a forecast of the gain? Judged on test, by fits on dev, in four ways.

``test``: of the same models. ``architecture`` and ``kind``: of models whose architecture (or kind:
abstaining, answering, guessing) the fit has not seen, left out one by one; ``questions``: the same
for kinds of questions. R2 is against the
baseline that forecasts the mean gain of the cells that were fitted; a policy is judged by the
accuracy that a user would end with. Intervals resample whole models, which are few: read them as
too narrow rather than too wide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats
from tqdm import tqdm

from analysis.forecast import (
    CHANCE,
    GAIN,
    contest,
    contests,
    discordant,
    fit_chance,
    fit_gain,
    of_rule,
    tried,
)
from focus.marks import CANDIDATES
from focus.randomness import generator

WAYS = ("test", "architecture", "kind", "questions")
BINS = 8


def judge(cells: pd.DataFrame, questions: pd.DataFrame, *, resamples: int = 2000) -> dict[str, Any]:
    """All that the page tells, by rule, reading and way of judging.

    Args:
        cells, questions: see `analysis.forecast.cell_means`.
        resamples: of the intervals.
    """
    found: dict[str, Any] = {}
    for rule, reading in tqdm(list(contests()), "judging", leave=False, disable=None):
        one = found.setdefault(rule, {}).setdefault(reading, {})
        for way in WAYS:
            one[way] = {
                **judge_cells(contest(cells, rule, reading), GAIN[reading], way, resamples),
                **judge_questions(questions, rule, reading, way, resamples),
            }
        if reading == CANDIDATES:
            one["single"] = statistics_alone(contest(cells, rule, reading), reading)
    return found


def judge_cells(
    cells: pd.DataFrame, names: Sequence[str], way: str, resamples: int
) -> dict[str, Any]:
    """R2, coverage of the 95% intervals, and accuracies of the policies that choose by cell.

    Args:
        cells: of `analysis.forecast.contest`, dev and test.
        names: statistics.
        way: one of `WAYS`.
        resamples: of the intervals.

    Returns:
        ``r2``, ``error`` (mean absolute), ``covered``; ``plain``, ``rule``, ``chosen`` (the rule
        where a gain is forecast) and ``best`` (the better one in hindsight), mean accuracies; each
        value with its interval. ``over_plain`` and ``over_rule`` are differences of ``chosen``;
        ``by_questions`` has the mean forecast and measured gain of each kind of questions.
    """
    test = forecasts(cells, names, way)
    models = test["model"]
    error = test["gain"] - test["forecast"]
    squared, total = error**2, (test["gain"] - test["baseline"]) ** 2
    chosen = test["plain"].where(test["forecast"] <= 0, test["rule"])
    best = test[["plain", "rule"]].max(axis=1)
    means = {
        "error": error.abs(),
        "covered": test["gain"].between(test["low"], test["high"]).astype(float),
        **{"plain": test["plain"], "rule": test["rule"], "chosen": chosen, "best": best},
        **{"over_plain": chosen - test["plain"], "over_rule": chosen - test["rule"]},
    }
    by_questions = test.groupby("questions")[["forecast", "gain"]].mean()
    return {
        "cells": len(test),
        "by_questions": {str(name): row.tolist() for name, row in by_questions.iterrows()},
        "r2": ratio_over_models(squared, total, models, resamples, lambda ratio: 1 - ratio),
        **{
            name: ratio_over_models(values, np.ones(len(values)), models, resamples)
            for name, values in means.items()
        },
    }


def forecasts(cells: pd.DataFrame, names: Sequence[str], way: str) -> pd.DataFrame:
    """Test cells with ``forecast``, ``low``, ``high`` and ``baseline``, the mean gain fitted on."""
    parts = []
    for fitted, part in folds(cells, way):
        one = fit_gain(fitted, names)
        x = part[["differs", *names]].to_numpy()
        estimate = x @ one["coefficients"]
        spread = one["scale"] + np.einsum("ci,ij,cj->c", x, np.array(one["covariance"]), x)
        half = one["quantile"] * np.sqrt(spread)
        most = part["differs"]
        ends = {"forecast": estimate, "low": estimate - half, "high": estimate + half}
        clipped = {name: np.clip(value, -most, most) for name, value in ends.items()}
        parts.append(part.assign(**clipped, baseline=fitted["gain"].mean()))
    return pd.concat(parts).sort_index()


def folds(frame: pd.DataFrame, way: str) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """(dev to fit on, test to judge on) for each value of the column that is left out."""
    dev, test = (frame[frame["split"] == split] for split in ("dev", "test"))
    if way == "test":
        return [(dev, test)]
    return [(dev[dev[way] != value], part) for value, part in test.groupby(way)]


def judge_questions(
    questions: pd.DataFrame, rule: str, reading: str, way: str, resamples: int
) -> dict[str, Any]:
    """AUC, calibration, and accuracy of the policy that chooses by question.

    Args:
        questions: see `analysis.forecast.cell_means`, dev and test.
        rule, reading, way, resamples: see `judge_cells`.

    Returns:
        ``auc``, ``by_question`` (accuracy), ``by_question_over_plain``, ``.._over_rule``,
        ``either`` (the better one in hindsight) with intervals; ``discordant``, how many; and
        ``calibration``, lines of forecast and measured share with its number.
    """
    parts = []
    for fitted, part in folds(of_rule(questions, rule, reading), way):
        one = fit_chance(discordant(fitted), CHANCE)
        constant, *slopes = one["coefficients"]
        chance = scipy.special.expit(constant + part[list(CHANCE)].to_numpy() @ slopes)
        parts.append(part.assign(chance=chance))
    test = pd.concat(parts)
    split = discordant(test)
    chosen = test["rule"].where(test["chance"] > 0.5, test["plain"])
    means = {
        "by_question": chosen,
        "by_question_over_plain": chosen - test["plain"],
        "by_question_over_rule": chosen - test["rule"],
        "either": test[["plain", "rule"]].max(axis=1),
    }
    return {
        "questions": len(test),
        "discordant": len(split),
        "auc": auc_over_models(split["chance"], split["rule"], split["model"], resamples),
        **{
            name: ratio_over_models(values, np.ones(len(values)), test["model"], resamples)
            for name, values in means.items()
        },
        "calibration": calibration(split["chance"], split["rule"]),
    }


def calibration(chance: pd.Series, won: pd.Series) -> list[dict[str, float]]:
    """Mean forecast and measured share in bins of equal numbers."""
    bins = pd.qcut(chance, BINS, duplicates="drop")
    table = pd.DataFrame({"forecast": chance, "measured": won}).groupby(bins, observed=True)
    means = table.mean().assign(n=table.size())
    return [{**row, "n": int(row["n"])} for row in means.to_dict("records")]


def statistics_alone(cells: pd.DataFrame, reading: str) -> list[dict[str, Any]]:
    """Which statistic does the work? R2 on test cells of architectures that were left out.

    Returns:
        For each that was tried: ``alone`` (with how often rule and plain differ), and for the
        fitted ones ``without``, the fit that lacks it; first ``differs`` by itself, then by R2.
    """

    def r2(names: Sequence[str]) -> float:
        test = forecasts(cells, names, "architecture")
        residual = ((test["gain"] - test["forecast"]) ** 2).sum()
        return float(1 - residual / ((test["gain"] - test["baseline"]) ** 2).sum())

    fitted = GAIN[reading]
    rows: list[dict[str, Any]] = [
        {
            "statistic": name,
            "alone": r2([name]),
            "without": r2([n for n in fitted if n != name]) if name in fitted else None,
        }
        for name in tried(reading)
    ]
    first = {"statistic": "differs", "alone": r2([]), "without": None}
    return [first, *sorted(rows, key=lambda row: -row["alone"])]


Interval = list[float]
"""A value with the ends of its 95% interval: [value, low, high]."""


def ratio_over_models(
    numerator: Sequence[float] | pd.Series | np.ndarray,
    denominator: Sequence[float] | pd.Series | np.ndarray,
    models: pd.Series,
    resamples: int,
    made: Callable[[Any], Any] = lambda ratio: ratio,
) -> Interval:
    """`made` of a ratio of sums, with its percentile bootstrap interval over models."""
    codes = pd.factorize(models)[0]
    sums = [np.bincount(codes, weights=np.asarray(x, float)) for x in (numerator, denominator)]

    def ratio(a: np.ndarray, b: np.ndarray, axis: int = -1) -> Any:
        return made(a.sum(axis=axis) / b.sum(axis=axis))

    return _bootstrapped(sums, ratio, resamples)


def auc_over_models(
    scores: pd.Series, won: pd.Series, models: pd.Series, resamples: int
) -> Interval:
    """Area under the ROC curve of all questions together, with its interval over models."""
    codes, names = pd.factorize(models)
    score, right = scores.to_numpy(), won.to_numpy() == 1
    wins, pairs = (np.zeros((len(names), len(names))) for _ in range(2))
    for i in range(len(names)):
        above = score[(codes == i) & right]
        for j in range(len(names)):
            below = np.sort(score[(codes == j) & ~right])
            ends = [np.searchsorted(below, above, side=side) for side in ("left", "right")]
            wins[i, j] = (ends[0] + ends[1]).sum() / 2
            pairs[i, j] = len(above) * len(below)

    def area(drawn: np.ndarray, axis: int = -1) -> Any:
        counts = (drawn[..., None] == np.arange(len(names))).sum(axis=-2)
        return [np.einsum("...i,ij,...j->...", counts, m, counts) for m in (wins, pairs)]

    def auc(drawn: np.ndarray, axis: int = -1) -> Any:
        found, possible = area(drawn)
        return found / possible

    return _bootstrapped([np.arange(len(names))], auc, resamples)


def _bootstrapped(
    per_model: Sequence[np.ndarray], statistic: Callable[..., Any], resamples: int
) -> Interval:
    value = float(statistic(*per_model))
    if len(per_model[0]) < 2:
        return [value, value, value]
    found = scipy.stats.bootstrap(
        per_model, statistic, paired=True, vectorized=True, n_resamples=resamples,
        method="percentile", rng=generator(0, "forecast"),
    ).confidence_interval  # fmt: skip
    return [value, float(found.low), float(found.high)]
