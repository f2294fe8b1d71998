"""Records combined anew: what a model would have said under another setting, without the model."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from test_benchmarks_end_to_end import call

from analysis.recombining import Combination, recombined
from experiments import evaluate, rescore
from experiments.ablation_models import Model
from experiments.ablation_questions import Questions
from focus.errors import InvalidValueError, UnknownNameError
from focus.evidence import packed, rows_of
from focus.marks import CANDIDATES, TEXT, AnswerKey, read, right_probability
from focus.models.loading import embedded_path
from focus.records import RECORDS, RecordFile, read_records, write_records
from focus.scoring import Reference

ROOT = Path(__file__).resolve().parent.parent


def evaluated(folder, *overrides: str) -> list[dict]:
    """Records of plain decoding and FOCUS, on a trained model whose rows differ."""
    settings = ("limit=24", "threads=1", "settings.max_new_tokens=1", "decoding.targets=all")
    call(evaluate.main, *settings, *overrides, f"results={folder}", folder=folder)
    (path,) = folder.glob("scenes_*-focus-*/records.jsonl")
    return [json.loads(line) for line in path.open()]


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> list[dict]:
    return evaluated(tmp_path_factory.mktemp("log"), "decoding.alpha=0.3", "benchmark=which")


@pytest.mark.parametrize(
    "combination",
    [Combination("sum", 0.0), Combination("sum", 0.9), Combination("product", 0.5),
     Combination("mean", 0.3, beta=0.2)],
    ids=str,
)  # fmt: skip
def test_recombined_choices_are_those_of_a_run_with_these_settings(log, tmp_path, combination):
    """These rules need nothing of what is no choice; the cut-off is set by a choice here."""
    again = evaluated(
        tmp_path, "benchmark=which", f"decoding.alpha={combination.alpha}",
        f"decoding.aggregation={combination.rule}", f"decoding.beta={combination.beta}",
    )  # fmt: skip
    expected = {r["id"]: r["choice_answer"] for r in again if r["decoding"] == "focus"}
    name = f"focus: {combination}"
    found = {r["id"]: r for r, _ in recombined(log, [combination]) if r["decoding"] == name}
    assert {key: record["choice_answer"] for key, record in found.items()} == expected
    told = {r["id"]: r["choice_answer"] for r in log if r["decoding"] == "focus"}
    if combination.alpha != 0.3:
        assert told != expected  # control: the setting changes answers


def record(decoding: str, rows: dict[str, list[float]], **fields) -> dict:
    """Of a question with two images and three choices, the first of which is right."""
    probabilities = {k: [math.log(p) if p else None for p in v] for k, v in rows.items()}
    question = {"choices": ["a", "b", "c"], "answer": "a", "distractors": ["b"], "targets": [1]}
    labels = {"model": "m", "benchmark": "b", "order": 0, "id": "q", "decoding": decoding}
    given = {"num_images": 2, "choice_answer": "c", "row_logprobs": probabilities}
    return {**labels, **question, **given, **fields}


ROWS = {"reference": [0.3, 0.3, 0.3], "image 1": [0.1, 0.6, 0.2], "image 2": [0.5, 0.1, 0.3]}
LOG = [record("plain", {"image 1+2": [0.2, 0.3, 0.4]}), record("focus", ROWS)]


@pytest.mark.parametrize(
    ("rule", "choice"), [("sum", "b"), ("max", "b"), ("oracle", "a")]
)  # 0.1 * 0.5 < 0.6 * 0.1 = 0.2 * 0.3, of which the first is taken; the largest is 0.6
def test_rules_by_hand(rule, choice):
    log = [LOG[0], record("focus", {**ROWS, "image 1": [0.1, 0.6, 0.19]})]
    _, (told, score) = recombined(log, [Combination(rule, 0.0)])
    assert told["choice_answer"] == choice
    assert (score.correct, score.leaked) == (choice == "a", choice == "b")
    assert told["decoding"] == f"focus: {rule} alpha 0"


def test_a_row_of_plain_decoding_is_no_branch():
    rows = {**ROWS, "image 1+2": [0.9, 0.05, 0.05]}
    _, (told, _) = recombined([LOG[0], record("routed_focus", rows)], [Combination("max", 0.0)])
    assert told["choice_answer"] == "b"


def test_a_question_that_was_decoded_plainly_keeps_its_answer():
    alone = record("focus", {"image 1": [0.1, 0.2, 0.6]}, id="alone", num_images=1)
    asked = [*LOG, alone, {**alone, "decoding": "plain"}]
    found = {r["id"]: r for r, _ in recombined(asked, [Combination()]) if "focus" in r["decoding"]}
    assert found["alone"]["choice_answer"] == "c"
    assert found["q"]["choice_answer"] != "c"
    with pytest.raises(InvalidValueError, match="reference and branches"):
        list(recombined([alone, {**alone, "decoding": "plain"}], [Combination()]))


def test_what_rules_do_not_have_is_refused():
    with pytest.raises(UnknownNameError, match="median"):
        Combination("median")
    with pytest.raises(InvalidValueError, match="beta"):
        Combination("routed", beta=0.1)
    unnamed = [{**each, "targets": []} for each in LOG]
    with pytest.raises(InvalidValueError, match="oracle"):
        list(recombined(unnamed, [Combination("oracle")]))


def test_the_rest_of_the_probability_is_a_column_and_arrays_are_kept_to_the_bit():
    rows = rows_of(LOG[1])
    torch.testing.assert_close(rows["image 1"].exp(), torch.tensor([0.1, 0.6, 0.2, 0.1]))
    values = torch.randn(7)
    assert torch.equal(rows_of({"row_columns": {"reference": packed(values)}})["reference"], values)
    with pytest.raises(InvalidValueError, match="log-probabilities"):
        rows_of({"id": "q", "row_logprobs": None})


def test_where_nothing_is_possible_no_answer_is_right():
    key = AnswerKey.of([Reference("a", ("a", "b"))], {"a": 0, "b": 1}, None)
    nothing = torch.full((1, 2), -torch.inf)
    assert [read(nothing, key, reading) for reading in (TEXT, CANDIDATES)] == ["-", "-"]
    assert read(torch.tensor([[0.0, -torch.inf]]), key, CANDIDATES) == "+"


def test_the_demo_is_what_its_records_say():
    """The published rule at the weight of the demo: choices as they were recorded."""
    log = [r for r in read_records(ROOT / "docs/demo/records.jsonl.gz")
           if r["index"] < 100 and r["benchmark"] == "scenes_indexed"]  # fmt: skip
    recorded = [r["choice_answer"] for r in log if r["decoding"] == "focus"]
    told = [r["choice_answer"] for r, _ in recombined(log, [Combination("sum", 0.6)])
            if r["decoding"] != "plain"]  # fmt: skip
    assert told == recorded
    other = [r["choice_answer"] for r, _ in recombined(log, [Combination("max", 0.3)])
             if r["decoding"] != "plain"]  # fmt: skip
    assert other != recorded


def test_the_command(log, tmp_path, capsys):
    RecordFile(tmp_path / "log", {}).close()
    write_records(tmp_path / "log" / RECORDS, log)
    before = {path: path.read_bytes() for path in (tmp_path / "log").iterdir()}
    call(
        rescore.main, f"folder={tmp_path}/log", "rules=max", "alphas=[0.3]", "logger=csv",
        f"logger.folder={tmp_path}", folder=tmp_path,
    )  # fmt: skip
    assert "combined anew" in capsys.readouterr().out
    assert "focus: max alpha 0.3" in (tmp_path / "rescore-recombined.csv").read_text()
    assert {path: path.read_bytes() for path in (tmp_path / "log").iterdir()} == before


def test_a_word_that_is_no_answer_to_any_question_is_still_said():
    """A key names tokens of answers; greedy decoding may say one behind them, which is wrong."""
    asked, logits = [Reference("a", ("a", "b"))], torch.tensor([[2.0, 1.0, 0.0, 3.0]])
    key = AnswerKey.of(asked, {"a": 0, "b": 1}, None, width=4)
    assert [read(logits, key, reading) for reading in (TEXT, CANDIDATES)] == ["-", "+"]
    (p,) = right_probability(logits, key, TEXT, 1.0)
    assert p == pytest.approx(float(logits.softmax(-1)[0, 0]))
    model = Model.at("internvl-guessing", embedded_path("internvl-guessing"))
    loaded = model.load(Questions("scenes", "indexed", "dev", 2))
    assert model.key(loaded).code.shape[1] == len(model.vlm.processor.tokenizer)
