"""FOCUS under noise that tells of what it hides: a way to provoke failure, no method."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from PIL import Image

from focus.branches import target_units
from focus.decoding import Focus, Request
from focus.decoding.rows import AbstractPassDecoding, Pass
from focus.decoding.shown import render
from focus.errors import InvalidValueError
from focus.models import VisionLanguageModel

Tint = Literal["none", "own", "target"]
TINTS: tuple[str, ...] = get_args(Tint)


@dataclass(frozen=True)
class Tinted(AbstractPassDecoding):
    """FOCUS whose noise tells the colour of what it hides.

    Args:
        focus: everything else.
        tint: gives the noise the colour of the image it stands for (``own``), or of the first image
            that the question names (``target``); without a tint it is `Focus`.
    """

    focus: Focus
    tint: Tint

    name = "tinted"

    def one_pass(self, vlm: VisionLanguageModel, request: Request) -> Pass:
        if self.tint == "target" and not request.targets:
            raise InvalidValueError("targets", request.targets, "some image for tint='target'")
        one = self.focus.one_pass(vlm, request)
        shown = render(one.plan, request, self.focus.noise, per_run=one.per_run)
        target = None
        if self.tint == "target":
            target = target_units(len(request.images), request.targets)[0][0]
        inputs = {
            content: vlm.family.image_inputs(
                vlm.processor,
                coloured_like(image, request.images[content.slot if target is None else target]),
            )
            for content, image in shown.items()
            if content.kind != "clean"
        }
        return replace(one, inputs=inputs)


def coloured_like(noise: Image.Image, image: Image.Image) -> Image.Image:
    """`noise`, shifted to the mean colour of the most colourful tenth of the pixels of `image`.

    The noise keeps its grain and tells nothing but that colour.
    """
    pixels = np.asarray(image, dtype=np.float64).reshape(-1, 3)
    saturation = np.ptp(pixels, axis=1)
    vivid = pixels[np.argsort(-saturation, kind="stable")[: max(1, len(pixels) // 10)]]
    grain = np.asarray(noise, dtype=np.float64)
    shifted = grain - grain.mean(axis=(0, 1)) + vivid.mean(axis=0)
    return Image.fromarray(np.rint(np.clip(shifted, 0, 255)).astype(np.uint8))
