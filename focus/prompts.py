"""From a question with `<image>` placeholders to token ids with image spans."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from focus.benchmarks.base import IMAGE_PLACEHOLDER
from focus.errors import PromptError
from focus.models.base import AbstractFamily, ImageInputs


@dataclass(frozen=True)
class Prompt:
    """A tokenised prompt; the same for every row, whatever stands in the image slots.

    Args:
        input_ids: ``[1, length]``.
        spans: half-open token range of each image.
        position_ids: ``[1, length]``, or ``[3, 1, length]`` with multimodal rotary positions.
        text: the rendered chat, before tokenisation, with one image token per image.
    """

    input_ids: Tensor
    spans: tuple[tuple[int, int], ...]
    position_ids: Tensor
    text: str


def place_images(question: str, num_images: int) -> str:
    """Question with exactly one placeholder per image; images go first where it has none.

    Raises:
        PromptError: empty question, no text, no images, or another number of placeholders.

    >>> place_images("What differs?", 2)
    '<image><image>What differs?'
    """
    if not isinstance(question, str):
        raise PromptError(f"the question must be text, not {type(question).__name__}")
    if num_images < 1:
        raise PromptError("no images were given; FOCUS needs at least one")
    if not question.replace(IMAGE_PLACEHOLDER, "").strip():
        raise PromptError(f"the question is empty ({question!r}); it must contain some text")
    placeholders = question.count(IMAGE_PLACEHOLDER)
    if placeholders == 0:
        return IMAGE_PLACEHOLDER * num_images + question
    if placeholders != num_images:
        raise PromptError(
            f"the question has {placeholders} {IMAGE_PLACEHOLDER} placeholders but {num_images} "
            f"images were given; write one placeholder per image, or none to put images first"
        )
    return question


def chat_messages(question: str, system: str | None = None) -> list[dict[str, Any]]:
    """One user turn, images interleaved where the placeholders stand."""
    parts = re.split(f"({re.escape(IMAGE_PLACEHOLDER)})", question)
    content = [
        {"type": "image"} if part == IMAGE_PLACEHOLDER else {"type": "text", "text": part}
        for part in parts
        if part
    ]
    return _conversation(content, system)


def _conversation(content: list[dict[str, Any]], system: str | None) -> list[dict[str, Any]]:
    user = {"role": "user", "content": content}
    if not system:
        return [user]
    return [{"role": "system", "content": [{"type": "text", "text": system}]}, user]


def render_chat(processor: ProcessorMixin, question: str, system: str | None = None) -> str:
    """The chat template's text, each image token where its placeholder stands in `question`.

    Some templates (LLaVA-OneVision's) put all images before the text, whatever their order, which
    would turn "first image: <image> second image: <image>" into words about nothing. There the
    image tokens go into the text itself.
    """

    def apply(messages: list[dict[str, Any]]) -> str:
        return processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)

    rendered = apply(chat_messages(question, system))
    written = question.replace(IMAGE_PLACEHOLDER, processor.image_token)
    pieces = re.split(f"({re.escape(processor.image_token)})", written)
    position = 0
    for piece in pieces:
        found = rendered.find(piece.strip(), position)
        if found < 0:
            return apply(_conversation([{"type": "text", "text": written}], system))
        position = found + len(piece.strip())
    return rendered


def build_prompt(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    family: AbstractFamily,
    question: str,
    images: Sequence[ImageInputs],
    *,
    system: str | None = None,
) -> Prompt:
    """Renders the chat template, widens each image token and finds the image spans.

    Raises:
        PromptError: the question is empty or does not fit the images, or its text contains the
            family's own image token.
    """
    question = place_images(question, len(images))
    text = render_chat(processor, question, system)
    pieces = text.split(processor.image_token)
    if len(pieces) != len(images) + 1:
        raise PromptError(
            f"the rendered prompt holds {len(pieces) - 1} image tokens ({processor.image_token}) "
            f"for {len(images)} images; the question must not contain that token as text"
        )
    widened = pieces[0]
    for image, piece in zip(images, pieces[1:], strict=True):
        widened += image.placeholder + piece
    bos = processor.tokenizer.bos_token
    tokens = processor.tokenizer(
        widened,
        return_tensors="pt",
        # A template that writes the start token itself must not get a second one.
        add_special_tokens=not (bos and widened.startswith(bos)),
    )
    input_ids = tokens["input_ids"].to(model.device)
    spans = family.image_spans(model, input_ids[0], [image.num_tokens for image in images])
    position_ids = family.position_ids(model, input_ids, images)
    return Prompt(input_ids, tuple(spans), position_ids.to(torch.long), text)
