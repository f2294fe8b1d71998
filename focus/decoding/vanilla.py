"""Ordinary decoding on all clean images: the baseline of every comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

from focus.decoding.base import AbstractDecoding, Decoded, GenerationSettings, Request
from focus.decoding.rows import clean_rows, decode_rows
from focus.models.loading import VisionLanguageModel


@final
@dataclass(frozen=True)
class Vanilla(AbstractDecoding):
    """One row, all images clean; the same tokens as `model.generate`.

    Cost: one forward pass per token, N image encodings.
    """

    name: ClassVar[str] = "vanilla"

    def decode(
        self,
        vlm: VisionLanguageModel,
        request: Request,
        settings: GenerationSettings,
        *,
        keep_logits: str = "none",
        **generate_kwargs: Any,
    ) -> Decoded:
        plan, combine = clean_rows(len(request.images))
        return decode_rows(
            vlm,
            request,
            settings,
            plan=plan,
            combine=combine,
            keep_logits=keep_logits,
            **generate_kwargs,
        )
