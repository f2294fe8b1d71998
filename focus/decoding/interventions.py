"""Hooks on the decoder layers while a model reads one prompt: what three strategies share.

`sofa`, `delimiter_scaling` and `block_attention` change what happens inside the language model
during the prefill, and are ordinary decoding otherwise. They do it with forward hooks
(`focus.hooks`), which need neither a registered attention function nor a changed configuration and
are gone afterwards, also after an exception. Hooks are on the model object: do not decode with it
from several threads.

A prompt of clean images is prefilled in one piece (`focus.prefill`), so a hook tells the prefill
from a decode step by its length. The spans of the images are needed before `decode_rows` prepares
the request, which therefore happens twice: pixels are processed twice on the CPU, and encoded once.
The time of the first is no cost of the method, and `Decoded.seconds` leaves it out.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Sequence
from typing import Any

from torch.utils.hooks import RemovableHandle

from focus.decoding.base import (
    AbstractDecoding,
    Decoded,
    GenerationSettings,
    Request,
    attempted,
)
from focus.decoding.plain import Plain
from focus.decoding.preparing import prepare
from focus.decoding.rows import clean_rows
from focus.engines import AbstractEngine, LocalEngine
from focus.errors import FocusError, UnsupportedGenerationError
from focus.generate import KeepLogits
from focus.hooks import removed_afterwards
from focus.models.loading import VisionLanguageModel
from focus.prompts import Prompt


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
            return Plain().decode(
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
                answers = Plain().decode_many(engine, part, settings, keep_logits=keep_logits)
            found |= dict(zip(indices, answers, strict=True))
        return [found[i] for i in range(len(requests))]

    def _layout(self, vlm: VisionLanguageModel, request: Request) -> Hashable:
        """Where images and special tokens of a prompt stand, and how long it is."""
        prompt = clean_prompt(vlm, request)
        special = {*vlm.processor.tokenizer.all_special_ids, vlm.family.image_token_id(vlm.model)}
        ids = prompt.input_ids[0].tolist()
        return prompt.spans, tuple(token if token in special else None for token in ids)


def clean_prompt(vlm: VisionLanguageModel, request: Request) -> Prompt:
    """The prompt as `decode_rows` will build it, for its ids and image spans."""
    return prepare(vlm, request, *clean_rows(len(request.images))).prompt
