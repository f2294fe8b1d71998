"""Train the recipe ladder: `python -m experiments.ladder`.

Many short runs that share one single-image model and differ in two shares: of questions about
several clean images, and of questions whose answer is "unknown". When does leakage appear, when
does it go, and when does FOCUS help?
"""

from __future__ import annotations

from experiments.config import check_command_line

check_command_line("ladder", __name__)  # before the seconds that the other imports take

import gzip
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from focus.errors import InvalidValueError
from focus.models import VisionLanguageModel
from focus.models.loading import family_of, usable_device
from focus.records import read_records
from focus.zoo.evaluation import evaluate
from focus.zoo.mixture import Mixture
from focus.zoo.training import Recipe, Stage, train

log = logging.getLogger(__name__)
AXES = ("multi_share", "abstention")
#: Kinds of questions that tell leakage and what FOCUS makes of it.
MEASURED = ("indexed", "matching")


@dataclass(frozen=True)
class Rung:
    """One run.

    Args:
        clean_multi: share of questions about several clean images.
        abstention: name of the level.
        shares: fields of `Mixture` that the level sets.
        seed: of everything.
    """

    clean_multi: float
    abstention: str
    shares: dict[str, float]
    seed: int

    @property
    def key(self) -> tuple[float, str, int]:
        """What tells its record from others."""
        return self.clean_multi, self.abstention, self.seed


@hydra.main(version_base="1.3", config_path="../conf", config_name="ladder")
def main(config: DictConfig) -> None:
    """Runs every rung that the output does not hold yet."""
    torch.set_num_threads(config.threads)
    output = Path(config.output)
    todo = list(left(rungs(config), output))
    log.info("%d runs are done, %d are left", len(finished(output)), len(todo))
    for rung in tqdm(left(todo, output), desc="ladder", unit="run", total=len(todo)):
        record = run(rung, config)
        if rung.key in finished(output):  # another process was at it too, and first
            continue
        opened = gzip.open if output.suffix == ".gz" else open
        with opened(output, "at", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def rungs(config: DictConfig) -> Iterator[Rung]:
    """Each axis through both ends of the other, every point once, for each seed.

    Raises:
        InvalidValueError: `only` is no axis.
    """
    if config.only not in (None, *AXES):
        raise InvalidValueError("only", config.only, f"one of {list(AXES)}, or null")
    levels: dict[str, dict[str, float]] = OmegaConf.to_container(config.abstention)  # type: ignore
    points: dict[tuple[float, str], None] = {}
    if config.only != "abstention":
        points |= dict.fromkeys(
            (share, level) for level in config.ends.abstention for share in config.multi_share
        )
    if config.only != "multi_share":
        points |= dict.fromkeys(
            (share, level) for share in config.ends.multi_share for level in levels
        )
    for seed in config.seeds:
        for share, level in points:
            yield Rung(float(share), level, levels[level], seed)


def left(wanted: Iterable[Rung], output: Path) -> Iterator[Rung]:
    """Rungs that the file does not hold; looked up before each, since others may write to it."""
    for rung in wanted:
        if rung.key not in finished(output):
            yield rung


def run(rung: Rung, config: DictConfig) -> dict[str, Any]:
    """Trains and measures one rung."""
    recipe = recipe_of(rung, config)
    state = train(recipe, Path(config.checkpoints), device=str(usable_device(config.device)))
    family = family_of(state.model.config.model_type)
    vlm = VisionLanguageModel(state.model.float(), state.processor, family, "ladder")
    results = evaluate(
        vlm,
        tuple(config.worlds),
        size=config.size,
        most_images=config.most_images,
        kinds=MEASURED,
    )
    return {
        "family": recipe.architecture.family,
        "world": " + ".join(config.worlds),
        "seed": rung.seed,
        "clean_multi": rung.clean_multi,
        "abstention": rung.abstention.split()[0],
        "abstain_share": sum(v for k, v in rung.shares.items() if k.startswith("abstain")),
        "masked_multi": rung.shares.get("masked_multi", 0.0),
        "steps": config.steps,
        "minutes": round(state.seconds / 60, 1),
        "results": results,
    }


def recipe_of(rung: Rung, config: DictConfig) -> Recipe:
    """Shared stages of the zoo's recipe, then one stage with the shares of the rung."""
    seeded = OmegaConf.merge(config, {"seed": rung.seed})
    base: Recipe = instantiate(seeded.zoo.recipe)
    last = Stage(
        name="ladder",
        steps=config.steps,
        learning_rate=config.learning_rate,
        schedule="cosine",
        warmup=20,
        mixture=Mixture(
            worlds=dict(config.worlds),
            clean_multi=rung.clean_multi,
            many_images=0.1,
            single_shares=(0.15, 0.15, 0.35, 0.05, 0.3),
            **rung.shares,  # type: ignore[arg-type]
        ),
    )
    return replace(base, stages=(*base.stages[: config.shared_stages], last))


def finished(output: Path) -> set[tuple[float, str, int]]:
    """Keys of the rungs that a file holds."""
    done = set()
    for record in read_records(output):
        level = record["abstention"]
        if level == "multi":
            level = f"multi {record['abstain_share']:.0%}"
        done.add((record["clean_multi"], level, record["seed"]))
    return done


if __name__ == "__main__":
    main()
