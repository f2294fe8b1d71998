"""Can FOCUS's gain be told without labels? Fits and judges the forecast of `focus.forecast`.

    python -m experiments.forecast                                             (make forecast)

Statistics of the rows of every embedded model on every set of questions, fitted on dev, judged on
test, on architectures that were left out and on kinds of models that were. Run it again when there
is another model: logits and tables of questions are kept, and only what is new is computed.
"""

from __future__ import annotations

from experiments.config import check_command_line

check_command_line("forecast", __name__)  # before the seconds that the other imports take

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from transformers.utils.logging import disable_progress_bar

from analysis.figures import save_figure
from analysis.forecast import RULES, cell_means, contests, fit, with_kinds, write_cells
from analysis.forecast_judging import judge
from analysis.forecast_page import calibration_figure, page
from analysis.rules import apply_rule
from experiments.ablation_cells import RowStore
from experiments.ablation_models import Model, models_of
from experiments.ablation_questions import Questions, load_questions
from experiments.ablation_rows import Rows
from experiments.ablation_sweeps import Sweep
from experiments.config import check_positive, entry_point, plain
from experiments.evaluation import make_console, progress_bars, set_threads
from experiments.logging import Run, reported, samples
from focus.decoding import Focus
from focus.environment import environment
from focus.forecast import row_statistics, rule_statistics
from focus.marks import CANDIDATES, MARKS, READINGS, RIGHT, read
from focus.records import digest

#: Part of every key: raise it when a table of questions would come out otherwise.
VERSION = 3
CELLS, JUDGED, FIGURE, DOCUMENT = "cells.csv", "judged.json", "calibration.png", "README.md"


@entry_point("forecast")
@reported
def main(config: DictConfig, run: Run) -> None:
    """Computes what is missing, fits, judges, and writes the page."""
    check_positive(config, "resamples")
    disable_progress_bar()
    set_threads(config.threads)
    mpl.use("Agg")
    console, settings = make_console(), plain(config)
    with progress_bars(console, run) as progress:
        questions = tables(settings, progress)
    output, cells = Path(config.output), cell_means(questions)
    output.mkdir(parents=True, exist_ok=True)
    write_cells(cells, output / CELLS)
    fitted = {
        "fitted_on": provenance(cells, HydraConfig.get().overrides.task),
        **fit(cells, questions),
    }
    judged = judge(cells, questions, resamples=config.resamples)
    for rule, reading in contests():
        fitted["forecasts"][rule][reading]["held_out"] = {
            name: judged[rule][reading]["architecture"][name] for name in ("r2", "auc", "covered")
        }
    fitted, judged = rounded(fitted), rounded(judged)
    write_json(Path(config.fitted), fitted)
    write_json(output / JUDGED, judged)
    save_figure(calibration_figure(cells, judged), output / FIGURE)
    (output / DOCUMENT).write_text(page(judged, fitted), encoding="utf-8")
    console.print(f"{len(cells)} cells: {output / DOCUMENT}, {config.fitted}", soft_wrap=True)
    run.table("cells", cells)
    run.table("samples", samples(load_questions(next(question_sets(settings))).examples[:8]))
    run.figures({"calibration": output / FIGURE})
    run.records(output, Path(config.fitted))


def tables(settings: Mapping[str, Any], progress: Any) -> pd.DataFrame:
    """One line per question of every model: labels, statistics, and what was right.

    Args:
        settings: of ``conf/forecast.yaml``.
        progress: bars to show.
    """
    store = RowStore(Path(settings["results"]) / "rows")
    models = models_of(settings["models"], settings["weights"])
    todo = list(itertools.product(question_sets(settings), models))
    task = progress.add_task("forecast", total=len(todo))
    found = []
    for questions, model in todo:
        found.append(table(store, model, questions, Path(settings["results"]) / "questions"))
        progress.advance(task)
    return pd.concat(found, ignore_index=True)


def question_sets(settings: Mapping[str, Any]) -> Iterator[Questions]:
    """Every set of questions, of dev and of test."""
    for axes, (split, size) in itertools.product(settings["questions"], settings["sizes"].items()):
        for questions in Sweep.of({**axes, "split": split}).question_sets(settings["worlds"], size):
            assert isinstance(questions, Questions)  # no benchmark is named
            yield questions


def table(store: RowStore, model: Model, questions: Questions, folder: Path) -> pd.DataFrame:
    """Questions of one model, computed once; read back as written, so that runs cannot differ."""
    key = digest([VERSION, model.fingerprint, asdict(questions)])
    path = folder / model.name / f"{questions.key}-{key}.csv"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        computed(store, model, questions).to_csv(partial, index=False, float_format="%.6g")
        partial.replace(path)
    return pd.read_csv(path)


def computed(store: RowStore, model: Model, questions: Questions) -> pd.DataFrame:
    """Statistics, which see no label, and beside them what was right under either reading."""
    loaded, evidence = model.load(questions), store.evidence(model, questions, Rows())
    key = model.key(loaded)
    spare = evidence.plain.shape[-1] - key.candidates.shape[-1]  # entries that no token uses
    candidates = torch.nn.functional.pad(torch.from_numpy(key.candidates), (0, spare))
    rows = (evidence.plain, evidence.reference, evidence.branches)
    columns: dict[str, Any] = {**row_statistics(*rows, candidates)}
    said = {"plain": evidence.plain}
    said |= {rule: apply_rule(rule, evidence, Focus().alpha) for rule in RULES}
    for rule, reading in contests():
        asked = candidates if reading == CANDIDATES else torch.ones_like(candidates)
        made = rule_statistics(said[rule], evidence.plain, asked)
        columns |= {f"{rule}_{reading}_{name}": value for name, value in made.items()}
    for (name, logits), reading in itertools.product(said.items(), READINGS):
        marks = read(logits, key, reading)
        columns[f"{name}_{reading}"] = [int(mark == MARKS[RIGHT]) for mark in marks]
    clusters = {c: i for i, c in enumerate(dict.fromkeys(e.cluster for e in loaded.examples))}
    labels = {
        "model": model.name,
        "split": questions.split,
        "world": questions.world,
        "questions": questions.kind,
        "num_images": len(loaded.examples[0].truths),
        "cluster": [clusters[example.cluster] for example in loaded.examples],
    }
    return with_kinds(pd.DataFrame({**labels, **columns}))


def provenance(cells: pd.DataFrame, asked: Sequence[str]) -> dict[str, Any]:
    """What the forecast is fitted on, and the settings on the command line."""
    dev = cells[cells["split"] == "dev"]
    return {
        "models": sorted(dev["model"].unique()),
        "architectures": sorted(dev["architecture"].unique()),
        "kinds": sorted(dev["kind"].unique()),
        "cells": len(dev),
        "questions": int(dev["n"].sum()),
        "alpha": Focus().alpha,
        "commit": environment()["commit"],
        "date": datetime.now(UTC).date().isoformat(),
        "command": " ".join(["python -m experiments.forecast", *asked]),
    }


def write_json(path: Path, content: Any) -> None:
    """Writes a file of data."""
    text = json.dumps(content, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def rounded(content: Any) -> Any:
    """Floats with six significant digits: the rest depends on the machine."""
    if isinstance(content, Mapping):
        return {key: rounded(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [rounded(value) for value in content]
    return float(f"{content:.6g}") if isinstance(content, float) else content


if __name__ == "__main__":
    main()
