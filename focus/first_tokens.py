"""First-token logits of the rows of a strategy, for many questions.

Where answers differ in their first token, whatever only combines the logits of rows (aggregation,
contrast, reading, temperature) is a function of what is collected here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from focus.decoding import (
    AbstractDecoding,
    ComposedFocus,
    Focus,
    GenerationSettings,
    MaskedFocus,
    Plain,
    Request,
)
from focus.decoding.rows import AbstractPassDecoding, Pass
from focus.decoding.shown import render
from focus.decoding.single_image import kept_images
from focus.engines import AbstractEngine
from focus.errors import FocusError, InvalidValueError
from focus.models import VisionLanguageModel

Tint = Literal["none", "own", "target"]
TINTS: tuple[str, ...] = get_args(Tint)
ONE_TOKEN = GenerationSettings(max_new_tokens=1)


#: Strategies whose rows are the reference and a branch for each target unit.
Branches = Focus | ComposedFocus | MaskedFocus
#: Takes ``[rows, vocabulary]`` to the columns that are kept of it.
KeepColumns = Callable[[Tensor], Tensor]
#: Requests that are asked together: their images and full rows are in memory at the same time.
TOGETHER = 512
#: Entries of full rows in memory, which a large vocabulary fills with fewer requests.
ENTRIES = 2**26


@dataclass(frozen=True)
class RowLogits:
    """First-token logits of the rows of FOCUS.

    Args:
        reference: ``[questions, columns]``.
        branches: ``[branch, questions, columns]``, as `focus.aggregation` takes them; questions
            with fewer branches than others are filled up with their reference.
        numbers: ``[questions]``, branches of each.
    """

    reference: Tensor
    branches: Tensor
    numbers: Tensor


def first_rows(
    engine: AbstractEngine,
    requests: Iterable[Request],
    strategy: AbstractDecoding,
    columns: KeepColumns | None = None,
) -> list[Tensor]:
    """``[rows, columns]`` for each request: every row of a strategy, before they are combined.

    Args:
        engine: of a model.
        requests: read as they are needed.
        strategy: what it makes of the rows is of no account.
        columns: what to keep of the vocabulary; None for all of it.

    Raises:
        FocusError: a request that cannot be answered.
    """
    vocabulary = engine.vlm.model.config.get_text_config().vocab_size
    waiting, found = iter(requests), []
    while group := list(itertools.islice(waiting, min(TOGETHER, max(1, ENTRIES // vocabulary)))):
        for answer in strategy.decode_many(engine, group, ONE_TOKEN, keep_logits="first"):
            if isinstance(answer, FocusError):
                raise answer
            rows = answer.branch_logits[0][:, 0]
            found.append((rows if columns is None else columns(rows)).cpu())
    return found


def first_logits(
    engine: AbstractEngine,
    requests: Iterable[Request],
    strategy: AbstractDecoding,
    *,
    columns: KeepColumns | None = None,
) -> Tensor:
    """``[rows, questions, columns]``, see `first_rows`.

    Raises:
        InvalidValueError: unequal numbers of rows.
        FocusError: a request that cannot be answered.
    """
    answers = first_rows(engine, requests, strategy, columns)
    numbers = {len(answer) for answer in answers}
    if len(numbers) != 1:
        raise InvalidValueError("rows per question", sorted(numbers), "one number for all")
    return torch.stack(answers, dim=1)


def plain_logits(engine: AbstractEngine, requests: Iterable[Request]) -> Tensor:
    """``[questions, vocabulary]`` with all images clean: plain decoding."""
    return first_logits(engine, requests, Plain())[0]


def row_logits(
    engine: AbstractEngine,
    requests: Iterable[Request],
    strategy: Branches,
    *,
    tint: Tint = "none",
    columns: KeepColumns | None = None,
) -> RowLogits:
    """Logits of the reference and of every branch.

    Args:
        engine: of a model.
        requests: in any number of branches.
        strategy: says which rows there are and which noise masks them.
        tint: gives all noise the colour of the image it stands for (``own``), or of the first image
            that the question names (``target``); ``none`` leaves it as the method draws it.
        columns: what to keep of the vocabulary; None for all of it.

    Raises:
        InvalidValueError: an unknown tint, or no named image to take the colour of.
    """
    if tint not in TINTS:
        raise InvalidValueError("tint", tint, f"one of {', '.join(TINTS)}")
    # With a single image there is a reference too: what the contrast does there is a question.
    strategy = replace(strategy, single_image="contrast")
    asked: AbstractDecoding = strategy
    if tint != "none":
        if not isinstance(strategy, Focus):
            raise InvalidValueError("strategy", strategy.name, "focus, where noise is tinted")
        asked = Tinted(strategy, tint)
    answers = first_rows(engine, requests, asked, columns)
    numbers = torch.tensor([len(rows) - 1 for rows in answers])
    most = int(numbers.max())
    filled = [torch.cat([rows, rows[:1].expand(most + 1 - len(rows), -1)]) for rows in answers]
    logits = torch.stack(filled, dim=1)
    return RowLogits(reference=logits[0], branches=logits[1:], numbers=numbers)


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
