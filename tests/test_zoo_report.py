"""The report of the embedded models says what their records say: rates, pairs, differences."""

from __future__ import annotations

import copy
import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from analysis.statistics import holm, paired_difference, wilson_interval
from analysis.zoo import (
    DELTAS,
    MODEL,
    answer_rows,
    focus_points,
    kind_of,
    ladder_frame,
    models_frame,
    overview,
    rank_correlation,
    read_models,
    select,
    verdicts,
)
from analysis.zoo_ladder import NONE_YET, ladder_lines, ladder_points, ladder_prose
from analysis.zoo_page import explanation, zoo_page
from analysis.zoo_tables import commitment_lines, details
from experiments import report, train_zoo
from experiments.config import CONF, compose_config
from focus.errors import InvalidValueError, UnknownNameError
from focus.zoo.card import record_folders
from focus.zoo.evaluation import ALPHAS, FOCUS, PLAIN

ROOT = CONF.parent
WEIGHTS = ROOT / "focus" / "zoo" / "weights"


def cell(kind: str, said: str, number: int = 2, decoding: str = PLAIN, **extra: Any) -> dict:
    return {
        "world": "scenes",
        "kind": kind,
        "num_images": number,
        "decoding": decoding,
        "categories": ["color"],
        "category": "0" * len(said),
        "group": list(range(len(said))),
        "candidates": said,
        "text": said,
    } | extra


def branches(row: str, right: int, own: int, unknown: int, total: int, number: int = 2) -> dict:
    shares = {"right": right, "own": own, "unknown": unknown, "total": total}
    shares |= {"top": max(shares["right"], unknown), "entropy": 0.5 if row == "on target" else 1.5}
    return {"world": "scenes", "num_images": number, "row": row, **shares}


def results(cells: list[dict], rows: list[dict] | None = None) -> dict:
    settings = {"split": "test", "seed": 0, "noise": "uniform", "scope": "per slot"}
    settings["alphas"] = dict(ALPHAS)
    return {**settings, "cells": cells, "rows": rows or []}


def mixture(**shares: float) -> dict:
    names = ("clean_multi", "masked_multi", "abstain_multi", "abstain_single")
    return dict.fromkeys(names, 0.0) | shares


def model(name: str, measured: dict, *, seed: int = 0, **shares: float) -> dict:
    """A record of two stages; the second is a quarter of the steps and has the given shares."""
    none = {"questions": 300, "images": 300, "noise images": 0, "abstentions": 0, "multi": 0}
    some = {"questions": 100, "images": 200, "noise images": 50, "abstentions": 20, "multi": 60}
    return {
        "name": name,
        "parameters": 1000,
        "minutes": 2.5,
        "recipe": {
            "seed": seed,
            "architecture": {"family": "internvl"},
            "per_truth": {"scenes": 2},
            "stages": [
                {"name": "see", "steps": 300, "mixture": mixture()},
                {"name": "multi", "steps": 100, "mixture": mixture(**shares)},
            ],
        },
        "seen": {"see": none, "multi": some},
        "results": measured,
    }


def one(rows: list[dict], **labels: Any) -> dict:
    (found,) = [row for row in rows if all(row[key] == value for key, value in labels.items())]
    return found


def random_marks(rng: np.random.Generator, right: float, size: int = 40) -> str:
    return "".join("+" if draw < right else "x" for draw in rng.random(size))


def full_results(seed: int, unknown: int) -> dict:
    """Some of every kind; FOCUS is the better, the more off-target branches abstain."""
    rng = np.random.default_rng(seed)
    skills = ["name", "yes_no", "letter", "which_caption"]
    single = cell("single", "+" * 40, 1, categories=skills, category="0123" * 10)
    cells, rows = [single], []
    for number in (2, 3):
        cells.append(cell("indexed", random_marks(rng, 0.5), number))
        cells.append(cell("indexed", random_marks(rng, unknown / 40), number, FOCUS))
        rows.append(branches("on target", 38, 0, 1, 40, number))
        off = 40 * (number - 1)
        rows.append(branches("off target", 1, 38 - unknown * 38 // 40, unknown, off, number))
        rows.append(branches("reference", 5, 0, unknown, 40, number))
    pairs = {"group": [i // 2 for i in range(40)]}
    cells.append(cell("matching text", random_marks(rng, 0.9), 1, **pairs))
    cells.append(cell("matching image", random_marks(rng, 0.7), 2, **pairs))
    cells.append(cell("matching image", random_marks(rng, unknown / 40), 2, FOCUS, **pairs))
    for kind in ("which", "probe"):
        cells.append(cell(kind, random_marks(rng, 0.7)))
        cells.append(cell(kind, random_marks(rng, 0.4), decoding=FOCUS))
    return results(cells, rows)


@pytest.fixture(scope="module")
def models() -> list[dict]:
    return [
        model("abstaining", full_results(1, 39), abstain_multi=0.2, clean_multi=0.03),
        model("answering", full_results(2, 2), clean_multi=0.03),
        model("between", full_results(3, 20), seed=1, abstain_single=0.1),
    ]


@pytest.fixture(scope="module")
def runs() -> list[dict]:
    """Two seeds along the multi-image share without abstention, one along abstention."""
    places = [(share, "none", 0.0, seed) for share in (0.0, 0.1, 0.6) for seed in (0, 1)]
    places += [(0.6, "single", 0.05, 0), (0.6, "multi", 0.1, 0)]
    return [
        {
            "family": "internvl",
            "world": "scenes + digits",  # what it was trained on; it was measured on one of them
            "seed": seed,
            "clean_multi": share,
            "abstention": abstention,
            "abstain_share": amount,
            "masked_multi": 0.05,
            "steps": 600,
            "minutes": 2.1,
            "results": full_results(10 + i, 38 if abstention == "multi" else 3),
        }
        for i, (share, abstention, amount, seed) in enumerate(places)
    ]


@pytest.fixture(scope="module")
def written(models, runs, tmp_path_factory) -> Path:
    """A repository with the records of models and ladder, the page of both, and the details."""
    root = tmp_path_factory.mktemp("zoo")
    for record in models:
        folder = root / report.WEIGHTS / record["name"]
        folder.mkdir(parents=True)
        (folder / "training.json").write_text(json.dumps(record))
    (root / "docs" / "zoo").mkdir(parents=True)
    with gzip.open(root / "docs" / "zoo" / "ladder.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(run) + "\n" for run in reversed(runs))
    report.renew_zoo(root, root / "details")
    return root


@pytest.fixture(scope="module")
def shown(written) -> str:
    return (written / "docs" / "zoo" / "README.md").read_text()


def test_rates_count_the_marks_of_each_reading():
    marks = cell("indexed", "++x-+x+-", text="++?-+??-")
    rows = answer_rows(results([marks]))
    said = one(rows, reading="candidates", metric="accuracy")
    assert (said["value"], said["n"]) == (0.5, 8)
    assert (said["low"], said["high"]) == wilson_interval(4, 8)
    assert one(rows, reading="candidates", metric="leakage")["value"] == 0.25
    assert one(rows, reading="text", metric="accuracy")["value"] == 0.375
    assert one(rows, reading="text", metric="leakage")["value"] == 0.0
    assert "delta" not in said


def test_leakage_is_reported_only_where_an_answer_can_be_traced():
    kinds = ("indexed", "probe", "which", "same", "counting", "odd")
    rows = answer_rows(results([cell(kind, "+x") for kind in kinds]))
    assert {row["kind"] for row in rows if row["metric"] == "leakage"} == {"indexed", "probe"}


def test_differences_are_paired_and_those_of_the_statistics():
    plain, focus = "++xx" * 10, "+++x" * 10
    cells = [cell("indexed", focus, decoding=FOCUS), cell("indexed", plain)]
    row = one(answer_rows(results(cells)), decoding=FOCUS, reading="candidates", metric="accuracy")
    # Of four questions one is gained and none is lost.
    assert row["delta"] == pytest.approx(0.25)
    expected = paired_difference([m == "+" for m in focus], [m == "+" for m in plain])
    ends = (row["delta_low"], row["delta_high"])  # of other random numbers, alike distributed
    assert ends == pytest.approx((expected.low, expected.high), abs=0.03)
    assert row["p_value"] == pytest.approx(expected.p_value)
    assert row["p_value"] == pytest.approx(scipy.stats.binomtest(10, 10).pvalue)


def test_differences_of_both_readings_are_apart():
    cells = [
        cell("indexed", "+x" * 4, text="+?" * 4),
        cell("indexed", "++" * 4, decoding=FOCUS, text="??" * 4),
        cell("which", "+-" * 4),
        cell("which", "--" * 4, decoding=FOCUS),
    ]
    rows = answer_rows(results(cells))
    focus = {"decoding": FOCUS, "metric": "accuracy"}
    assert one(rows, kind="indexed", reading="candidates", **focus)["delta"] == 0.5
    assert one(rows, kind="indexed", reading="text", **focus)["delta"] == -0.5
    assert one(rows, kind="which", reading="candidates", **focus)["delta"] == -0.5
    assert "delta" not in one(rows, kind="which", reading="text", **focus)


def test_a_pair_counts_in_each_direction_and_in_both():
    """Pairs are matched by number, not by place: here they stand in another order."""
    text = cell("matching text", "+++-++--", 1, group=[0, 0, 1, 1, 2, 2, 3, 3])
    image = cell("matching image", "++-+++++", 2, group=[3, 3, 2, 2, 1, 1, 0, 0])
    focus = cell("matching image", "++++++-+", 2, FOCUS, group=[3, 3, 2, 2, 1, 1, 0, 0])
    rows = [
        row for row in answer_rows(results([text, image, focus])) if row["reading"] == "candidates"
    ]
    values = {(row["metric"], row["decoding"]): (row["value"], row["n"]) for row in rows}
    assert values == {
        ("text score", PLAIN): (0.5, 4),  # pairs 0 and 2
        ("image score", PLAIN): (0.75, 4),  # all but 2
        ("group score", PLAIN): (0.25, 4),  # 0
        ("image score", FOCUS): (0.75, 4),  # all but 0
        ("group score", FOCUS): (0.25, 4),  # 2
    }
    row = one(rows, metric="image score", decoding=FOCUS)
    expected = paired_difference([True, True, True, False], [True, False, True, True])
    assert [row[name] for name in DELTAS] == pytest.approx(
        [expected.delta, expected.low, expected.high, expected.p_value]
    )


def test_directions_that_hold_different_pairs_are_refused():
    text = cell("matching text", "++", 1, group=[0, 0])
    image = cell("matching image", "++", 2, group=[1, 1])
    with pytest.raises(ValueError, match="different pairs"):
        answer_rows(results([text, image]))


def test_branches_have_intervals_only_where_they_are_independent():
    rows = [branches("off target", 2, 6, 12, 20), branches("off target", 4, 12, 24, 40, 3)]
    found = answer_rows(results([], rows))
    two = one(found, num_images=2, metric="unknown")
    assert (two["value"], two["n"]) == (0.6, 20)
    assert (two["low"], two["high"]) == wilson_interval(12, 20)
    three = one(found, num_images=3, metric="own")
    assert three["value"] == pytest.approx(0.3)
    assert three["low"] is None


def test_a_model_is_described_by_what_it_saw_and_by_its_worst_skill():
    # name 4 of 4, letter 3 of 4
    single = cell("single", "+++++++-", 1, categories=["name", "letter"], category="01" * 4)
    record = model("m", results([single]), seed=7, abstain_single=0.1, clean_multi=0.08)
    row = overview(record)
    assert (row["unknown"], row["unknown_share"]) == (20, 0.05)
    assert (row["noise"], row["noise_share"]) == (50, 0.1)
    assert row["clean_multi"] == pytest.approx(0.02)
    assert row["clean_multi_stage"] == 0.08
    assert (row["worst_world"], row["worst_skill"]) == ("scenes", "letter")
    assert (row["worst_value"], row["worst_n"]) == (0.75, 4)
    assert not row["reaches_bar"]
    assert (row["seed"], row["minutes"], row["parameters"]) == (7, 2.5, 1000)
    assert kind_of(record) == "abstains: single noise image"
    assert kind_of(model("m", {})) == "never abstains"
    assert kind_of(model("m", {}, guess_multi=0.1)) == "guesses"
    assert overview(model("m", results([cell("single", "++", 1)])))["reaches_bar"]


def test_p_values_are_adjusted_within_their_family(models):
    frame = models_frame(models)
    indexed = frame[frame["p_value"].notna() & frame["kind"].isin(["indexed", "matching"])]
    other = frame[frame["p_value"].notna() & ~frame["kind"].isin(["indexed", "matching"])]
    assert (len(indexed), len(other)) == (3 * 3 * 2, 3 * 2)
    assert set(indexed["reading"]) == {"candidates", "text"}
    for family in (indexed, other):
        np.testing.assert_allclose(family["p_holm"], holm(family["p_value"].tolist()), rtol=1e-4)
    assert (indexed["p_holm"] > indexed["p_value"]).any()
    verdict = verdicts(indexed)
    assert {"gain", "loss", "neither"} == set(verdict)
    assert (indexed["delta"][verdict == "gain"] > 0).all()
    assert (indexed["delta"][verdict == "loss"] < 0).all()
    assert (indexed["p_holm"][verdict != "neither"] < 0.05).all()


def test_points_put_the_effect_beside_what_branches_say(models):
    points = focus_points(models_frame(models), MODEL).set_index("model")
    assert points["off_unknown"].to_dict() == {
        "abstaining": 39 / 40, "answering": 2 / 40, "between": 20 / 40,
    }  # fmt: skip
    two = {c["decoding"]: c["candidates"] for c in models[1]["results"]["cells"][1:3]}
    expected = (two[FOCUS].count("+") - two[PLAIN].count("+")) / 40
    assert points.loc["answering", "delta"] == pytest.approx(expected)
    assert points.loc["answering", "plain"] == two[PLAIN].count("+") / 40
    assert points.loc["answering", "plain_leakage"] == two[PLAIN].count("x") / 40
    assert points.loc["answering", "on_right"] == 38 / 40


def test_rank_correlation_is_that_of_scipy_or_says_that_there_is_none():
    x, y = [0.1, 0.5, 0.4, 0.9, float("nan")], [-0.2, 0.3, 0.1, 0.2, 1.0]
    rho, p, n = rank_correlation(x, y)
    expected = scipy.stats.spearmanr(x[:4], y[:4])
    assert (rho, p, n) == (expected.statistic, expected.pvalue, 4)
    assert np.isnan(rank_correlation([1, 1, 1], [1, 2, 3])[0])
    assert np.isnan(rank_correlation([1, 2], [1, 2])[0])


def test_commitment_is_of_two_images_and_all_worlds_together():
    rows = [branches("on target", 30, 0, 2, 40), branches("on target", 10, 0, 30, 40)]
    rows += [branches("off target", 4, 20, 12, 40), branches("off target", 0, 20, 20, 40)]
    rows += [branches("reference", 4, 0, 30, 40), branches("off target", 40, 0, 0, 40, 3)]
    (line,) = commitment_lines([model("some", results([], rows))])
    assert list(line.values()) == [
        *("some", "0.50", "0.05 / 0.50 / 0.40 / 0.05", "0.75"),
        *("0.75 / 0.40 / 0.75", "0.50 / 1.50 / 1.50"),
    ]


def test_the_explanation_follows_the_numbers(models):
    points = focus_points(models_frame(models), MODEL)
    first = explanation(points, pd.DataFrame())[0]
    assert "rho = +1.00" in first
    assert "n = 3" in first
    turned = explanation(points.assign(delta=-points["delta"]), pd.DataFrame())[0]
    assert "rho = -1.00" in turned


def test_lines_of_the_ladder_hold_the_other_axis_fixed(runs):
    points = ladder_points(ladder_frame(runs))
    ((label, line),) = ladder_lines(points, "several clean images")
    assert label == "abstention: none"
    assert list(line["clean_multi"]) == [0.0, 0.0, 0.1, 0.1, 0.6, 0.6]
    ((label, line),) = ladder_lines(points, "abstention")
    assert label == "60% several clean"
    assert list(dict.fromkeys(line["abstains"])) == [
        "none", "single noise image 5%", "noise among several 10%",
    ]  # fmt: skip


def test_lines_of_the_ladder_are_apart_for_each_world(runs):
    both = []
    for run in runs:
        cells, rows = run["results"]["cells"], run["results"]["rows"]
        more = [{**each, "world": "digits"} for each in (*cells, *rows)]
        measured = {"cells": [*cells, *more[: len(cells)]], "rows": [*rows, *more[len(cells) :]]}
        both.append({**run, "results": measured})
    frame = ladder_frame(both)
    labels = [label for label, _ in ladder_lines(ladder_points(frame), "several clean images")]
    assert labels == ["scenes, abstention: none", "digits, abstention: none"]
    text = zoo_page([], models_frame([]), both, frame)
    assert f"{len(runs)} runs of one recipe each, at 5 places" in text
    assert "Measured on scenes, digits;" in text


def test_prose_of_the_ladder_lists_where_all_seeds_agree():
    points = pd.DataFrame(
        {
            "family": "f", "world": "w", "seed": [0, 1] * 3, "clean_multi": [0, 0, 0.1, 0.1, 1, 1],
            "abstains": "none", "step": 0, "plain_leakage": [0.4, 0.2, 0.3, 0.01, 0.01, 0.02],
            "delta": [0.2, 0.4, 0.1, 0.0, -0.2, -0.3],
            "delta_low": [0.1, 0.3, 0.05, -0.1, -0.3, -0.4],
            "delta_high": [0.3, 0.5, 0.15, 0.1, -0.1, -0.2],
        }
    )  # fmt: skip
    heading, sentence = ladder_prose(points)
    assert "several clean images" in heading
    assert "0%: 0.300 (2), 10%: 0.155 (2), 100%: 0.015 (2)" in sentence
    assert "at least 0.05 in every seed at: 0%; below 0.05 in every seed at: 100%." in sentence
    assert "above zero in every seed at: 0%; below zero in every seed at: 100%." in sentence


def test_without_runs_the_page_says_so(models):
    text = zoo_page(models, models_frame(models), [], ladder_frame([]))
    assert text.endswith(f"## The ladder\n\n{NONE_YET}\n")
    assert "ladder.png" not in text


def test_without_models_there_is_a_page_all_the_same(tmp_path):
    report.renew_zoo(tmp_path, tmp_path / "details")
    text = (tmp_path / "docs" / "zoo" / "README.md").read_text()
    assert text.startswith("# The embedded models")
    assert NONE_YET in text


def test_the_page_is_written_with_its_figures(written, shown):
    assert shown.startswith("# The embedded models\n")
    names = {part.split(")")[0] for part in shown.split("](") if ".png)" in part}
    assert names == {"accuracy.png", "leakage.png", "abstention.png", "ladder.png"}
    for name in names:
        assert (written / "docs" / "zoo" / name).read_bytes().startswith(b"\x89PNG")
    every = (written / "details" / "zoo" / "README.md").read_text()
    for row in ("| abstaining |", "| answering |", "| between |"):
        assert shown.count(row) == 3  # what they are, FOCUS, commitment
        assert every.count(row) >= 9  # a line in every table of models
    assert "nan" not in shown + every


def test_page_and_details_state_the_numbers_of_the_records(written, shown, models):
    every = (written / "details" / "zoo" / "README.md").read_text()
    right = models[0]["results"]["cells"][1]["candidates"].count("+")
    low, high = wilson_interval(right, 40)
    assert f"{right / 40:.3f} [{low:.3f}, {high:.3f}]" in every
    frame = pd.read_csv(written / "details" / "zoo" / "models.csv")
    labels = {"model": "answering", "kind": "indexed", "num_images": 2, "decoding": FOCUS}
    (row,) = select(frame, metric="accuracy", reading="candidates", **labels).itertuples()
    told = f"{row.delta:+.3f} [{row.delta_low:+.3f}, {row.delta_high:+.3f}]"
    assert told in shown
    assert told in every
    # Another answer in the records is another number on the page.
    other = copy.deepcopy(models)
    cells = other[1]["results"]["cells"]
    asked = ("indexed", 2, FOCUS)
    (cell_,) = [c for c in cells if (c["kind"], c["num_images"], c["decoding"]) == asked]
    cell_["candidates"] = cell_["candidates"].translate(str.maketrans("+x", "x+"))
    changed = zoo_page(other, models_frame(other), [], ladder_frame([]))
    assert shown.partition("## The ladder")[0] != changed.partition("## The ladder")[0]
    assert details(models_frame(other), [], ladder_frame([])) != every


def test_only_what_is_asked_for_is_measured_again(written, tmp_path, monkeypatch):
    weights = tmp_path / "weights"
    shutil.copytree(written / report.WEIGHTS, weights)
    old = model("old", {"single image, name": {"accuracy": 1.0}})
    (weights / "old").mkdir()
    (weights / "old" / "training.json").write_text(json.dumps(old))
    assert [record["name"] for record in read_models(weights)] == [
        "abstaining", "answering", "between",
    ]  # fmt: skip

    def names(**settings: Any) -> list[str]:
        return [path.name for path in train_zoo.to_measure(weights, **settings)]

    assert names(names=None, again=False) == ["old"]
    assert names(names=["between"], again=False) == []
    assert names(names=["between"], again=True) == ["between"]
    assert len(names(names=None, again=True)) == 4
    with pytest.raises(UnknownNameError, match="did you mean 'between'"):
        names(names=["betwen"], again=True)

    measured = full_results(5, 10)

    def measure(folder: Path, worlds: tuple[str, ...], *, size: int) -> dict:
        assert (folder.name, worlds, size) == ("old", ("scenes",), 20)
        return measured

    monkeypatch.setattr(train_zoo, "measure", measure)
    kept = {}
    monkeypatch.setattr(train_zoo, "write", lambda record, folder: kept.update(record))
    settings = [f"output={weights}", "evaluation_size=20"]
    train_zoo.measure_stored(compose_config("train_zoo", [*settings, "measure=true"]))
    assert kept == {**old, "results": measured}
    with pytest.raises(InvalidValueError, match="measure"):
        train_zoo.measure_stored(compose_config("train_zoo", [*settings, "measure=some"]))


def test_stored_models_have_been_measured_in_the_present_form():
    assert [record["name"] for record in read_models(WEIGHTS)] == sorted(record_folders(WEIGHTS))
