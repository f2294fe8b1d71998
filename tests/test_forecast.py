"""The forecast sees no labels, finds what is there and nothing else, and says what the data say."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

import focus
from analysis.forecast import GAIN, LABELS, cell_means, contest, contests, fit, fit_gain, read_cells
from analysis.forecast_judging import (
    auc_over_models,
    folds,
    forecasts,
    judge_cells,
    judge_questions,
)
from analysis.forecast_page import page
from experiments import forecast as command
from experiments.ablation_cells import RowStore
from experiments.ablation_models import Model
from experiments.ablation_questions import Questions
from experiments.config import CONF
from focus import doctor
from focus.benchmarks.embedded import IndexedQuestion
from focus.doctor.behaviour import naming
from focus.doctor.forecasting import question_statistics
from focus.errors import InvalidValueError, UnknownNameError
from focus.evaluation import request_of
from focus.forecast import FITTED, ROW_STATISTICS, Forecast, row_statistics, rule_statistics
from focus.marks import CANDIDATES
from focus.models.loading import embedded_path

DOCS = CONF.parent / "docs" / "forecast"
CANDIDATE = torch.tensor([True, True, True, False])  # and "unknown"
A, B, UNKNOWN = 30 * torch.eye(4)[[0, 1, 3]]
FLAT = torch.tensor([0.0, 0.0, 0.0, -30.0])
SPLIT = torch.tensor([0.5, 0.3, 0.2, 1e-9]).log()


def rows(plain, reference, *branches):
    found = row_statistics(plain, reference, torch.stack(branches), CANDIDATE)
    return {name: float(value) for name, value in found.items()}


@pytest.mark.parametrize(
    ("reference", "branches", "expected"),
    [
        # An off-target branch that abstains, as the reference does.
        (UNKNOWN, (A, UNKNOWN), {"first": 1, "rival": 0, "moved": 0, "outside": 0.5, "share": 0.5}),
        # One that answers from its own image.
        (UNKNOWN, (A, B), {"first": 1, "rival": 1, "moved": 1, "outside": 0, "agreement": 0}),
        # One that does not commit itself, as the reference does not.
        (FLAT, (A, FLAT), {"rival": 1 / 3, "moved": 0, "agreement": 1 / 3, "outside": 0}),
        (FLAT, (A, A, B, FLAT), {"rival": 1, "share": 0.25, "agreement": (1 + 3 / 3) / 6}),
        (
            A,
            (A, A),
            {"agreement": 1, "rival": 0, "moved": 0, "reference_entropy": 0, "with_plain": 0.5},
        ),
        (FLAT, (A,), {"first": 1, "rival": 0, "agreement": 1, "moved": 0, "share": 1}),
    ],
)
def test_statistics_of_rows_are_what_they_are_by_hand(reference, branches, expected):
    found = rows(SPLIT, reference, *branches)
    assert set(found) == set(ROW_STATISTICS)
    assert found["plain_margin"] == pytest.approx(0.2, abs=1e-4)
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-4)
    # A constant added to the logits of a row changes no distribution.
    shifted = rows(SPLIT + 3, reference - 2, *(b + k for k, b in enumerate(branches)))
    assert shifted == pytest.approx(found, abs=1e-4)


def test_statistics_of_a_rule_are_those_of_its_reading():
    combined = torch.tensor([0.4, 0.1, 0.5, 2.0]).log()
    among = rule_statistics(combined, SPLIT, CANDIDATE)
    assert (float(among["differs"]), float(among["margin"])) == pytest.approx((1, 0.1))
    whole = rule_statistics(combined, SPLIT, torch.ones(4, dtype=torch.bool))
    assert (float(whole["differs"]), float(whole["margin"])) == pytest.approx((1, 0.5))
    same = rule_statistics(SPLIT - 5, SPLIT, CANDIDATE)
    assert float(same["differs"]) == 0
    with pytest.raises(InvalidValueError, match="two or more"):
        rule_statistics(combined, SPLIT, torch.tensor([True, False, False, False]))
    with pytest.raises(InvalidValueError, match="plain"):
        rows(SPLIT[:2], FLAT, A, B)


def planted(*, related: bool = True, size: int = 80) -> pd.DataFrame:
    """Tables of questions. Related: the rule wins where no rival commits itself, else loses."""
    rng = np.random.default_rng(0)
    tables = []
    for architecture, kind, split, asked_for in itertools.product(
        "abcd", ("abstaining", "answering", "guessing"), ("dev", "test"), ("indexed", "which", "x")
    ):
        rival = np.clip(rng.normal(rng.random(), 0.1, size), 0, 1)
        chance = 1 - rival if related else np.full(size, rng.random())
        differs, won, right = rng.random((3, size)) < [[0.6] * size, chance, [0.5] * size]
        own = {
            "differs": differs.astype(float),
            "margin": rng.random(size),
            "rule": np.where(differs, won, right).astype(int),
            "plain": np.where(differs, ~won, right).astype(int),
        }
        values = (f"{architecture}-{kind}", architecture, kind, split, "scenes", asked_for, 2)
        table = pd.DataFrame({name: rng.random(size) for name in ROW_STATISTICS})
        table = table.assign(**dict(zip(LABELS, values, strict=True)), rival=rival, share=0.5)
        for rule, reading in contests():
            name = f"{rule}_{reading}"
            table[f"{name}_differs"], table[f"{name}_margin"] = own["differs"], own["margin"]
            table[name], table[f"plain_{reading}"] = own["rule"], own["plain"]
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


@pytest.fixture(scope="module")
def related() -> pd.DataFrame:
    return planted()


@pytest.mark.parametrize("way", ["test", "architecture", "kind", "questions"])
def test_a_planted_relation_is_found_and_its_intervals_cover(related, way):
    cells = contest(cell_means(related), "sum", CANDIDATES)
    found = judge_cells(cells, GAIN[CANDIDATES], way, 200)
    value, low, high = found["r2"]
    assert low <= value <= high
    assert value > 0.8
    assert 0.9 <= found["covered"][0] <= 1
    assert found["best"][0] >= found["chosen"][0] > max(found["plain"][0], found["rule"][0])
    assert found["over_plain"][1] > 0
    asked = judge_questions(related, "sum", CANDIDATES, way, 200)
    assert asked["auc"][1] > 0.7
    assert asked["by_question_over_rule"][1] > 0
    assert all(abs(line["forecast"] - line["measured"]) < 0.1 for line in asked["calibration"])


@pytest.mark.parametrize("way", ["architecture", "kind", "questions"])
def test_what_is_left_out_is_not_fitted(related, way):
    found = folds(contest(cell_means(related), "sum", CANDIDATES), way)
    assert len(found) == related[way].nunique()
    for fitted, judged in found:
        assert set(fitted["split"]) == {"dev"}
        assert set(judged["split"]) == {"test"}
        assert not set(fitted[way]) & set(judged[way])


def test_nothing_is_found_where_nothing_is(related):
    questions = planted(related=False)
    cells = contest(cell_means(questions), "sum", CANDIDATES)
    assert judge_cells(cells, GAIN[CANDIDATES], "architecture", 200)["r2"][0] < 0.1
    asked = judge_questions(questions, "sum", CANDIDATES, "architecture", 200)
    assert asked["auc"][0] == pytest.approx(0.5, abs=0.05)
    # The statistic is there as before; shuffled gains lose what related ones have.
    cells = contest(cell_means(related), "sum", CANDIDATES)
    gains = cells["gain"].sample(frac=1, random_state=0).to_numpy()
    shuffled = judge_cells(cells.assign(gain=gains), GAIN[CANDIDATES], "architecture", 200)
    assert shuffled["r2"][0] < 0.1


def test_what_was_fitted_is_forecast_from_questions_as_from_cells(related):
    cells = cell_means(related)
    fitted = fit(cells, related)
    for rule, reading in contests():
        fitted["forecasts"][rule][reading]["held_out"] = {}
    forecast = Forecast.of({**fitted, "fitted_on": {}}, "max", CANDIDATES)
    test = forecasts(contest(cells, "max", CANDIDATES), GAIN[CANDIDATES], "test")
    (_, part), *_ = related[related["split"] == "test"].groupby(list(LABELS))
    statistics = {name: torch.tensor(part[name].to_numpy()) for name in ROW_STATISTICS}
    for name in ("differs", "margin"):
        statistics[name] = torch.tensor(part[f"max_candidates_{name}"].to_numpy())
    gain, line = forecast.gain(statistics), test.iloc[0]
    assert line["model"] == part["model"].iloc[0]
    assert (gain.estimate, gain.low, gain.high) == pytest.approx(
        (line["forecast"], line["low"], line["high"]), abs=0.005
    )
    never = forecast.gain({**statistics, "differs": 0 * statistics["differs"]})
    assert (never.estimate, never.low, never.high) == (0, 0, 0)
    strange = forecast.gain({**statistics, "first": 0 * statistics["first"]})
    assert "first" in strange.unseen
    assert "first" not in gain.unseen
    alone, rivalled = (
        forecast.probability({**statistics, "rival": value * torch.ones(len(part))}).mean()
        for value in (0, 1)
    )
    assert alone > 0.9 > 0.1 > rivalled
    with pytest.raises(UnknownNameError, match="sum"):
        Forecast.of(fitted, "median", CANDIDATES)
    with pytest.raises(InvalidValueError, match="questions"):
        forecast.gain({name: value[:0] for name, value in statistics.items()})


def test_area_over_models_is_the_area():
    rng = np.random.default_rng(1)
    scores, won = pd.Series(rng.integers(0, 9, 300) / 9), pd.Series(rng.integers(0, 2, 300))
    models = pd.Series(rng.choice(["a", "b", "c"], 300))
    value, low, high = auc_over_models(scores, won, models, 200)
    assert value == pytest.approx(roc_auc_score(won, scores))
    assert low < value < high


def test_committed_data_page_and_forecast_are_of_one_piece():
    cells = read_cells(DOCS / "cells.csv")
    fitted = json.loads(FITTED.read_text(encoding="utf-8"))
    judged = json.loads((DOCS / "judged.json").read_text(encoding="utf-8"))
    assert (DOCS / "README.md").read_text(encoding="utf-8") == page(judged, fitted)
    assert (DOCS / "cells.csv").stat().st_size < 300_000
    dev = cells[cells["split"] == "dev"]
    assert sorted(dev["model"].unique()) == fitted["fitted_on"]["models"]
    for rule, reading in contests():
        part = contest(cells, rule, reading)
        own = fitted["forecasts"][rule][reading]
        again = fit_gain(part[part["split"] == "dev"], GAIN[reading])
        assert own["gain"]["coefficients"] == pytest.approx(again["coefficients"], rel=1e-4)
        assert own["gain"]["scale"] == pytest.approx(again["scale"], rel=1e-4)
        found = judge_cells(part, GAIN[reading], "architecture", 50)
        assert own["held_out"]["r2"][0] == pytest.approx(found["r2"][0], abs=1e-4)
        for name in ("covered", "chosen", "over_rule"):
            said = judged[rule][reading]["architecture"][name][0]
            assert said == pytest.approx(found[name][0], abs=1e-4)


def test_tables_are_computed_once_and_hold_what_the_rows_say(tmp_path):
    name = "internvl-guessing"
    model, store = Model.at(name, embedded_path(name)), RowStore(tmp_path / "rows")
    questions = Questions("scenes", "indexed", "dev", 6, num_images=3)
    table = command.table(store, model, questions, tmp_path / "questions")
    assert store.computed == 2
    unused = RowStore(tmp_path / "none")
    again = command.table(unused, model, questions, tmp_path / "questions")
    assert unused.computed == 0
    pd.testing.assert_frame_equal(again, table)
    assert (table["architecture"].iloc[0], table["kind"].iloc[0]) == ("internvl", "guessing")
    # What the doctor makes of its own rows of the same question.
    example = IndexedQuestion(split="dev", size=6, num_images=3)[2]
    vlm, request = focus.load(f"embedded:{name}"), request_of(IndexedQuestion(), example)
    settings = focus.GenerationSettings(max_new_tokens=1)
    plain, rows = (
        strategy.decode(vlm, request, settings, keep_logits="first").branch_logits[0][:, 0]
        for strategy in (focus.Plain(), focus.Focus())
    )
    named = naming(vlm.processor.tokenizer, example.choices)
    found = question_statistics(plain[0], rows, named, alpha=0.3)
    for rule, statistics in found.items():
        for statistic, value in statistics.items():
            column = statistic if statistic in ROW_STATISTICS else f"{rule}_candidates_{statistic}"
            assert float(value) == pytest.approx(table[column][2], abs=1e-3), column


def test_spellings_of_a_choice_count_as_one_token():
    plain, rows = torch.randn(5, generator=torch.Generator().manual_seed(0)), torch.randn(3, 5)
    whole = question_statistics(plain, rows, {0: "red", 1: "blue"}, alpha=0.3)
    half = torch.tensor([0.5, 0.5]).log()
    split = [torch.cat([x[..., :1] + half, x[..., 1:]], -1) for x in (plain, rows)]
    found = question_statistics(*split, {0: "red", 1: "red", 2: "blue"}, alpha=0.3)
    for name, value in whole["routed"].items():
        assert float(found["routed"][name]) == pytest.approx(float(value), abs=1e-4), name


class Unlabelled(IndexedQuestion):
    """The same questions; what is right, named or true is withheld."""

    def __getitem__(self, index):
        example = super().__getitem__(index)
        hidden = {"answer": example.choices[0], "targets": (), "truths": (), "distractors": ()}
        return replace(example, **hidden, metadata={})


def test_the_doctor_forecasts_without_labels():
    vlm = focus.load("embedded:internvl-abstaining-seed1")
    told, untold = (
        doctor.behaviour(vlm, benchmark, request_of, size=8)
        for benchmark in (IndexedQuestion(size=40), Unlabelled(size=40))
    )
    assert untold.data["forecast"] == told.data["forecast"]
    assert untold.data["forecast"]["sum"]["estimate"] > 0
    assert any("no labels" in line for line in untold.lines)
    assert "off_target" not in untold.data
    expected = f"{untold.data['forecast']['sum']['estimate']:+.2f}"
    assert expected in doctor.verdict([untold])
    strange = {**untold.data["forecast"], "unseen": ["first"]}
    check = replace(untold, data={**untold.data, "forecast": strange})
    assert "is open" in doctor.verdict([check])
    assert "first is unlike" in doctor.verdict([check])
