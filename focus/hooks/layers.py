"""Which layers a hook goes on, and that it comes off again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn
from torch.utils.hooks import RemovableHandle

from focus.errors import InvalidValueError
from focus.models.loading import VisionLanguageModel

#: ``all``, or indices of decoder layers from 0.
Layers = str | Sequence[int]

#: Attention implementations that take any mask; the flash kernels ignore masks like ours.
MASKABLE = ("eager", "sdpa")


def checked_layers(layers: object) -> Layers:
    """``all`` or a tuple of layer indices.

    Raises:
        InvalidValueError: anything else.
    """
    if layers == "all":
        return "all"
    accepted = "'all' or a list of distinct layer indices from 0"
    if isinstance(layers, str) or not isinstance(layers, Sequence):
        raise InvalidValueError("layers", layers, accepted)
    if not all(type(k) is int and k >= 0 for k in layers) or len(set(layers)) < len(layers):
        raise InvalidValueError("layers", layers, accepted)
    return tuple(layers)


def chosen_layers(vlm: VisionLanguageModel, layers: Layers) -> list[nn.Module]:
    """Decoder layers; indices beyond the last are left out, so that a default fits every model.

    Raises:
        InvalidValueError: the model has none of them.
    """
    available = list(vlm.family.decoder_layers(vlm.model))
    if isinstance(layers, str):
        return available
    chosen = [available[k] for k in layers if k < len(available)]
    if layers and not chosen:
        raise InvalidValueError(
            "layers", layers, f"below {len(available)}, the number of decoder layers of {vlm.name}"
        )
    return chosen


def chosen_attentions(vlm: VisionLanguageModel, layers: Layers) -> list[nn.Module]:
    """Self-attention modules of decoder layers, which must accept a mask.

    Raises:
        InvalidValueError: the model's attention implementation takes no mask of ours.
    """
    modules = [layer.get_submodule("self_attn") for layer in chosen_layers(vlm, layers)]
    for module in modules:
        implementation = module.config._attn_implementation  # type: ignore[union-attr]
        if implementation not in MASKABLE:
            accepted = f"{' or '.join(MASKABLE)} for what changes the attention mask"
            raise InvalidValueError("attention", implementation, accepted)
    return modules


@contextmanager
def removed_afterwards() -> Iterator[list[RemovableHandle]]:
    """A list for the handles of hooks, all of which are removed at the end, whatever happens."""
    handles: list[RemovableHandle] = []
    try:
        yield handles
    finally:
        for handle in handles:
            handle.remove()
