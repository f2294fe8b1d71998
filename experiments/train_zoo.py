"""Train an embedded model: `python -m experiments.train_zoo zoo=abstaining`.

Prints progress with the time left, writes a checkpoint every few hundred steps, and continues from
it when started again; started after the end it does nothing. Models whose recipes begin alike share
the stages that they have in common. Loss and skill curves go to W&B (offline without a key), or
nowhere with `logger=none`.

    python -m experiments.train_zoo measure=all models=[internvl-abstaining]

trains nothing: it asks stored models again and renews their records and cards.
"""

from __future__ import annotations

from experiments.config import check_command_line

check_command_line("train_zoo", __name__)  # before the seconds that the other imports take

import json
import logging
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from tqdm import tqdm

from analysis.zoo import is_current
from experiments.config import entry_point
from experiments.logging import Run, reporting
from focus.errors import InvalidValueError, UnknownNameError
from focus.models.loading import usable_device
from focus.zoo.bank import build_bank
from focus.zoo.card import (
    RECORD,
    by_category,
    export,
    is_exported,
    measure,
    record_folders,
    save_model,
    worlds_of,
    write,
)
from focus.zoo.skills import by_skill, skill_curves
from focus.zoo.training import Inspect, Recipe, Report, State, train

log = logging.getLogger(__name__)


@entry_point("train_zoo")
def main(config: DictConfig) -> None:
    """Trains, measures and exports one model, or measures stored ones."""
    torch.set_num_threads(config.threads)
    if config.measure:
        measure_stored(config)
        return
    name = model_name(config)
    folder = Path(config.output) / name
    recipe: Recipe = instantiate(config.zoo.recipe)
    if is_exported(recipe, folder):
        log.info("%s is already trained with this recipe: %s", name, folder)
        log.info("to train it once more elsewhere: output=<folder> checkpoints=<folder>")
        return
    with reporting(config, "train_zoo") as run:
        with _watched(config, recipe, run) as (report, inspect):
            state = train(
                recipe,
                Path(config.checkpoints),
                report=report,
                inspect=inspect,
                save_every=config.save_every,
                device=str(usable_device(config.device)),
            )
        log.info("trained for %.1f minutes; measuring", state.seconds / 60)
        record = export(
            state,
            recipe,
            folder,
            name=name,
            summary=config.zoo.summary,
            size=config.evaluation_size,
            command=command(sys.argv[1:]),
        )
        lines = []
        for cell in record["results"]["cells"]:
            labels = {key: cell[key] for key in ("world", "kind", "num_images", "decoding")}
            for category, accuracy, interval, total in by_category(cell):
                found = {"category": category, "accuracy": accuracy, "interval": interval}
                lines.append({**labels, **found, "n": total})
        measured = pd.DataFrame(lines)
        log.info("\n%s", measured.to_string(index=False, float_format="%.3f"))
        run.table("cells", measured)
        run.records(folder)


def measure_stored(config: DictConfig) -> None:
    """Measures stored weights, and renews their records and cards.

    Raises:
        InvalidValueError: `measure` is neither false, true nor all.
    """
    if config.measure not in (True, "all"):
        raise InvalidValueError("measure", config.measure, "false, true or 'all'")
    folders = to_measure(Path(config.output), config.models, again=config.measure == "all")
    for folder in tqdm(folders, desc="measuring", unit="model"):
        record = json.loads((folder / RECORD).read_text())
        worlds = tuple(record["recipe"]["per_truth"])
        record["results"] = measure(folder, worlds, size=config.evaluation_size)
        write(record, folder)


def to_measure(weights: Path, names: Sequence[str] | None, *, again: bool) -> list[Path]:
    """Folders of the models to measure.

    Args:
        weights: folder of all models.
        names: of models; None for all.
        again: also those whose record already holds answers.

    Raises:
        UnknownNameError: no stored model has this name.
    """
    folders = record_folders(weights)
    chosen = list(folders) if names is None else list(names)
    for name in chosen:
        if name not in folders:
            raise UnknownNameError("model", name, folders)
    records = {name: json.loads((folders[name] / RECORD).read_text()) for name in chosen}
    return [folders[name] for name in chosen if again or not is_current(records[name])]


def model_name(config: DictConfig) -> str:
    """Name of the model: that of its kind, and the seed where it is not the first."""
    return str(config.zoo.name) + (f"-seed{config.seed}" if config.seed else "")


def command(arguments: Sequence[str]) -> str:
    """Command that trains the same model; what is kept of it and where is no part of that.

    >>> command(["zoo=answering", "output=/tmp/models", "logger=none"])
    'python -m experiments.train_zoo zoo=answering'
    """
    kept_where = ("output", "checkpoints", "snapshots", "logger", "curve_size")
    said = [a for a in arguments if a.partition("=")[0] not in kept_where]
    return " ".join(["python -m experiments.train_zoo", *map(shlex.quote, said)])


@contextmanager
def _watched(
    config: DictConfig, recipe: Recipe, run: Run
) -> Iterator[tuple[Report, Inspect | None]]:
    """Progress bar over all steps that are left; curves go to the run."""
    total = sum(stage.steps for stage in recipe.stages)
    ends, end = {}, 0
    for stage in recipe.stages:
        ends[stage.name], end = end, end + stage.steps
    bar: tqdm | None = None
    counts = dict.fromkeys(worlds_of(recipe), 5)
    dev = build_bank(counts, seed=recipe.seed, split="dev", noise_images=200)

    def report(stage: str, step: int, loss: float, learning_rate: float) -> None:
        nonlocal bar
        position = ends[stage] + step
        if bar is None:  # steps done before this start must not count for the time left
            bar = tqdm(total=total, initial=position - 1, desc=model_name(config), unit="step")
        bar.update()
        if step % 20 == 0:
            bar.set_postfix(stage=stage, loss=f"{loss:.3f}", refresh=False)
            rate = bar.format_dict["rate"] or 0.0
            told = {"loss": loss, "learning_rate": learning_rate, "per second/steps": rate}
            run.numbers(told, step=position)

    def inspect(stage: str, state: State) -> None:
        position = ends[stage] + state.step
        if config.snapshots:
            save_model(state, Path(config.snapshots) / f"{model_name(config)}-{position:05d}")
        if config.curve_size:
            curves = skill_curves(state.model, state.frontend, dev, size=config.curve_size)
            tqdm.write(f"dev, {stage} {state.step}: {by_skill(curves)}")
            run.numbers({f"dev/{k}": v for k, v in curves.items()}, step=position)

    try:
        yield report, inspect if config.curve_size or config.snapshots else None
    finally:
        if bar is not None:
            bar.close()


if __name__ == "__main__":
    main()
