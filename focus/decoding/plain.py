"""Ordinary decoding on all clean images: the baseline of every comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

from focus.composed import Flow
from focus.decoding.base import Request
from focus.decoding.rows import AbstractPassDecoding, Pass, clean_rows
from focus.errors import InvalidValueError
from focus.models.loading import VisionLanguageModel


@final
@dataclass(frozen=True)
class Plain(AbstractPassDecoding):
    """One row, all images clean; the same tokens as `model.generate`.

    Cost: one forward pass per token, N image encodings.

    Args:
        flat_images: hand the images over as one flat list, as the published code does for plain
            decoding alone. To LLaVA-OneVision that means any-resolution tiles, several times the
            tokens that each image has under FOCUS, so the comparison is no longer a fair one; the
            other families know no difference.
        flow: ``kept`` is ordinary decoding; ``isolated``, images see neither each other nor text
            but that before all of them, and are run once for all questions about them (ours, see
            `focus.composed`): other answers, which docs/composed/README.md compares.

    Raises:
        InvalidValueError: there is no such flow, or it is isolated and images are flat.
    """

    flat_images: bool = False
    flow: Literal["kept", "isolated"] = "kept"

    name: ClassVar[str] = "plain"

    def __post_init__(self) -> None:
        if self.flow not in ("kept", "isolated") or (self.flat_images and self.flow != "kept"):
            accepted = "'kept' or, without flat_images, 'isolated'"
            raise InvalidValueError("flow", self.flow, accepted)

    def one_pass(self, vlm: VisionLanguageModel, request: Request) -> Pass:
        family = vlm.family.flat() if self.flat_images else None
        flow: Flow = "row" if self.flow == "kept" else "isolated"
        return Pass(request, *clean_rows(len(request.images)), family=family, flow=flow)
