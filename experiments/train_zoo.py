"""Train an embedded model: `python -m experiments.train_zoo zoo=shapes-abstaining`.

Prints progress with the time left, writes a checkpoint every few hundred steps, and continues from
it when started again; started after the end it does nothing. Models whose recipes begin alike share
the stages that they have in common. Set `WANDB_MODE=online` to follow the run in W&B.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hydra
import torch
import wandb
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from focus.zoo.card import export, is_exported
from focus.zoo.training import Recipe, Report, train

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path="../conf", config_name="train_zoo")
def main(config: DictConfig) -> None:
    """Trains, measures and exports one model."""
    torch.set_num_threads(config.threads)
    name, folder = config.zoo.name, Path(config.output) / config.zoo.name
    recipe: Recipe = instantiate(config.zoo.recipe)
    if is_exported(recipe, folder):
        log.info("%s is already trained with this recipe: %s", name, folder)
        log.info("to train it once more elsewhere: output=<folder> checkpoints=<folder>")
        return
    with _reporting(config, recipe) as report:
        state = train(recipe, Path(config.checkpoints), report=report, save_every=config.save_every)
    log.info("trained for %.1f minutes; measuring", state.seconds / 60)
    card = export(
        state,
        recipe,
        folder,
        name=name,
        summary=config.zoo.summary,
        size=config.evaluation_size,
        command=f"python -m experiments.train_zoo {shlex.join(sys.argv[1:])}".strip(),
    )
    for row, result in card["results"].items():
        log.info("%-60s %.3f  n=%d", row, result["accuracy"], result["n"])


@contextmanager
def _reporting(config: DictConfig, recipe: Recipe) -> Iterator[Report]:
    """Progress bar over all steps that are left, and a W&B run (disabled unless asked for)."""
    resolved = OmegaConf.to_container(config, resolve=True)
    mode = os.environ.get("WANDB_MODE", "disabled")
    total = sum(stage.steps for stage in recipe.stages)
    ends, end = {}, 0
    for stage in recipe.stages:
        ends[stage.name], end = end, end + stage.steps
    bar: tqdm | None = None
    with wandb.init(
        project=config.wandb_project,
        name=config.zoo.name,
        config=resolved,  # type: ignore[arg-type]
        mode=mode,  # type: ignore[arg-type]
    ) as run:

        def report(stage: str, step: int, loss: float, learning_rate: float) -> None:
            nonlocal bar
            position = ends[stage] + step
            if bar is None:  # steps done before this start must not count for the time left
                bar = tqdm(total=total, initial=position - 1, desc=config.zoo.name, unit="step")
            bar.update()
            if step % 20 == 0:
                bar.set_postfix(stage=stage, loss=f"{loss:.3f}", refresh=False)
                run.log({"loss": loss, "learning_rate": learning_rate}, step=position)

        try:
            yield report
        finally:
            if bar is not None:
                bar.close()


if __name__ == "__main__":
    main()
