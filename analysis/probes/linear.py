"""What can be read of an image where: linear probes over the states of `focus.probes.linear`.

Every image is in one question, so splitting by question splits by image. Beside the accuracy stand
what a probe gets without any information (the most frequent value, and labels shuffled among the
images) and on a control task (Hewitt and Liang, EMNLP 2019): a random label for each kind of image,
with as many labels as the task has. Accuracy minus that of the control task is the selectivity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from safetensors import safe_open
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from analysis.probes.common import heat_maps, rate
from focus.randomness import generator

FOLDS = 4
#: Inverse strength of the penalty: there are as many features as questions.
PENALTY = 0.1


def table(records: Sequence[Mapping[str, Any]], folder: Path) -> pd.DataFrame:
    """One line for every model, image asked about, group of tokens and place.

    Returns:
        ``accuracy`` of the probe on images that it was not fitted on, with its interval;
        ``most_frequent``, ``shuffled``, ``control`` and ``selectivity``, see the head of this file.
    """
    lines = []
    for model in dict.fromkeys(record["model"] for record in records):
        own = [record for record in records if record["model"] == model]
        first = own[0]["observed"][0]
        # Questions with another number of images have other groups of tokens.
        own = [r for r in own if r["observed"][0]["tokens"] == first["tokens"]]
        labels = [_labels(own, image) for image in range(len(first["values"]))]
        for place in first["places"]:
            states = read_states(own, folder, place)
            for k, tokens in enumerate(first["tokens"]):
                for image, (values, kinds) in enumerate(labels):
                    cell = {"model": model, "about": f"image {image + 1}", "tokens": tokens}
                    lines.append({**cell, "place": place, **_line(states[:, k], values, kinds)})
    return pd.DataFrame(lines)


def read_states(records: Sequence[Mapping[str, Any]], folder: Path, place: int) -> np.ndarray:
    """States of one place: ``[questions, groups, hidden]``."""
    found = []
    for record in records:
        with safe_open(folder / record["observed"][0]["states"], framework="numpy") as file:
            found.append(file.get_tensor(str(place)))
    return np.stack(found)


def probe(states: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which labels a probe reads right that was fitted on other questions: ``[questions]``.

    Args:
        states: ``[questions, hidden]``.
        labels: ``[questions]``.
    """
    if len(set(labels.tolist())) < 2 or len(labels) < FOLDS:
        return np.ones(len(labels), dtype=bool)
    reader = make_pipeline(StandardScaler(), LogisticRegression(C=PENALTY, tol=1e-2))
    folds = KFold(FOLDS, shuffle=True, random_state=0)
    try:
        read = cross_val_predict(reader, states, labels, cv=folds)
    except ValueError:  # a part of the questions has one label only
        values, counts = np.unique(labels, return_counts=True)
        read = values[counts.argmax()]
    return np.asarray(read == labels)


def _labels(records: Sequence[Mapping[str, Any]], image: int) -> tuple[np.ndarray, np.ndarray]:
    """What an image shows in every question, and which kind of image it is."""
    values = [record["observed"][0]["values"][image] for record in records]
    kinds = np.array([record["observed"][0]["types"][image] for record in records])
    if isinstance(values[0], float):  # brightness: as many dark as bright ones
        return np.array(values) > np.median(values), kinds
    return np.array(values), kinds


def _line(states: np.ndarray, values: np.ndarray, kinds: np.ndarray) -> dict[str, Any]:
    known, counts = np.unique(values, return_counts=True)
    rng = generator(0, "control task", *map(str, known))
    controls = {kind: known[rng.integers(len(known))] for kind in sorted(set(kinds.tolist()))}
    read = rate(pd.Series(probe(states, values)), pd.Series(range(len(values))))
    control = probe(states, np.array([controls[kind] for kind in kinds.tolist()])).mean()
    return {
        "n": read["n"],
        "accuracy": read["share"],
        "low": read["low"],
        "high": read["high"],
        "most_frequent": counts.max() / len(values),
        "shuffled": probe(states, values[rng.permutation(len(values))]).mean(),
        "control": control,
        "selectivity": read["share"] - control,
    }


def headline(found: pd.DataFrame) -> pd.DataFrame:
    """Accuracy by place, and what it is without information."""
    keys = ["model", "about", "tokens"]
    wide = found.pivot_table(index=keys, columns="place", values="accuracy", sort=False)
    names = ["most_frequent", "shuffled", "control"]
    return wide.join(found.groupby(keys, sort=False)[names].mean()).reset_index()


def figure(found: pd.DataFrame) -> Figure:
    """Accuracy by group of tokens and place, for each image."""
    shown = found.copy()
    shown["about"] = "what " + shown["about"] + " shows"
    return heat_maps(
        shown, rows="tokens", columns="place", value="accuracy", across="about",
        label="place in the residual stream; accuracy of a linear probe",
    )  # fmt: skip
