"""Hooks on the decoder layers while a model reads one prompt: what three strategies share.

`sofa`, `delimiter_scaling` and `block_attention` change what happens inside the language model
during the prefill, and are ordinary decoding otherwise. They do it with forward hooks, which need
neither a registered attention function nor a changed configuration and are gone afterwards, also
after an exception. Hooks are on the model object: do not decode with it from several threads.

A prompt of clean images is prefilled in one piece (`focus.prefill`), so a hook tells the prefill
from a decode step by its length. The spans of the images are needed before `decode_rows` prepares
the request, which therefore happens twice: pixels are processed twice on the CPU, and encoded once.
The time of the first is no cost of the method, and `Decoded.seconds` leaves it out.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from focus.decoding.base import (
    AbstractDecoding,
    Decoded,
    GenerationSettings,
    Request,
    attempted,
)
from focus.decoding.rows import clean_rows, prepare
from focus.decoding.vanilla import Vanilla
from focus.engines import AbstractEngine, LocalEngine
from focus.errors import FocusError, InvalidValueError, UnsupportedGenerationError
from focus.generate import KeepLogits
from focus.models.loading import VisionLanguageModel
from focus.prompts import Prompt

#: ``all``, or indices of decoder layers from 0.
Layers = str | Sequence[int]

#: Attention implementations that take any mask; the flash kernels ignore masks like ours.
MASKABLE = ("eager", "sdpa")


class AbstractIntervention(AbstractDecoding):
    """Plain decoding with hooks in place while it runs; one image has nothing to intervene in."""

    @property
    @abstractmethod
    def active(self) -> bool:
        """Whether the settings change anything."""

    @abstractmethod
    def install(
        self, vlm: VisionLanguageModel, request: Request, handles: list[RemovableHandle]
    ) -> None:
        """Registers the hooks for one request and appends their handles."""

    def decode(
        self,
        vlm: VisionLanguageModel,
        request: Request,
        settings: GenerationSettings,
        *,
        keep_logits: KeepLogits = "none",
        **generate_kwargs: Any,
    ) -> Decoded:
        with removed_afterwards() as handles:
            if len(request.images) > 1 and self.active:
                self.install(vlm, request, handles)
            return Vanilla().decode(
                vlm, request, settings, keep_logits=keep_logits, **generate_kwargs
            )

    def decode_many(
        self,
        engine: AbstractEngine,
        requests: Sequence[Request],
        settings: GenerationSettings,
        *,
        keep_logits: KeepLogits = "none",
    ) -> list[Decoded | FocusError]:
        """Prompts of one layout together: hooks know tokens by their place.

        Raises:
            UnsupportedGenerationError: an engine that does not run in this process.
        """
        if not isinstance(engine, LocalEngine):
            raise UnsupportedGenerationError(
                f"{self.name} acts inside the model, which needs the engine of this process "
                f"(engine=local), not {type(engine).__name__}"
            )
        engine, vlm = engine.whole(), engine.vlm
        alike: dict[Hashable, list[int]] = {}
        found: dict[int, Decoded | FocusError] = {}
        for i, request in enumerate(requests):
            layout = attempted(self._layout, vlm, request)
            if isinstance(layout, FocusError):
                found[i] = layout
            else:
                alike.setdefault(layout, []).append(i)
        for indices in alike.values():
            part = [requests[i] for i in indices]
            with removed_afterwards() as handles:
                if len(part[0].images) > 1 and self.active:
                    self.install(vlm, part[0], handles)
                answers = Vanilla().decode_many(engine, part, settings, keep_logits=keep_logits)
            found |= dict(zip(indices, answers, strict=True))
        return [found[i] for i in range(len(requests))]

    def _layout(self, vlm: VisionLanguageModel, request: Request) -> Hashable:
        """Where images and special tokens of a prompt stand, and how long it is."""
        prompt = clean_prompt(vlm, request)
        special = {*vlm.processor.tokenizer.all_special_ids, vlm.family.image_token_id(vlm.model)}
        ids = prompt.input_ids[0].tolist()
        return prompt.spans, tuple(token if token in special else None for token in ids)


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
            accepted = f"{' or '.join(MASKABLE)} for a strategy that changes the attention mask"
            raise InvalidValueError("attention", implementation, accepted)
    return modules


def clean_prompt(vlm: VisionLanguageModel, request: Request) -> Prompt:
    """The prompt as `decode_rows` will build it, for its ids and image spans."""
    return prepare(vlm, request, *clean_rows(len(request.images))).prompt


@contextmanager
def removed_afterwards() -> Iterator[list[RemovableHandle]]:
    """A list for the handles of hooks, all of which are removed at the end, whatever happens."""
    handles: list[RemovableHandle] = []
    try:
        yield handles
    finally:
        for handle in handles:
            handle.remove()


def different_images(prompt: Prompt) -> Tensor:
    """Pairs of tokens that belong to two different images: ``[length, length]``, symmetric."""
    image = torch.full((prompt.input_ids.shape[1],), -1, device=prompt.input_ids.device)
    for index, (start, end) in enumerate(prompt.spans):
        image[start:end] = index
    query, key = image[:, None], image[None, :]
    return (query >= 0) & (key >= 0) & (query != key)


def explicit_mask(mask: Tensor | None, length: int, device: torch.device) -> Tensor:
    """The mask of a prefill written out, ``[.., length, length]``.

    It is boolean (True: visible) under sdpa, which leaves out a mask that is merely causal, and
    added to the scores under eager attention.
    """
    if mask is not None:
        return mask
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()[None, None]
