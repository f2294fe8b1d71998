"""First-token logits of the rows of a strategy, for many questions.

The embedded models answer in one token, so whatever only combines the logits of rows (aggregation,
contrast, reading, temperature) is a function of what is collected here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from focus.decoding import AbstractDecoding, Decoded, Focus, GenerationSettings, Request, Vanilla
from focus.decoding.rows import AbstractPassDecoding, Pass
from focus.decoding.shown import render
from focus.decoding.single_image import kept_images
from focus.engines import LocalEngine
from focus.errors import FocusError, InvalidValueError
from focus.models import VisionLanguageModel

Tint = Literal["none", "own", "target"]
TINTS: tuple[str, ...] = get_args(Tint)
ONE_TOKEN = GenerationSettings(max_new_tokens=1)


@dataclass(frozen=True)
class RowLogits:
    """First-token logits of the rows of FOCUS.

    Args:
        reference: ``[questions, vocabulary]``.
        branches: ``[branch, questions, vocabulary]``, as `focus.aggregation` takes them.
    """

    reference: Tensor
    branches: Tensor


def first_logits(
    engine: LocalEngine, requests: Sequence[Request], strategy: AbstractDecoding
) -> Tensor:
    """``[rows, questions, vocabulary]``: every row of a strategy, before they are combined.

    Args:
        engine: of an embedded model.
        requests: all with the same number of rows under `strategy`.
        strategy: what it makes of the rows is of no account.

    Raises:
        InvalidValueError: unequal numbers of rows.
        FocusError: a request that cannot be answered.
    """
    answers: list[Decoded] = []
    for answer in strategy.decode_many(engine, requests, ONE_TOKEN, keep_logits="first"):
        if isinstance(answer, FocusError):
            raise answer
        answers.append(answer)
    numbers = {len(answer.row_labels) for answer in answers}
    if len(numbers) != 1:
        raise InvalidValueError("rows per question", sorted(numbers), "one number for all")
    return torch.stack([answer.branch_logits[0][:, 0] for answer in answers], dim=1).cpu()


def plain_logits(engine: LocalEngine, requests: Sequence[Request]) -> Tensor:
    """``[questions, vocabulary]`` with all images clean: plain decoding."""
    return first_logits(engine, requests, Vanilla())[0]


def row_logits(
    engine: LocalEngine, requests: Sequence[Request], strategy: Focus, *, tint: Tint = "none"
) -> RowLogits:
    """Logits of the reference and of every branch.

    Args:
        engine: of an embedded model.
        requests: all with the same number of rows under `strategy`.
        strategy: says which rows there are and which noise masks them.
        tint: gives all noise the colour of the image it stands for (``own``), or of the first image
            that the question names (``target``); ``none`` leaves it as the method draws it.

    Raises:
        InvalidValueError: unequal numbers of rows, an unknown tint, or no named image to take the
            colour of.
    """
    if tint not in TINTS:
        raise InvalidValueError("tint", tint, f"one of {', '.join(TINTS)}")
    # With a single image there is a reference too: what the contrast does there is a question.
    strategy = replace(strategy, single_image="contrast")
    asked = strategy if tint == "none" else Tinted(strategy, tint)
    logits = first_logits(engine, requests, asked)
    return RowLogits(reference=logits[0], branches=logits[1:])


@dataclass(frozen=True)
class Tinted(AbstractPassDecoding):
    """FOCUS whose noise tells the colour of what it hides: a way to provoke failure, no method.

    Args:
        focus: everything else.
        tint: ``own`` or ``target``, see `row_logits`.
    """

    focus: Focus
    tint: Tint

    name = "tinted"

    def one_pass(self, vlm: VisionLanguageModel, request: Request) -> Pass:
        if self.tint == "target" and not request.targets:
            raise InvalidValueError("targets", request.targets, "some image for tint='target'")
        one = self.focus.one_pass(vlm, request)
        shown = render(one.plan, request, self.focus.noise, per_run=one.per_run)
        target = kept_images(request)[0] if self.tint == "target" else None
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
