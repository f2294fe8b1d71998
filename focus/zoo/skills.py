"""How well a model in training answers the kinds of questions that it is trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from transformers import PreTrainedModel

from focus.randomness import generator
from focus.worlds import world_of
from focus.zoo.bank import ImageBank
from focus.zoo.forward import Frontend
from focus.zoo.mixture import SINGLE_SKILLS, Item, Mixture, clean_item, masked_item, single_item


def skill_curves(
    model: PreTrainedModel, frontend: Frontend, bank: ImageBank, *, size: int = 64, seed: int = 0
) -> dict[str, float]:
    """Share of right answers per world and kind of question, every token of the answer right.

    Args:
        model: any embedded model; left in evaluation mode.
        frontend: of the model.
        bank: of the dev split.
        size: questions of each kind.
        seed: of the questions.
    """
    kinds: dict[str, list[Item]] = {}
    for name in bank.starts:
        world = world_of(name)
        rng = generator(seed, "skill curves", name)
        for k, skill in enumerate(SINGLE_SKILLS):
            only = tuple(float(i == k) for i in range(len(SINGLE_SKILLS)))
            mixture = Mixture(worlds={name: 1.0}, single_shares=only)
            kinds[f"{name}/{skill}"] = [
                single_item(bank, rng, world, mixture=mixture) for _ in range(size)
            ]
        kinds[f"{name}/two images"] = [
            clean_item(bank, rng, world, num_images=2) for _ in range(size)
        ]
        for abstain in (False, True):
            what = "asked masked" if abstain else "other masked"
            kinds[f"{name}/{what}"] = [
                masked_item(bank, rng, world, num_images=2, abstain=abstain) for _ in range(size)
            ]
    return {kind: share_right(model, items, bank, frontend) for kind, items in kinds.items()}


@torch.no_grad()
def share_right(
    model: PreTrainedModel, items: Sequence[Item], bank: ImageBank, frontend: Frontend
) -> float:
    """Share of questions whose answer tokens are all the most likely ones."""
    model.eval()
    prompts = [frontend.encoder.prompt(item.question) for item in items]
    answers = [frontend.encoder.answer(item.answer) for item in items]
    sequences = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    pixels = bank.pixels[[image for item in items for image in item.images]]
    hidden = frontend.hidden_states(model, sequences, pixels)
    right = 0
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        where = slice(len(prompt) - 1, len(prompt) - 1 + len(answer))
        predicted = model.lm_head(hidden[row, where]).argmax(-1)
        right += predicted.tolist() == answer
    return right / len(items)


def by_skill(curves: Mapping[str, float]) -> str:
    """Curves in one line."""
    return "  ".join(f"{kind} {value:.2f}" for kind, value in curves.items())
