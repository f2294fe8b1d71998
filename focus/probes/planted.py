"""Models with planted faults; every probe must tell two opposite ones from the normal model.

Built around any model by its attention mask, while a prompt is read: weights stay as they are.

``leak``       every token of an image sees the tokens of the other images as well as its own, those
               after it too, with `BIAS` added to their scores: attention between images is opened,
               and pushed.
``isolation``  no token up to the last image sees another image: neither do images, nor the text
               between them, which could pass on what it has seen. The question sees all of them.

Answers hardly depend on what images see of each other, since the question sees all of them; a probe
of answers is held to models that lack one side of the choice instead, where there are several
images:

``asked_hidden``  nothing sees the asked image.
``other_hidden``  nothing sees any other image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from focus.hooks import (
    IMAGE_GROUPS,
    chosen_attentions,
    different_images,
    edge,
    explicit_mask,
    knocked_out,
    removed_afterwards,
)
from focus.models.loading import VisionLanguageModel
from focus.reading import Around, Reading, untouched

#: Added to the scores between images of the planted leak: a query that scored its own image and the
#: others alike gives e^4, some fifty times as much, to the others.
BIAS = 4.0


@dataclass(frozen=True)
class _Open:
    """Forward pre-hook that lets pairs of tokens see each other, with a bias.

    Args:
        opened: ``[rows, length, length]``, query first.
        bias: added to their scores.
    """

    opened: Tensor
    bias: float

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        states = kwargs["hidden_states"]
        mask = explicit_mask(kwargs["attention_mask"], states.shape[1], states.device)
        if mask.dtype == torch.bool:
            written = torch.zeros_like(mask, dtype=states.dtype)
            mask = written.masked_fill(~mask, torch.finfo(states.dtype).min)
        opened = self.opened[:, None].to(states.device)
        return args, {**kwargs, "attention_mask": mask.masked_fill(opened, self.bias)}


@contextmanager
def planted_leak(vlm: VisionLanguageModel, readings: Sequence[Reading]) -> Iterator[None]:
    """Attention between images, opened and pushed, in all layers."""
    opened = torch.stack([different_images(reading.prompt) for reading in readings])
    with removed_afterwards() as handles:
        for attention in chosen_attentions(vlm, "all"):
            # First of all, so that an edge that is knocked out is so in the planted model too.
            handles.append(
                attention.register_forward_pre_hook(
                    _Open(opened, BIAS), with_kwargs=True, prepend=True
                )
            )
        yield


@contextmanager
def planted_isolation(vlm: VisionLanguageModel, readings: Sequence[Reading]) -> Iterator[None]:
    """No way from one image to another, in all layers."""
    with knocked_out(vlm, torch.stack([isolated(reading) for reading in readings])):
        yield


def hidden(group: str) -> Around:
    """No token sees a group of images, in all layers, but where there is one image alone."""

    @contextmanager
    def around(vlm: VisionLanguageModel, readings: Sequence[Reading]) -> Iterator[None]:
        pairs = [
            edge(~reading.groups[group], reading.groups[group] & (len(reading.images) > 1))
            for reading in readings
        ]
        with knocked_out(vlm, torch.stack(pairs)):
            yield

    return around


def isolated(reading: Reading) -> Tensor:
    """Pairs that `planted_isolation` hides: ``[length, length]``, query first."""
    spans, length = reading.prompt.spans, reading.length
    hidden = torch.zeros(length, length, dtype=torch.bool)
    for start, end in spans:
        hidden[: spans[-1][1], start:end] = True
        hidden[start:end, start:end] = False
    return hidden


PLANTED: dict[str, Around] = {
    "none": untouched,
    "leak": planted_leak,
    "isolation": planted_isolation,
    "asked_hidden": hidden(IMAGE_GROUPS[0]),
    "other_hidden": hidden(IMAGE_GROUPS[1]),
}
