"""Knocking out attention edges: some queries do not see some keys, in some layers.

As Geva et al. (EMNLP 2023, arXiv 2304.14767) do for text: the score of a pair of tokens becomes
minus infinity before the softmax, so its weight is zero and the others share the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from focus.errors import InvalidValueError
from focus.hooks.layers import Layers, chosen_attentions, removed_afterwards
from focus.models.loading import VisionLanguageModel


def edge(queries: Tensor, keys: Tensor) -> Tensor:
    """Pairs of tokens of an edge: which query would not see which key.

    A token goes on seeing itself, so that every query sees something.

    Args:
        queries, keys: ``[..., length]``, True for the tokens of the group.

    Returns:
        ``[..., length, length]``, query first.

    >>> edge(torch.tensor([False, True, True]), torch.tensor([True, True, False])).int().tolist()
    [[0, 0, 0], [1, 0, 0], [1, 1, 0]]
    """
    pairs = queries[..., :, None] & keys[..., None, :]
    own = torch.eye(queries.shape[-1], dtype=torch.bool, device=queries.device)
    return pairs & ~own


def causal_mask(length: int, device: torch.device) -> Tensor:
    """Who sees whom where nothing is hidden: ``[1, 1, length, length]``, True where visible."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]


def explicit_mask(mask: Tensor | None, length: int, device: torch.device) -> Tensor:
    """The mask of a prefill written out, ``[.., length, length]``.

    It is boolean (True: visible) under sdpa, which leaves out a mask that is merely causal, and
    added to the scores under eager attention.
    """
    return causal_mask(length, device) if mask is None else mask


@dataclass(frozen=True)
class HidePairs:
    """Forward pre-hook that hides pairs of tokens from an attention module.

    Args:
        hidden: ``[length, length]`` or ``[rows, length, length]``, True where the query may not
            see the key.
    """

    hidden: Tensor

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        states, length = kwargs["hidden_states"], self.hidden.shape[-1]
        if states.shape[1] != length:  # a decode step: text sees everything
            return None
        mask = explicit_mask(kwargs["attention_mask"], length, states.device)
        hide = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
        hidden = self.hidden.to(states.device)
        # [rows, 1, length, length]: the same for all heads
        mask = mask.masked_fill(hidden[:, None] if hidden.dim() == 3 else hidden, hide)
        return args, {**kwargs, "attention_mask": mask}


@contextmanager
def knocked_out(
    vlm: VisionLanguageModel, hidden: Tensor, *, layers: Layers = "all"
) -> Iterator[None]:
    """Pairs of tokens that do not see each other while a prompt is read in one piece.

    Args:
        vlm: with eager or sdpa attention.
        hidden: see `HidePairs` and `edge`.
        layers: decoder layers in which they are hidden.

    Raises:
        InvalidValueError: the model has no such layer, or takes no such mask.
    """
    attentions = chosen_attentions(vlm, layers)
    with removed_afterwards() as handles:
        for attention in attentions:
            hook = HidePairs(hidden)
            handles.append(attention.register_forward_pre_hook(hook, with_kwargs=True))
        yield


@contextmanager
def attention_weights(vlm: VisionLanguageModel) -> Iterator[list[Tensor]]:
    """Who attends to whom in the passes made meanwhile: one tensor for every layer, in order.

    Each is ``[rows, length, length]``, query first, the mean over heads; float32, on the CPU. The
    weights of a query sum to one.

    Args:
        vlm: with eager attention: others do not write the weights down.

    Raises:
        InvalidValueError: another attention.
    """
    attentions = chosen_attentions(vlm, "all")
    found: list[Tensor] = []

    def hook(
        module: nn.Module, args: tuple[Any, ...], output: tuple[Tensor, Tensor | None]
    ) -> None:
        weights = output[1]
        if weights is None:
            name = module.config._attn_implementation  # type: ignore[union-attr]
            raise InvalidValueError("attention", name, "eager, which writes the weights down")
        found.append(weights.detach().mean(dim=1).float().cpu())

    with removed_afterwards() as handles:
        for attention in attentions:
            handles.append(attention.register_forward_hook(hook))
        yield found
