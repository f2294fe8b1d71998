"""First-token logits of every row of a strategy, for many questions in one pass.

The embedded models answer in one token, so whatever only combines the logits of rows (aggregation,
contrast, reading, temperature) is a function of what is collected here. Rows and noise are those of
the strategies themselves, `Focus.plan` and `focus.decoding.rows.render`: equal keys, equal pixels.
A test holds the logits to `Focus.decode`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from focus.branches import BranchPlan, Content
from focus.decoding import CaptionThenAnswer, Focus, Request, Vcd
from focus.decoding.interventions import AbstractIntervention, removed_afterwards
from focus.decoding.shown import ShownImages, render
from focus.decoding.single_image import kept_images, without_others
from focus.errors import InvalidValueError
from focus.models import VisionLanguageModel
from focus.zoo.bank import stack
from focus.zoo.forward import Frontend

Tint = Literal["none", "own", "target"]
TINTS: tuple[str, ...] = get_args(Tint)


@dataclass(frozen=True)
class RowLogits:
    """First-token logits of the rows of FOCUS.

    Args:
        reference: ``[questions, vocabulary]``.
        branches: ``[branch, questions, vocabulary]``, as `focus.aggregation` takes them.
    """

    reference: Tensor
    branches: Tensor


def plain_logits(vlm: VisionLanguageModel, requests: Sequence[Request]) -> Tensor:
    """``[questions, vocabulary]`` with all images clean: plain decoding."""
    return _logits(vlm, [(request.question, request.images) for request in requests])


def row_logits(
    vlm: VisionLanguageModel, requests: Sequence[Request], strategy: Focus, *, tint: Tint = "none"
) -> RowLogits:
    """Logits of the reference and of every branch.

    Args:
        vlm: an embedded model.
        requests: all with the same number of rows under `strategy`.
        strategy: says which rows there are and which noise masks them; how it combines them is of
            no account.
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
    plans = [strategy.plan(request) for request in requests]
    numbers = {len(plan.rows) for plan in plans}
    if len(numbers) != 1:
        raise InvalidValueError("rows per question", sorted(numbers), "one number for all")
    rows = []
    for request, plan in zip(requests, plans, strict=True):
        shown = _rendered(plan, request, strategy, tint)
        rows += [(request.question, [shown[content] for content in row]) for row in plan.rows]
    logits = _logits(vlm, rows).unflatten(0, (len(requests), -1)).movedim(1, 0)
    return RowLogits(reference=logits[0], branches=logits[1:])


def vcd_logits(vlm: VisionLanguageModel, requests: Sequence[Request], strategy: Vcd) -> Tensor:
    """``[questions, vocabulary]`` of the row whose images are diffused."""
    rows = [
        (request.question, [view for (view,) in strategy.diffused_views(ShownImages(vlm, request))])
        for request in requests
    ]
    return _logits(vlm, rows)


def single_logits(vlm: VisionLanguageModel, requests: Sequence[Request]) -> Tensor:
    """``[questions, vocabulary]`` where all images but the named ones are removed.

    Raises:
        InvalidValueError: a request with several images names none.
    """
    alone = [without_others(request, kept_images(request)) for request in requests]
    return plain_logits(vlm, alone)


def intervened_logits(
    vlm: VisionLanguageModel, requests: Sequence[Request], strategy: AbstractIntervention
) -> Tensor:
    """``[questions, vocabulary]`` with the hooks of `strategy` in place.

    Its hooks know tokens by their place, so questions are asked together whose images and
    delimiters stand at the same places.

    Raises:
        PromptError: there is nothing in the prompt that the strategy acts on.
    """
    encoder = Frontend.of(vlm.model, vlm.processor).encoder
    special = set(vlm.processor.tokenizer.all_special_ids)
    alike: dict[tuple[int | None, ...], list[int]] = {}
    for i, request in enumerate(requests):
        ids = encoder.prompt(request.question)
        alike.setdefault(tuple(t if t in special else None for t in ids), []).append(i)
    found: dict[int, Tensor] = {}
    for indices in alike.values():
        part = [requests[i] for i in indices]
        with removed_afterwards() as handles:
            if len(part[0].images) > 1 and strategy.active:
                strategy.install(vlm, part[0], handles)
            found |= dict(zip(indices, plain_logits(vlm, part), strict=True))
    return torch.stack([found[i] for i in range(len(requests))])


def captioned_logits(
    vlm: VisionLanguageModel, requests: Sequence[Request], strategy: CaptionThenAnswer
) -> Tensor:
    """``[questions, vocabulary]`` with a caption behind every image, each image captioned alone."""
    if not strategy.active:
        return plain_logits(vlm, requests)
    asked = [strategy.caption_requests(request) for request in requests]
    flat = [one for each in asked for one in each]
    texts = iter(_answers(vlm, flat, most_tokens=strategy.max_caption_tokens))
    return plain_logits(
        vlm,
        [
            strategy.captioned(request, [next(texts) for _ in each], vlm)
            for request, each in zip(requests, asked, strict=True)
        ],
    )


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


def _rendered(
    plan: BranchPlan, request: Request, strategy: Focus, tint: Tint
) -> dict[Content, Image.Image]:
    shown = render(plan, request, strategy.noise, per_run=strategy.sharing == "run")
    if tint == "none":
        return shown
    if tint == "target" and not request.targets:
        raise InvalidValueError("targets", request.targets, "some image for tint='target'")
    target = kept_images(request)[0] if tint == "target" else None
    return {
        content: image
        if content.kind == "clean"
        else coloured_like(image, request.images[content.slot if target is None else target])
        for content, image in shown.items()
    }


def _answers(
    vlm: VisionLanguageModel, requests: Sequence[Request], *, most_tokens: int, batch: int = 128
) -> list[str]:
    """What greedy decoding answers about one image each, in so many tokens."""
    frontend = Frontend.of(vlm.model, vlm.processor)
    prompts = [frontend.encoder.prompt(request.question) for request in requests]
    # Prompts of one length need no padding, which would move their positions.
    alike: dict[int, list[int]] = {}
    for i, prompt in enumerate(prompts):
        alike.setdefault(len(prompt), []).append(i)
    said: dict[int, str] = {}
    for indices in alike.values():
        for start in range(0, len(indices), batch):
            part = indices[start : start + batch]
            ids = torch.tensor([prompts[i] for i in part], device=vlm.model.device)
            images = [image for i in part for image in requests[i].images]
            sequences = vlm.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=most_tokens,
                **frontend.image_kwargs(vlm.model, stack(images), ids),
                **vlm.family.text_kwargs(vlm.model, ids),
            )
            new = sequences[:, ids.shape[1] :]
            texts = vlm.processor.tokenizer.batch_decode(new, skip_special_tokens=True)
            said |= dict(zip(part, texts, strict=True))
    return [said[i].strip() for i in range(len(requests))]


def _logits(vlm: VisionLanguageModel, rows: Sequence[tuple[str, Sequence[Image.Image]]]) -> Tensor:
    """Logits of the first answer token for each (question, images): ``[rows, vocabulary]``."""
    encoder = Frontend.of(vlm.model, vlm.processor).encoder
    return _next_logits(vlm, [(encoder.prompt(question), images) for question, images in rows])


@torch.no_grad()
def _next_logits(
    vlm: VisionLanguageModel,
    rows: Sequence[tuple[Sequence[int], Sequence[Image.Image]]],
    *,
    batch_images: int = 256,
) -> Tensor:
    """Logits of the next token for each (ids, images): ``[rows, vocabulary]``."""
    frontend = Frontend.of(vlm.model, vlm.processor)
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i][1]), len(rows[i][0])))
    size = max(1, batch_images // max(len(images) for _, images in rows))
    parts: dict[int, Tensor] = {}
    for start in range(0, len(rows), size):
        part = order[start : start + size]
        images = [image for i in part for image in rows[i][1]]
        unique = {id(image): image for image in images}  # rows of a question have some in common
        places = {key: k for k, key in enumerate(unique)}
        hidden = frontend.hidden_states(
            vlm.model,
            [rows[i][0] for i in part],
            stack(list(unique.values())),
            [places[id(image)] for image in images],
        )
        last = torch.tensor([len(rows[i][0]) - 1 for i in part])
        logits = vlm.model.lm_head(hidden[torch.arange(len(part)), last]).float().cpu()
        parts |= dict(zip(part, logits, strict=True))
    return torch.stack([parts[i] for i in range(len(rows))])
