"""Ordinary decoding on all clean images: the baseline of every comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from focus.decoding.base import Request
from focus.decoding.rows import AbstractPassDecoding, Pass, clean_rows
from focus.models.loading import VisionLanguageModel


@final
@dataclass(frozen=True)
class Vanilla(AbstractPassDecoding):
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

    def one_pass(self, vlm: VisionLanguageModel, request: Request) -> Pass:
        family = vlm.family.flat() if self.flat_images else None
        return Pass(request, *clean_rows(len(request.images)), family=family)
