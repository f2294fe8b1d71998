"""Ablations of any model on any benchmark: what they rank is what an evaluation ranks."""

from __future__ import annotations

import json
from dataclasses import replace

import datasets
import pandas as pd
import pytest
import torch
from fixtures_benchmarks import FIXTURES
from test_benchmarks_end_to_end import call

from analysis.ablations import PLAIN, of_kind
from analysis.rules import RULES, apply_rule
from experiments import ablate, ablation_models, evaluate
from experiments.ablation_cells import RowStore
from experiments.ablation_models import Model
from experiments.ablation_questions import questions_of
from experiments.ablation_rows import Rows
from experiments.config import CONF, compose_config, plain
from focus.errors import InvalidValueError, UnknownNameError
from focus.evidence import Columns, Evidence
from focus.records import read_records

datasets.disable_progress_bars()

EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("ablation_*.yaml"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Local data of benchmarks with two images, with one to many, and with open questions."""
    root = tmp_path_factory.mktemp("any")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", root / "cache")
        for name in ("winoground", "muirbench", "mirb"):
            FIXTURES[name].saved(root / name, "parquet")
        yield root


def ablated(folder, *overrides: str) -> list[dict]:
    """Records of one run."""
    call(
        ablate.main,
        *("threads=1", "size=8", "dev_size=4", "alphas=[0.0,0.6]", f"results={folder}"),
        *overrides,
        folder=folder,
    )
    (path,) = folder.glob("*/*.jsonl.gz")
    return list(read_records(path))


@pytest.mark.parametrize(
    ("benchmark", "family", "small"),
    [("muirbench", "internvl", 4096), ("muirbench", "qwen2_5_vl", 0),
     ("winoground", "llava_onevision", 0), ("winoground", "qwen3_vl", 4096)],
)  # fmt: skip
def test_an_ablation_ranks_as_an_evaluation(data, tmp_path, monkeypatch, benchmark, family, small):
    """The same candidates on top, whether rows keep every token or those of the answers alone."""
    monkeypatch.setattr(ablation_models, "SMALL", small)
    ablation_models._columns.cache_clear()
    asked = (f"model=tiny_{family}", f"benchmark={benchmark}", f"benchmark.path={data}/{benchmark}")
    records = ablated(tmp_path / "ablated", "experiment=ablation_aggregation", *asked)
    lines = [r for r in of_kind(records, "answers") if r["reading"] == "candidates"]
    assert {r["reading"] for r in of_kind(records, "answers")} == (
        {"text", "candidates"} if small else {"candidates"}
    )
    (facts,) = of_kind(records, "questions")
    for rule in ("sum", "max"):
        (line,) = [r for r in lines if r["rule"] == rule]
        call(
            evaluate.main,
            *(*asked, "limit=8", "threads=1", "settings.max_new_tokens=1"),
            *(f"decoding.alpha={line['alpha']}", f"decoding.aggregation={rule}"),
            *("decoding.single_image=contrast", f"results={tmp_path}/{rule}"),
            folder=tmp_path,
        )
        (path,) = (tmp_path / rule).glob(f"{benchmark}-*/records.jsonl")
        # Questions whose choices cannot be told apart, to this tokenizer, are left out.
        answers = [r for r in map(json.loads, path.open()) if r["choice_answer"] is not None]
        for name, own in (("plain", _plain(lines)), ("focus", line)):
            right = [r["choice_answer"] == r["answer"] for r in answers if r["decoding"] == name]
            assert [mark == "+" for mark in own["marks"]] == right
        assert len(facts["answer"]) == len(line["marks"]) == (4 if benchmark == "winoground" else 8)
    # Not only the same order: every row gives every choice the same probability.
    config = plain(compose_config("ablate", ["experiment=ablation_noise", *asked]))
    model, store = Model.of(config["model"], config["engine"]), RowStore(tmp_path / "rows")
    questions = questions_of(config["benchmark"], split="test", size=8)
    columns, evidence = (
        model.columns(model.load(questions)),
        store.evidence(model, questions, Rows()),
    )
    for q, record in enumerate(r for r in answers if r["decoding"] == "focus"):
        place = [columns.ids[choice] for choice in record["choices"]]
        reference, *branches = record["row_logprobs"].values()
        number = evidence.branches_of(q)
        rows = torch.stack([evidence.reference[q], *evidence.branches[:number, q]]).log_softmax(-1)
        expected = torch.tensor([reference, *branches])
        torch.testing.assert_close(rows[:, place], expected, rtol=0, atol=2e-4)
        assert (rows[1:, place] - rows[:1, place]).abs().max() > 1e-3  # rows differ by more


def _plain(lines: list[dict]) -> dict:
    (line,) = [r for r in lines if r["rule"] == PLAIN]
    return line


def test_a_named_model_and_benchmark_get_tables_and_figures(data, tmp_path, capsys):
    folder = tmp_path / "noise"
    records = ablated(
        folder, "experiment=ablation_noise", "model=tiny_internvl", "benchmark=winoground",
        f"benchmark.path={data}/winoground", "size=4",
        "logger=csv", f"logger.folder={tmp_path}/tables",
    )  # fmt: skip
    reported = pd.read_csv(tmp_path / "tables" / "ablate-answers.csv")
    assert set(reported["noise"].dropna()) > {"black", "gaussian"}
    assert (tmp_path / "tables" / "ablate-samples.csv").exists()
    shown = capsys.readouterr().out
    assert "plain decoding and FOCUS" in shown
    assert "tables and figures" in shown
    below = folder / "winoground-tiny_internvl"
    assert (below / "noise.md").read_text().startswith("# Noise types")
    assert (below / "noise-types.png").stat().st_size > 1000
    noises = {r["noise"] for r in of_kind(records, "answers") if r["rule"] == "sum"}
    assert len(noises) == 16
    # Settings are chosen on the part that is not reported.
    (facts,) = of_kind(records, "questions")
    (choice,) = {tuple(r["tuning"]) for r in of_kind(records, "choice")}
    assert "-test-" in facts["questions"]
    assert all("-dev-" in name for name in choice)
    # The next run knows everything.
    ablated(folder, "experiment=ablation_noise", "model=tiny_internvl", "benchmark=winoground",
            f"benchmark.path={data}/winoground", "size=4")  # fmt: skip
    assert " 0 passes computed" in capsys.readouterr().out


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_has_a_page_on_any_benchmark(data, tmp_path, experiment):
    """Whatever its views and claims are about: kinds, numbers of images, worlds, named images."""
    call(
        ablate.main,
        *(f"experiment={experiment}", "size=3", "dev_size=2", "alphas=[0.3]", "threads=1"),
        *("model=tiny_internvl", "benchmark=muirbench", f"benchmark.path={data}/muirbench"),
        *("costs=[]", f"results={data}/rows"),  # which experiments share, as the commands do
        folder=tmp_path,
    )
    name = experiment.removeprefix("ablation_")
    page = (data / "rows" / "muirbench-tiny_internvl" / f"{name}.md").read_text()
    assert "### muirbench: accuracy" in page


def test_schemes_run_on_any_model_and_rows_that_cannot_leave_a_note(data, tmp_path):
    asked = ("model=tiny_qwen2_5_vl", "benchmark=winoground",
             f"benchmark.path={data}/winoground", "size=4")  # fmt: skip
    records = ablated(tmp_path / "a", "experiment=ablation_schemes", "costs=[]", *asked)
    lines = [r for r in of_kind(records, "answers") if r["rule"] == "sum"]
    assert {r.get("scheme") for r in lines} == {
        None,
        "composed",
        "crossed",
        "stand_in",
        "isolated",
        "masked",
    }
    records = ablated(tmp_path / "b", "experiment=ablation_targets", *asked)
    notes = of_kind(records, "note")
    assert {note["targets"] for note in notes} == {"named"}
    assert "no image is named" in notes[0]["why"]


def test_open_questions_are_refused(data, tmp_path, capsys):
    with pytest.raises(SystemExit):
        ablated(tmp_path, "experiment=ablation_noise", "model=tiny_internvl", "benchmark=mirb",
                f"benchmark.path={data}/mirb", "benchmark.part=dev")  # fmt: skip
    assert "mirb" in capsys.readouterr().err


def test_columns_keep_the_probability_of_all_others():
    logits = torch.tensor([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 5.0, 1.0]])
    columns = Columns({"A": 0, "B": 1}, {}, (2, 0))
    kept = columns.of(logits)
    assert kept.shape == (2, 3)
    p = logits.softmax(-1)
    torch.testing.assert_close(
        kept.softmax(-1), torch.stack([p[:, 2], p[:, 0], p[:, 1] + p[:, 3]], dim=1)
    )
    assert Columns({}, {}).of(logits) is logits


@pytest.mark.parametrize("rule", ["sum", "max", "entropy", "routed", "agreeing"])
def test_questions_with_fewer_branches_are_read_alone(rule):
    """As if there were no others, whatever their missing branches are filled with."""
    draw = torch.Generator().manual_seed(0)
    plain, reference = (torch.randn(3, 5, generator=draw) for _ in range(2))
    branches = torch.randn(4, 3, 5, generator=draw)
    whole = Evidence(plain, reference, branches, None, torch.tensor([2, 4, 2]))
    found = apply_rule(rule, whole, 0.5)
    for q, number in enumerate((2, 4, 2)):
        part = slice(q, q + 1)
        alone = Evidence(plain[part], reference[part], branches[:number, part])
        torch.testing.assert_close(found[part], RULES[rule](alone, 0.5))
    everything = replace(whole, numbers=None)
    assert not torch.allclose(apply_rule(rule, everything, 0.5)[0], found[0])
    assert whole.mean_branches == pytest.approx(8 / 3)
    assert everything.mean_branches == 4


def test_a_model_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SystemExit):
        ablated(tmp_path, "experiment=ablation_noise", "model=tiny_gpt")
    with pytest.raises((UnknownNameError, InvalidValueError)):
        ablation_models.models_of(["gpt"], None)
