"""The ablations: what each part of FOCUS does, on every embedded model and world.

    python -m experiments.ablate experiment=ablation_noise                    (make ablation-noise)
    python -m experiments.ablate --multirun 'experiment=glob(ablation_*)'     (make ablations)

Each experiment is a grid of cells in ``conf/experiment``. Finished cells are kept and never
computed twice; the records of an experiment, one line of marks for each setting, model and set of
questions, are written when all its cells are there; those of models that were not asked this time
stay.
"""

from __future__ import annotations

from experiments.config import check_command_line

check_command_line("ablate", __name__)  # before the seconds that the other imports take

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from transformers.utils.logging import disable_progress_bar

from analysis.ablation_tables import run_table
from analysis.ablations import Record, read_records, write_records
from experiments.ablation_blocks import Bench, Block
from experiments.ablation_cells import LogitStore, Model, Rows, load_questions, models_of, rows_grid
from experiments.ablation_choice import Chooser
from experiments.ablation_costs import cost_records
from experiments.config import entry_point, plain
from experiments.evaluation import make_console, progress_bars, set_threads


@entry_point("ablate")
def main(config: DictConfig) -> None:
    """Runs the experiment that the configuration describes."""
    disable_progress_bar()
    set_threads(config.threads)
    started = time.perf_counter()
    console = make_console()
    settings = plain(config)
    models = models_of(settings["models"], settings["weights"])
    with progress_bars(console) as progress:
        records, computed = run(settings, models, progress)
    path = Path(config.output) / f"{config.name}.jsonl.gz"
    write_records(path, merged(read_records(path), records, [model.name for model in models]))
    seconds = time.perf_counter() - started
    console.print(run_table(records, config.name, asdict(Rows())))
    console.print(
        f"{config.name}: {len(records)} records of {len(models)} models in {seconds:.0f} s, "
        f"{computed} passes computed, the rest known: {path}",
        soft_wrap=True,
    )


def merged(known: Iterable[Record], new: Iterable[Record], models: Sequence[str]) -> list[Record]:
    """Records of a file with those of some models renewed; those of all others stay."""
    kept = [record for record in known if record.get("model") not in models]
    # A dictionary, since both are about the same questions; insertion keeps the order.
    return list({json.dumps(record, sort_keys=True): record for record in [*kept, *new]}.values())


def run(
    settings: dict[str, Any], models: list[Model], progress: Any
) -> tuple[list[dict[str, Any]], int]:
    """All records of an experiment, and how many batches of logits had to be computed.

    Args:
        settings: of ``conf/ablate.yaml`` and one file of ``conf/experiment``.
        models: to ask.
        progress: bars to show.
    """
    root, worlds = Path(settings["results"]), settings["worlds"]
    store = LogitStore(root / "logits")
    tuning = Block.of({"questions": settings["tuning"], "split": "dev"})
    chooser = Chooser(store, tuning.question_sets(worlds, settings["dev_size"]), settings["alphas"])
    bench = Bench(store, chooser, root / "cells")
    blocks = [Block.of(node) for node in settings["blocks"]]
    todo = [
        (block, model, questions)
        for block in blocks
        for questions in block.question_sets(worlds, settings["size"])
        for model in models
    ]
    task = progress.add_task(settings["name"], total=len(todo))
    # A dictionary, since blocks may have lines in common; insertion keeps the order.
    records: dict[str, dict[str, Any]] = {}

    def add(found: list[dict[str, Any]]) -> None:
        records.update({repr(sorted(record.items(), key=str)): record for record in found})

    for block, model, questions in todo:
        add([load_questions(questions).record()])
        add(bench.plain(block, model, questions))
        for rows in rows_grid(block.rows):
            add(bench.cell(block, model, questions, rows))
        add(bench.strategies(block, model, questions))
        progress.advance(task)
    for node in settings["costs"]:
        block = Block.of({"questions": node["questions"]})
        for questions in block.question_sets(worlds, node["size"]):
            for model in models:
                found = cost_records(model, questions, node["strategies"], repeats=node["repeats"])
                add(found)
    add(chooser.records())
    return list(records.values()), store.computed


if __name__ == "__main__":
    main()
