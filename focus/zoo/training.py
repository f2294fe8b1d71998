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
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from focus.errors import InvalidValueError
from focus.models.internvl import InternVLImageProcessor
from focus.randomness import generator
from focus.zoo.bank import ImageBank, build_bank, normalised
from focus.zoo.build import Architecture, build_model, build_processor
from focus.zoo.encoding import encode_item
from focus.zoo.mixture import Item, Mixture, draw_items
from focus.zoo.questions import UNKNOWN

#: Called after every step with (stage, step in the stage, loss, learning rate).
Report = Callable[[str, int, float, float], None]


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
    mixture: Mixture = field(default_factory=Mixture)

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
        per_truth: training scenes of each of the 96 truths.
        noise_images: noise images in the bank.
        bfloat16: run the model in bfloat16 autocast; weights and optimiser stay in float32.
    """

    seed: int
    stages: tuple[Stage, ...]
    architecture: Architecture = field(default_factory=Architecture)
    batch_size: int = 64
    weight_decay: float = 0.01
    clip: float = 1.0
    per_truth: int = 100
    noise_images: int = 2000
    bfloat16: bool = True

    def key(self, num_stages: int) -> str:
        """Name of everything that decides the weights after the first `num_stages` stages.

        Recipes that begin alike have equal keys for their common stages, and share that work.
        """
        content = asdict(self) | {"stages": [asdict(stage) for stage in self.stages[:num_stages]]}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@dataclass
class State:
    """A training run between two steps."""

    model: PreTrainedModel
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    losses: dict[str, list[float]] = field(default_factory=dict)


def train(
    recipe: Recipe, folder: Path, *, report: Report | None = None, save_every: int = 250
) -> State:
    """Trains through all stages, continuing from whatever `folder` already holds.

    Args:
        recipe: decides the weights; with equal recipes and thread counts, equal bits.
        folder: receives one checkpoint per stage, named by `Recipe.key`.
        report: called after every step.
        save_every: steps between checkpoints.

    Returns:
        The finished run; its model is in float32.
    """
    processor = build_processor(recipe.architecture)
    state = _new_state(recipe)
    bank: ImageBank | None = None
    for number, stage in enumerate(recipe.stages, start=1):
        path = folder / f"{stage.name}-{recipe.key(number)}.pt"
        if path.exists():
            _restore(state, path)
        else:
            state.step = 0
        if state.step < stage.steps:
            bank = bank or build_bank(
                seed=recipe.seed, per_truth=recipe.per_truth, noise_images=recipe.noise_images
            )
            run_stage(
                state, stage, recipe, bank, processor, path, report=report, save_every=save_every
            )
    return state


def run_stage(
    state: State,
    stage: Stage,
    recipe: Recipe,
    bank: ImageBank,
    processor: InternVLImageProcessor,
    path: Path,
    *,
    report: Report | None = None,
    save_every: int = 250,
) -> None:
    """Runs the steps of a stage that `state` has not done yet, and writes checkpoints to `path`."""
    counts = state.counts.setdefault(
        stage.name, {"questions": 0, "images": 0, "noise images": 0, "abstentions": 0, "multi": 0}
    )
    losses = state.losses.setdefault(stage.name, [])
    state.model.train()
    while state.step < stage.steps:
        began = time.perf_counter()
        rng = generator(recipe.seed, "batch", stage.name, state.step)
        items = draw_items(stage.mixture, bank, rng, size=recipe.batch_size)
        for group in state.optimizer.param_groups:
            group["lr"] = stage.rate(state.step)
        state.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=recipe.bfloat16):
            loss = answer_loss(state.model, items, bank, processor)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(state.model.parameters(), recipe.clip)
        state.optimizer.step()
        state.step += 1
        state.seconds += time.perf_counter() - began
        losses.append(round(loss.item(), 5))
        counts["questions"] += len(items)
        counts["images"] += sum(len(item.images) for item in items)
        counts["noise images"] += sum(item.noise_images for item in items)
        counts["abstentions"] += sum(item.answer == UNKNOWN for item in items)
        counts["multi"] += sum(len(item.images) > 1 for item in items)
        if report:
            report(stage.name, state.step, losses[-1], stage.rate(state.step - 1))
        if state.step % save_every == 0 or state.step == stage.steps:
            _save(state, path)


def answer_loss(
    model: PreTrainedModel,
    items: Sequence[Item],
    bank: ImageBank,
    processor: InternVLImageProcessor,
) -> Tensor:
    """Mean cross-entropy of the answer tokens, the end token included (scalar)."""
    # Questions about one image are much shorter; on their own they need much less padding.
    single = [item for item in items if len(item.images) == 1]
    several = [item for item in items if len(item.images) > 1]
    parts = [answer_logits(model, part, bank, processor) for part in (single, several) if part]
    logits, labels = (torch.cat(each) for each in zip(*parts, strict=True))
    return F.cross_entropy(logits.float(), labels)


def answer_logits(
    model: PreTrainedModel,
    items: Sequence[Item],
    bank: ImageBank,
    processor: InternVLImageProcessor,
) -> tuple[Tensor, Tensor]:
    """Logits ``[answer tokens, vocabulary]`` of all answers, and the tokens they should give."""
    encoded = [encode_item(item, processor.image_seq_length) for item in items]
    length = max(len(prompt) + len(answer) for prompt, answer in encoded)
    # Padding on the right needs no mask: with causal attention no answer token can see it.
    ids = torch.full((len(items), length), processor.tokenizer.pad_token_id)
    rows: list[int] = []
    columns: list[int] = []
    labels: list[int] = []
    for row, (prompt, answer) in enumerate(encoded):
        ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        rows += [row] * len(answer)
        columns += range(len(prompt) - 1, len(prompt) + len(answer) - 1)
        labels += answer
    pixels = bank.pixels[[image for item in items for image in item.images]]
    hidden = model.model(
        input_ids=ids,
        pixel_values=normalised(pixels, processor.image_processor),
        use_cache=False,
    ).last_hidden_state  # [batch, length, hidden]
    return model.lm_head(hidden[rows, columns]), torch.tensor(labels)


def _new_state(recipe: Recipe) -> State:
    model = build_model(recipe.architecture, seed=recipe.seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=recipe.weight_decay
    )
    return State(model, optimizer)


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
    content = torch.load(path, weights_only=True)
    state.model.load_state_dict(content["model"])
    state.optimizer.load_state_dict(content["optimizer"])
    state.step, state.seconds = content["step"], content["seconds"]
    state.counts, state.losses = content["counts"], content["losses"]
