"""The ablations: what each part of FOCUS does, on any model and benchmark.

    python -m experiments.ablate experiment=ablation_noise                    (make ablation-noise)
    python -m experiments.ablate --multirun 'experiment=glob(ablation_*)'     (make ablations)
    python -m experiments.ablate experiment=ablation_noise model=qwen2_5_vl_7b benchmark=muirbench

Each experiment is a grid of cells in ``conf/experiment``: every embedded model and world, unless a
model or a benchmark is named. Finished cells are kept and never computed twice; the records of an
experiment, one line of marks for each setting, model and set of questions, are written when all its
cells are there; those of models that were not asked this time stay. A named model or benchmark has
a folder of its own in ``results``, with its tables and figures.
"""

from __future__ import annotations

from experiments.config import check_command_line

check_command_line("ablate", __name__)  # before the seconds that the other imports take

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from transformers.utils.logging import disable_progress_bar

from analysis.ablation_page import write_page
from analysis.ablation_tables import run_table
from analysis.ablations import answers_frame, of_kind
from analysis.kinds import card_kinds, model_kinds, names_of, ordered
from analysis.results import Found
from experiments.ablation_bench import Bench
from experiments.ablation_cells import RowStore
from experiments.ablation_choice import Chooser
from experiments.ablation_costs import cost_records
from experiments.ablation_models import Model, models_of
from experiments.ablation_questions import AnyQuestions
from experiments.ablation_rows import Rows
from experiments.ablation_sweeps import Sweep
from experiments.config import entry_point, plain
from experiments.evaluation import make_console, progress_bars, set_threads
from experiments.logging import Run, reported, samples
from focus.records import Record, read_records, write_records

#: Whose cards say of which kind the embedded models are.
WEIGHTS = Path("focus/zoo/weights")


@entry_point("ablate")
@reported
def main(config: DictConfig, reporter: Run) -> None:
    """Runs the experiment that the configuration describes."""
    disable_progress_bar()
    set_threads(config.threads)
    started = time.perf_counter()
    console = make_console()
    settings = plain(config)
    if settings["model"] is None:
        models = models_of(settings["models"], settings["weights"])
    else:
        models = [Model.of(settings["model"], settings["engine"])]
    with progress_bars(console, reporter) as progress:
        records, computed = run(settings, models, progress)
    named = [HydraConfig.get().runtime.choices[group] for group in ("benchmark", "model")]
    own = "-".join(name for name in named if name)
    output = Path(config.results) / own if own else Path(config.output)
    path = output / f"{config.name}.jsonl.gz"
    names = [model.name for model in models]
    everything = merged(read_records(path), records, names)
    write_records(path, everything)
    seconds = time.perf_counter() - started
    console.print(run_table(records, config.name, {**Rows().columns, "scheme": None}))
    reporter.table("answers", lambda: greedy_frame(records))
    reporter.table("samples", lambda: sample_frame(models[0], settings))
    reporter.records(path)
    console.print(
        f"{config.name}: {len(records)} records of {len(models)} models in {seconds:.0f} s, "
        f"{computed} passes computed, the rest known: {path}",
        soft_wrap=True,
    )
    if own:
        mpl.use("Agg")
        with console.status("tables and figures"):
            kinds = model_kinds(names_of(everything), card_kinds(WEIGHTS))
            shown = ordered(everything, kinds)
            write_page(output, config.name, shown, Found.of(config.name, shown, kinds))
        console.print(f"tables and figures: {path.parent / config.name}.md", soft_wrap=True)
        reporter.figures({figure.stem: figure for figure in output.glob(f"{config.name}-*.png")})


def sets_of(
    settings: Mapping[str, Any], axes: Mapping[str, Any], size: int
) -> dict[AnyQuestions, None]:
    """The sets of questions of a sweep, or the one of the benchmark that is named; each once."""
    found = Sweep.of(axes).question_sets(settings["worlds"], size, settings["benchmark"])
    return dict.fromkeys(found)


def greedy_frame(records: Sequence[Record]) -> pd.DataFrame:
    """Accuracies of all conditions, but for those that are sampled."""
    answers = [line for line in of_kind(records, "answers") if "marks" in line]
    return answers_frame([*of_kind(records, "questions"), *answers])


def sample_frame(model: Model, settings: Mapping[str, Any]) -> pd.DataFrame:
    """The first questions of all."""
    asked = model.load(next(iter(sets_of(settings, settings["sweeps"][0], settings["size"]))))
    return samples([asked.whole(k) for k in range(min(8, len(asked.examples)))])


def merged(known: Iterable[Record], new: Iterable[Record], models: Sequence[str]) -> list[Record]:
    """Records of a file with those of some models renewed; those of all others stay."""
    kept = [record for record in known if record.get("model") not in models]
    # A dictionary, since both are about the same questions; insertion keeps the order.
    return list({json.dumps(record, sort_keys=True): record for record in [*kept, *new]}.values())


def run(
    settings: dict[str, Any], models: list[Model], progress: Any
) -> tuple[list[dict[str, Any]], int]:
    """All records of an experiment, and how many cells had to be asked.

    Args:
        settings: of ``conf/ablate.yaml`` and one file of ``conf/experiment``.
        models: to ask.
        progress: bars to show.
    """
    root = Path(settings["results"])
    store = RowStore(root / "rows")
    tuning = [
        questions
        for axes in settings["tuning"]
        for questions in sets_of(settings, {**axes, "split": "dev"}, settings["dev_size"])
    ]
    chooser = Chooser(store, list(dict.fromkeys(tuning)), settings["alphas"])
    bench = Bench(store, chooser, root / "cells", settings["strategies"])
    # A dictionary, since sweeps may have cells in common, all of them where a benchmark is named.
    todo = {
        (Sweep.of(axes), model, questions): None
        for axes in settings["sweeps"]
        for questions in sets_of(settings, axes, settings["size"])
        for model in models
    }
    task = progress.add_task(settings["name"], total=len(todo))
    # A dictionary, since sweeps may have lines in common; insertion keeps the order.
    records: dict[str, dict[str, Any]] = {}

    def add(found: list[dict[str, Any]]) -> None:
        records.update({repr(sorted(record.items(), key=str)): record for record in found})

    for sweep, model, questions in todo:
        add([model.load(questions).record()])
        add(bench.lines(sweep, model, questions))
        progress.advance(task)
    for node in settings["costs"]:
        for questions in sets_of(settings, node["questions"], node["size"]):
            for model in models:
                found = cost_records(model, questions, node["strategies"], repeats=node["repeats"])
                add(found)
    add(chooser.records())
    return list(records.values()), store.computed


if __name__ == "__main__":
    main()
