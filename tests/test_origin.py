"""Where leakage begins: a planted training is read in order, once, and told as it is."""

from __future__ import annotations

import os
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from test_benchmarks_end_to_end import call
from test_probes import asked, at

import focus
from analysis.probes import origin
from analysis.probes.origin_page import Stages, origin_markdown
from experiments import probe as command
from focus.benchmarks.embedded import IndexedQuestion
from focus.errors import UnknownNameError
from focus.probes import Entanglement
from focus.reading import Reader

mpl.use("Agg")
WEIGHTS = Path(focus.__file__).parent / "zoo" / "weights"


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Path:
    """A training that was kept at three steps: it knows nothing, leaks little, then much."""
    folder = tmp_path_factory.mktemp("kept")
    vlm = focus.load("embedded:internvl-abstaining")
    begin = folder / "planted-answering-00100"
    Reader(vlm).untrained().vlm.model.save_pretrained(begin)
    vlm.processor.save_pretrained(begin)
    for step, name in ((200, "abstaining"), (1000, "answering")):
        os.symlink(WEIGHTS / f"internvl-{name}", folder / f"planted-answering-{step:05d}")
    (folder / "planted-answering-00300").mkdir()  # still being written
    return folder


def test_a_planted_training_is_told_in_order_and_asked_once(kept, tmp_path, capsys):
    arguments = ["probe=origin", "benchmark.split=dev", "threads=1", "limit=24",
                 f"results={tmp_path}", f"into={tmp_path}/lines.csv"]  # fmt: skip
    call(command.main, *arguments, f"snapshots={kept}/*00", "models=[]", folder=tmp_path / "h")
    (records,) = tmp_path.glob("origin-*/records.jsonl")
    found = pd.read_csv(tmp_path / "lines.csv")
    assert found["step"].tolist() == [100, 200, 1000]
    assert set(found["model"]) == {"planted-answering"}
    assert found["n"].tolist() == [24] * 3
    before, little, much = (row for _, row in found.iterrows())
    # Answers of a model that knows nothing are true of another image by chance alone.
    assert before["excess_low"] < 0 < before["excess_high"]
    assert before["alone_high"] < little["alone_low"]
    assert much["excess"] > little["excess"] + 0.1 > 0.15
    assert little["gain"] > much["gain"]
    assert much["text_moved"] > 0.9 > 0.3 > much["images_moved"]
    assert (found["mixing"] > 0).all()
    # Asked again, of a part of it: nothing is measured, and its line takes the place of the old.
    first = records.read_text()
    call(command.main, *arguments, f"snapshots={kept}/*-01000", folder=tmp_path / "h")
    assert records.read_text() == first
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "lines.csv"), found)
    # Control: hidden from everything, the other image cannot leak.
    call(command.main, *arguments[:-1], f"snapshots={kept}/*-01000", "planted=other_hidden",
         folder=tmp_path / "h")  # fmt: skip
    (table,) = tmp_path.glob("origin-*-planted-*/table.csv")
    hidden = at(pd.read_csv(table))
    assert hidden["leakage_high"] < much["leakage_low"]
    assert np.isnan(hidden["focus"])
    with pytest.raises(SystemExit):
        call(command.main, *arguments, f"snapshots={tmp_path}/none/*", folder=tmp_path / "h")
    assert "outputs/zoo/snapshots" in capsys.readouterr().err


def line(model, step, **values):
    names = ["alone", "plain", "focus", "gain", "excess", "text_moved", "images_moved", "mixing"]
    given = {name: values.get(name, 0.5) for name in names}
    ends = {f"{name}_{end}": value + shift for name, value in given.items()
            for end, shift in (("low", -0.1), ("high", 0.1))}  # fmt: skip
    cell = {"benchmark": "scenes_indexed", "num_images": 2, "model": model, "step": step}
    return {**cell, "n": 9, "leaked_n": 20, **given, **ends}


@pytest.fixture
def told() -> pd.DataFrame:
    """Two recipes with one first stage, which only one of them was kept in."""
    lines = [
        line("a-guessing", 100, excess=0.05, gain=0.0),
        line("a-guessing", 200, excess=0.3, gain=0.2),
        line("a-guessing", 400, excess=0.2, gain=0.25, text_moved=0.9),
        line("a-answering", 300, excess=0.35, gain=-0.2),
        line("a-answering", 400, excess=0.4, gain=0.0),
        line("internvl-guessing", None, excess=0.25),
    ]
    return pd.DataFrame(lines).astype({"step": "Int64"})


def test_a_run_begins_with_what_it_shares(told):
    runs = origin.along(told)
    assert {run: lines["step"].tolist() for run, lines in runs.items()} == {
        "a-answering": [100, 200, 300, 400],
        "a-guessing": [100, 200, 400],
    }
    assert len(origin.figure(told).axes) == 3
    assert origin.run_and_step("internvl-guessing-seed1-00250") == ("internvl-guessing-seed1", 250)
    assert origin.run_and_step("internvl-guessing-seed1") == ("internvl-guessing-seed1", None)


def test_the_page_counts_what_the_lines_say(told):
    mixtures = {"first": {"clean_multi": 0.0, "many": 1.0}, "then": {"clean_multi": 0.1}}
    stages = Stages.of({"recipe": {"stages": [
        {"name": name, "steps": 200, "mixture": mixture} for name, mixture in mixtures.items()
    ]}})  # fmt: skip
    assert (stages.ends, stages.single) == ({"first": 200, "then": 400}, 200)
    points = pd.DataFrame({
        "abstains": ["none"] * 3, "clean_multi": [0.0, 0.1, 0.6],
        "plain_leakage": [0.4, 0.3, 0.1], "delta": [0.0, 0.1, -0.1],
    })  # fmt: skip
    page = " ".join(origin_markdown(told, points, stages).split())
    assert "(2 models and worlds) answers leak beyond chance in 1 of 2 (.05 to .30 of them)" in page
    assert "FOCUS gains in 1 of 2 and loses in 0 of 2 (+.00 to +.20)" in page
    assert "*Afterwards* (3) in 3 of 3 (.20 to .40); at the last step" in page
    assert "answering .40 (FOCUS +.00); guessing .20 (FOCUS +.25). FOCUS gains in 1 of 3" in page
    assert "in 1 of 3 and loses in 1 of 3" in page
    assert "moves .50 to .50 before, .50 to .90 after" in page
    assert "none .40 to .10, FOCUS +.00 to -.10" in page
    assert "| all | 200 (first) |" in " ".join(page.split())


def test_one_condition_of_entanglement_is_what_it_is_among_all(tmp_path):
    vlm = focus.load("embedded:internvl-abstaining")
    questions = asked(vlm, IndexedQuestion(size=2, split="dev"), 2)
    reader = Reader(vlm)
    every, one = (
        Entanglement(untrained=False, conditions=conditions).observe(
            reader, questions, range(2), tmp_path
        )
        for conditions in (None, ["other company"])
    )
    assert one == [[o for o in seen if o["condition"] == "other company"] for seen in every]
    assert one[0]
    with pytest.raises(UnknownNameError, match="did you mean 'other company'"):
        Entanglement(conditions=["other compani"])
