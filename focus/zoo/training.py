"""Training of an embedded model: batches, loss, stages and resume. Plain PyTorch.

Every batch is drawn from a generator keyed by (seed, stage, step) and a checkpoint holds weights,
optimiser state and counts, so that a run that was interrupted ends with the same bits as one that
was not.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, ProcessorMixin

from focus.errors import InvalidValueError
from focus.randomness import generator
from focus.worlds.questions import UNKNOWN
from focus.zoo.architectures import Architecture, architecture_of
from focus.zoo.bank import ImageBank, build_bank
from focus.zoo.forward import Frontend
from focus.zoo.mixture import Item, Mixture, draw_items

#: Called after every step with (stage, step in the stage, loss, learning rate).
Report = Callable[[str, int, float, float], None]
#: Called at every checkpoint with (stage, run).
Inspect = Callable[[str, "State"], None]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A number of optimiser steps on one mixture.

    Args:
        name: part of the key of every batch.
        steps: optimiser steps.
        learning_rate: highest value, reached after `warmup` steps.
        schedule: "constant", or "cosine" down to zero at the end of the stage.
        warmup: steps of linear increase from zero.
        mixture: what the batches hold.
    """

    name: str
    steps: int
    learning_rate: float
    schedule: str = "constant"
    warmup: int = 100
    mixture: Mixture

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InvalidValueError("steps", self.steps, "a positive integer")
        if self.schedule not in ("constant", "cosine"):
            raise InvalidValueError("schedule", self.schedule, "'constant' or 'cosine'")

    def rate(self, step: int) -> float:
        """Learning rate of `step`, counted from 0."""
        warm = min(1.0, (step + 1) / max(1, self.warmup))
        decay = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.learning_rate * warm * (decay if self.schedule == "cosine" else 1.0)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the trained weights.

    Args:
        seed: of the initial weights, the image bank and every batch.
        stages: run one after another with one optimiser.
        architecture: sizes of the model.
        batch_size: questions per step.
        weight_decay: of AdamW, with betas 0.9 and 0.98.
        clip: largest gradient norm.
        per_truth: training views of each truth, by world.
        learning_rate_scale: factor of every stage's learning rate; architectures differ in how
            much they stand.
        noise_images: noise images in the bank.
        corrupted: share of the views with mild noise, see `focus.zoo.bank.corrupt`.
        bfloat16: run the model in bfloat16 autocast; weights and optimiser stay in float32.
    """

    seed: int
    stages: tuple[Stage, ...]
    architecture: Architecture = field(default_factory=Architecture)
    batch_size: int = 64
    weight_decay: float = 0.01
    clip: float = 1.0
    per_truth: Mapping[str, int]
    learning_rate_scale: float = 1.0
    noise_images: int = 2000
    corrupted: float = 0.05
    bfloat16: bool = True

    def key(self, num_stages: int) -> str:
        """Name of everything that decides the weights after the first `num_stages` stages.

        Recipes that begin alike have equal keys for their common stages, and share that work.
        """
        stages = [asdict(stage) for stage in self.stages[:num_stages]]
        for stage in stages:
            # Models from before there were guesses keep their names.
            if not stage["mixture"]["guess_multi"]:
                del stage["mixture"]["guess_multi"], stage["mixture"]["guess_which"]
        content = asdict(self) | {"stages": stages}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@dataclass
class State:
    """A training run between two steps."""

    model: PreTrainedModel
    processor: ProcessorMixin
    frontend: Frontend
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    losses: dict[str, list[float]] = field(default_factory=dict)


def train(
    recipe: Recipe,
    folder: Path,
    *,
    report: Report | None = None,
    inspect: Inspect | None = None,
    save_every: int = 250,
    device: str = "cpu",
) -> State:
    """Trains through all stages, continuing from whatever `folder` already holds.

    Args:
        recipe: decides the weights; with equal recipes, devices and thread counts, equal bits.
        folder: receives one checkpoint per stage, named by `Recipe.key`.
        report: called after every step.
        inspect: called with the run after every checkpoint.
        save_every: steps between checkpoints.
        device: where to train.

    Returns:
        The finished run; its model is in float32.
    """
    state = _new_state(recipe, device)
    bank: ImageBank | None = None
    for number, stage in enumerate(recipe.stages, start=1):
        path = folder / f"{stage.name}-{recipe.key(number)}.pt"
        if path.exists():
            _restore(state, path)
        else:
            state.step = 0
        if state.step < stage.steps:
            bank = bank or build_bank(
                recipe.per_truth,
                seed=recipe.seed,
                noise_images=recipe.noise_images,
                corrupted=recipe.corrupted,
                progress=report is not None,
            )
            run_stage(
                state,
                stage,
                recipe,
                bank,
                path,
                report=report,
                inspect=inspect,
                save_every=save_every,
            )
    return state


def run_stage(
    state: State,
    stage: Stage,
    recipe: Recipe,
    bank: ImageBank,
    path: Path,
    *,
    report: Report | None = None,
    inspect: Inspect | None = None,
    save_every: int = 250,
) -> None:
    """Runs the steps of a stage that `state` has not done yet, and writes checkpoints to `path`."""
    counts = state.counts.setdefault(
        stage.name, {"questions": 0, "images": 0, "noise images": 0, "abstentions": 0, "multi": 0}
    )
    losses = state.losses.setdefault(stage.name, [])
    while state.step < stage.steps:
        state.model.train()
        began = time.perf_counter()
        rng = generator(recipe.seed, "batch", stage.name, state.step)
        items = draw_items(stage.mixture, bank, rng, size=recipe.batch_size)
        for group in state.optimizer.param_groups:
            group["lr"] = recipe.learning_rate_scale * stage.rate(state.step)
        state.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(state.model.device.type, dtype=torch.bfloat16, enabled=recipe.bfloat16):
            loss = answer_loss(state.model, items, bank, state.frontend)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(state.model.parameters(), recipe.clip)
        state.optimizer.step()
        state.step += 1
        losses.append(round(loss.item(), 5))
        state.seconds += time.perf_counter() - began
        counts["questions"] += len(items)
        counts["images"] += sum(len(item.images) for item in items)
        counts["noise images"] += sum(item.noise_images for item in items)
        counts["abstentions"] += sum(item.answer == UNKNOWN for item in items)
        counts["multi"] += sum(item.views > 1 for item in items)
        if report:
            rate = recipe.learning_rate_scale * stage.rate(state.step - 1)
            report(stage.name, state.step, losses[-1], rate)
        if state.step % save_every == 0 or state.step == stage.steps:
            _save(state, path)
            if inspect:
                inspect(stage.name, state)


def answer_loss(
    model: PreTrainedModel, items: Sequence[Item], bank: ImageBank, frontend: Frontend
) -> Tensor:
    """Mean cross-entropy of the answer tokens, the end token included (scalar)."""
    # Prompts of like length need little padding: those with equal numbers of images.
    groups: dict[int, list[Item]] = {}
    for item in items:
        groups.setdefault(len(item.images), []).append(item)
    parts = [answer_logits(model, part, bank, frontend) for part in groups.values()]
    logits, labels = (torch.cat(each) for each in zip(*parts, strict=True))
    return F.cross_entropy(logits.float(), labels)


def answer_logits(
    model: PreTrainedModel, items: Sequence[Item], bank: ImageBank, frontend: Frontend
) -> tuple[Tensor, Tensor]:
    """Logits ``[answer tokens, vocabulary]`` of all answers, and the tokens they should give."""
    rows: list[int] = []
    columns: list[int] = []
    labels: list[int] = []
    sequences = []
    for row, item in enumerate(items):
        prompt = frontend.encoder.prompt(item.question)
        answer = frontend.encoder.answer(item.answer)
        sequences.append(prompt + answer)
        rows += [row] * len(answer)
        columns += range(len(prompt) - 1, len(prompt) + len(answer) - 1)
        labels += answer
    pixels = bank.pixels[[image for item in items for image in item.images]]
    hidden = frontend.hidden_states(model, sequences, pixels)
    return model.lm_head(hidden[rows, columns]), torch.tensor(labels, device=model.device)


def _new_state(recipe: Recipe, device: str) -> State:
    architecture = architecture_of(recipe.architecture)
    model = architecture.build(recipe.architecture, seed=recipe.seed).to(device)
    processor = architecture.processor(recipe.architecture)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=recipe.weight_decay
    )
    return State(model, processor, Frontend.of(model, processor), optimizer)


def _save(state: State, path: Path) -> None:
    """Writes a checkpoint in one move, so that a kill leaves the old one or the new one."""
    content: dict[str, Any] = {
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "step": state.step,
        "seconds": state.seconds,
        "counts": state.counts,
        "losses": state.losses,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    torch.save(content, partial)
    partial.replace(path)


def _restore(state: State, path: Path) -> None:
    content = torch.load(path, weights_only=True, map_location=state.model.device)
    state.model.load_state_dict(content["model"])
    state.optimizer.load_state_dict(content["optimizer"])
    state.step, state.seconds = content["step"], content["seconds"]
    state.counts, state.losses = content["counts"], content["losses"]
