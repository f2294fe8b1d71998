"""Ordinary decoding on all clean images: the baseline of every comparison."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, final

from focus.decoding.base import AbstractDecoding, Decoded, GenerationSettings, Request
from focus.decoding.rows import clean_rows, decode_rows
from focus.models.loading import VisionLanguageModel


@final
@dataclass(frozen=True)
class Vanilla(AbstractDecoding):
    """One row, all images clean; the same tokens as `model.generate`.

    Cost: one forward pass per token, N image encodings.

    Args:
        flat_images: hand the images over as one flat list, as the published code does for plain
            decoding alone. To LLaVA-OneVision that means any-resolution tiles, several times the
            tokens that each image has under FOCUS, so the comparison is no longer a fair one; the
            other families know no difference.
    """

    flat_images: bool = False

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
        if self.flat_images:
            vlm = replace(vlm, family=vlm.family.flat())
        return decode_rows(
            vlm,
            request,
            settings,
            plan=plan,
            combine=combine,
            keep_logits=keep_logits,
            **generate_kwargs,
        )
