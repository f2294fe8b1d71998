"""Fits `focus.forecast` to tables of questions: per set of questions, and per question.

A cell is a set of questions asked to one model. What a rule gains in it over plain decoding can
only come from questions on which they differ, so every regressor is a mean over questions of
``differs`` times a statistic, and there is no constant: where nothing differs nothing is gained.
A question counts for the second fit where exactly one of rule and plain decoding is right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import scipy.stats
import statsmodels.api as sm

from analysis.kinds import model_kinds
from focus.forecast import ROW_STATISTICS
from focus.marks import CANDIDATES, READINGS, TEXT

RULES = ("sum", "max", "routed")
LABELS = ("model", "architecture", "kind", "split", "world", "questions", "num_images")
#: Statistics that are tried; `GAIN` and `CHANCE` are the ones that are fitted, chosen on dev.
TRIED = (*ROW_STATISTICS, "margin")
GAIN = {CANDIDATES: ("rival", "first"), TEXT: ("rival", "first", "outside")}
CHANCE = ("rival", "first")
#: Whose cell means say where a forecast extrapolates.
SEEN = ("first", "rival")


def cell_means(questions: pd.DataFrame) -> pd.DataFrame:
    """One line per cell: labels, n, means of `SEEN`, accuracies, and what contests are made of.

    Args:
        questions: of `experiments.forecast.tables`: labels, row statistics, and for each rule and
            reading ``<rule>_<reading>_differs``, ``.._margin`` and ``<rule>_<reading>``, 1 where
            right; ``plain_<reading>`` too.

    Returns:
        For each rule and reading the rate of ``differs`` and the mean of its product with each
        statistic, as ``<rule>_<reading>_<statistic>``. Three decimals, as they are kept.
    """
    right = {f"{name}_{reading}" for name in ("plain", *RULES) for reading in READINGS}
    columns = {name: questions[name] for name in (*SEEN, *sorted(right))}
    for rule, reading in contests():
        differs = questions[f"{rule}_{reading}_differs"]
        columns[f"{rule}_{reading}_differs"] = differs
        for name in tried(reading):
            own = f"{rule}_{reading}_margin" if name == "margin" else name
            columns[f"{rule}_{reading}_{name}"] = differs * questions[own]
    grouped = pd.DataFrame(columns).groupby([questions[n] for n in LABELS], sort=True)
    means = grouped.mean().round(3)
    means.insert(0, "n", grouped.size())
    return means.reset_index()


def write_cells(cells: pd.DataFrame, path: Path) -> None:
    """Keeps cells, without what the name of a model tells."""
    cells.drop(columns=["architecture", "kind"]).to_csv(path, index=False)


def read_cells(path: Path) -> pd.DataFrame:
    """Cells as they were kept."""
    return with_kinds(pd.read_csv(path))


def with_kinds(frame: pd.DataFrame) -> pd.DataFrame:
    """Adds architecture and kind of every model, as its name tells them.

    >>> with_kinds(pd.DataFrame({"model": ["internvl-guessing-seed1"]})).to_dict("list")
    {'model': ['internvl-guessing-seed1'], 'architecture': ['internvl'], 'kind': ['guessing']}
    """
    kinds = model_kinds(frame["model"].unique(), {})
    architectures = frame["model"].str.partition("-")[0]
    return frame.assign(architecture=architectures, kind=frame["model"].map(kinds))


def contests() -> Iterator[tuple[str, str]]:
    """Every rule under every reading."""
    return ((rule, reading) for reading in (CANDIDATES, TEXT) for rule in RULES)


def tried(reading: str) -> Sequence[str]:
    """Statistics that are tried; generated text, the secondary reading, has the fitted ones."""
    return TRIED if reading == CANDIDATES else GAIN[reading]


def contest(cells: pd.DataFrame, rule: str, reading: str) -> pd.DataFrame:
    """Cells of one rule and reading: labels, n, plain, rule, gain, ``differs`` and statistics."""
    names = ("differs", *tried(reading))
    renamed = {f"{rule}_{reading}_{name}": name for name in names}
    found = cells[[*LABELS, "n", *renamed]].rename(columns=renamed)
    right = {"plain": cells[f"plain_{reading}"], "rule": cells[f"{rule}_{reading}"]}
    return found.assign(**right, gain=right["rule"] - right["plain"])


def of_rule(questions: pd.DataFrame, rule: str, reading: str) -> pd.DataFrame:
    """Questions of one rule and reading: labels, statistics, plain and rule, 1 where right."""
    own = {f"{rule}_{reading}_margin": "margin", f"{rule}_{reading}": "rule",
           f"plain_{reading}": "plain"}  # fmt: skip
    return questions[[*LABELS, *ROW_STATISTICS, *own]].rename(columns=own)


def discordant(questions: pd.DataFrame) -> pd.DataFrame:
    """Those of `of_rule` that exactly one of rule and plain decoding gets right."""
    return questions[questions["rule"] != questions["plain"]]


def fit(cells: pd.DataFrame, questions: pd.DataFrame) -> dict[str, Any]:
    """What `focus.forecast.Forecast` reads, fitted on dev, without what judging adds.

    Args:
        cells: of `cell_means`.
        questions: see `cell_means`.
    """
    dev, asked = cells[cells["split"] == "dev"], questions[questions["split"] == "dev"]
    forecasts: dict[str, dict[str, Any]] = {rule: {} for rule in RULES}
    for rule, reading in contests():
        forecasts[rule][reading] = {
            "gain": fit_gain(contest(dev, rule, reading), GAIN[reading]),
            "chance": fit_chance(discordant(of_rule(asked, rule, reading)), CHANCE),
        }
    seen = {name: [float(dev[name].min()), float(dev[name].max())] for name in SEEN}
    return {"seen": seen, "forecasts": forecasts}


def fit_gain(cells: pd.DataFrame, names: Sequence[str]) -> dict[str, Any]:
    """Least squares of the gain on ``differs`` and its products with statistics.

    Args:
        cells: of `contest`.
        names: statistics.

    Returns:
        See `focus.forecast.Forecast`. The covariance is robust to what cells of a model share;
        ``scale`` is the mean squared error on the cells of each architecture, of a fit on the
        others (of the fit itself where there is one architecture only).
    """
    several = cells["model"].nunique() > 1
    found = _least_squares(cells, names).fit(
        **({"cov_type": "cluster", "cov_kwds": {"groups": pd.factorize(cells["model"])[0]}}
           if several else {})
    )  # fmt: skip
    errors = found.resid
    if cells["architecture"].nunique() > 1:
        errors = cells["gain"] - pd.concat(
            part[["differs", *names]]
            @ _least_squares(cells[cells["architecture"] != name], names).fit().params
            for name, part in cells.groupby("architecture")
        )
    return {
        "names": list(names),
        "coefficients": found.params.tolist(),
        "covariance": found.cov_params().to_numpy().tolist(),
        "scale": float((errors**2).mean()),
        "quantile": float(scipy.stats.t.ppf(0.975, max(1, cells["model"].nunique() - 1))),
    }


def _least_squares(cells: pd.DataFrame, names: Sequence[str]) -> Any:
    return sm.OLS(cells["gain"], cells[["differs", *names]])


def fit_chance(questions: pd.DataFrame, names: Sequence[str]) -> dict[str, Any]:
    """Logistic regression: is it the rule that is right? On questions of `discordant`."""
    x = sm.add_constant(questions[list(names)], has_constant="add")
    found = sm.GLM(questions["rule"], x, family=sm.families.Binomial()).fit()
    return {"names": list(names), "coefficients": found.params.tolist()}
