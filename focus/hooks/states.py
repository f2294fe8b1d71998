"""Capturing and patching the residual stream.

The stream is counted where it enters: 0 enters the first decoder layer (text and image
embeddings), k enters layer k, and L, the number of layers, enters the last norm. So what a family
adds between two layers (DeepStack) belongs to the stream, as it does for the layer that reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from focus.errors import InvalidValueError
from focus.hooks.layers import removed_afterwards
from focus.models.loading import VisionLanguageModel

#: By place in the stream, what was taken of ``[rows, length, hidden]``, on the CPU.
States = dict[int, Tensor]


def stream_modules(vlm: VisionLanguageModel) -> list[nn.Module]:
    """The modules that read the stream, in order: every decoder layer, and the last norm."""
    return [*vlm.family.decoder_layers(vlm.model), vlm.family.final_norm(vlm.model)]


def _module_at(vlm: VisionLanguageModel, place: int) -> nn.Module:
    modules = stream_modules(vlm)
    if isinstance(place, bool) or not isinstance(place, int) or not 0 <= place < len(modules):
        accepted = f"an integer from 0 to {len(modules) - 1}, the number of layers of {vlm.name}"
        raise InvalidValueError("place in the stream", place, accepted)
    return modules[place]


@contextmanager
def captured(
    vlm: VisionLanguageModel,
    take: Callable[[Tensor], Tensor] = lambda hidden: hidden,
    *,
    places: Sequence[int] | None = None,
) -> Iterator[States]:
    """The stream of the passes made meanwhile; of several passes the last.

    Args:
        vlm: the model.
        take: what is kept of ``[rows, length, hidden]``, decided on the spot, so that memory is
            bounded by what is wanted.
        places: in the stream; None for all.

    Raises:
        InvalidValueError: the model has no such place.
    """
    wanted = range(len(stream_modules(vlm))) if places is None else places
    modules = {place: _module_at(vlm, place) for place in wanted}
    states: States = {}

    def hook_at(place: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            hidden = args[0] if args else kwargs["hidden_states"]
            # A copy, for what follows may write into it.
            states[place] = take(hidden.detach()).to("cpu", copy=True)

        return hook

    with removed_afterwards() as handles:
        for place, module in modules.items():
            handles.append(module.register_forward_pre_hook(hook_at(place), with_kwargs=True))
        yield states


@dataclass(frozen=True)
class _Replace:
    """Forward pre-hook that puts other states in the place of some.

    Args:
        states: ``[rows, length, hidden]``.
        where: ``[length]`` or ``[rows, length]``, True where they are replaced.
    """

    states: Tensor
    where: Tensor

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        hidden = args[0] if args else kwargs["hidden_states"]
        if hidden.shape[1] != self.where.shape[-1]:  # a decode step
            return None
        where = self.where.to(hidden.device)[..., None]
        hidden = torch.where(where, self.states.to(hidden), hidden)
        return (
            ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})
        )


@contextmanager
def patched(
    vlm: VisionLanguageModel, states: Mapping[int, Tensor], where: Tensor
) -> Iterator[None]:
    """Other states in place of those of some tokens, while a prompt is read in one piece.

    A family that adds image features behind its first layers too (DeepStack) adds those of the
    prompt that is read: a patch before them is whole only if the places after them are patched.

    Args:
        vlm: the model.
        states: by place in the stream ``[rows, length, hidden]``, as `captured` gives them.
        where: ``[length]`` or ``[rows, length]``, True for the tokens that are replaced.

    Raises:
        InvalidValueError: the model has no such place.
    """
    modules = {place: _module_at(vlm, place) for place in states}
    with removed_afterwards() as handles:
        for place, module in modules.items():
            hook = _Replace(states[place], where)
            handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        yield
