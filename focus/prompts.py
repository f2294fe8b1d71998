"""From a question with `<image>` placeholders to token ids with image spans."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from cachetools import LRUCache
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from focus.errors import PromptError
from focus.images import IMAGE_PLACEHOLDER
from focus.models.base import AbstractFamily, ImageInputs, input_device


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

    @property
    def nbytes(self) -> int:
        """Bytes of ids and positions."""
        return self.input_ids.nbytes + self.position_ids.nbytes


#: Whether a template keeps the order of a question's parts: asked of it once for all questions.
_orders: LRUCache = LRUCache(maxsize=1024)


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

    Raises:
        PromptError: the processor has no chat template, or a text holds a special token.
    """
    if not getattr(processor, "chat_template", None):
        raise PromptError(
            f"{type(processor).__name__} has no chat template, so a question cannot be put into a "
            "prompt; set processor.chat_template, or load a checkpoint that was tuned to chat"
        )
    for where, text in (("question", question.replace(IMAGE_PLACEHOLDER, "")), ("system", system)):
        if found := special_tokens_in(processor, text or ""):
            raise PromptError(
                f"the {where} prompt must not contain {', '.join(map(repr, found))} as text: to "
                f"the model it is a control token (images are written {IMAGE_PLACEHOLDER})"
            )

    def apply(messages: list[dict[str, Any]]) -> str:
        return processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)

    if _keeps_order(processor, question, apply, system):
        return apply(chat_messages(question, system))
    written = question.replace(IMAGE_PLACEHOLDER, processor.image_token)
    return apply(_conversation([{"type": "text", "text": written}], system))


def _keeps_order(
    processor: ProcessorMixin,
    question: str,
    apply: Callable[[list[dict[str, Any]]], str],
    system: str | None,
) -> bool:
    """Whether the template leaves images and text in their order.

    Rendered with marks in place of the texts: the question's own words may occur elsewhere too, in
    the system prompt or in the template's header.
    """
    parts = re.split(f"({re.escape(IMAGE_PLACEHOLDER)})", question)
    marks = [
        part if part in ("", IMAGE_PLACEHOLDER) else f"\ue000{number}\ue001"
        for number, part in enumerate(parts)
    ]
    known = (processor.chat_template, processor.image_token, system, *marks)
    if known not in _orders:
        _orders[known] = _same_order(processor, marks, apply(chat_messages("".join(marks), system)))
    return _orders[known]


def _same_order(processor: ProcessorMixin, marks: Sequence[str], rendered: str) -> bool:
    found = re.findall(f"\ue000\\d+\ue001|{re.escape(processor.image_token)}", rendered)
    expected = [processor.image_token if m == IMAGE_PLACEHOLDER else m for m in marks if m]
    return found == expected


def special_tokens_in(processor: ProcessorMixin, text: str) -> list[str]:
    """Special tokens of the tokenizer that a text spells out; a tokenizer takes them for real.

    >>> from focus.models.tiny import build_tiny
    >>> special_tokens_in(build_tiny("qwen2_5_vl").processor, "a <|vision_end|> b")
    ['<|vision_end|>']
    """
    tokenizer = processor.tokenizer
    added = tokenizer.added_tokens_decoder.values()
    special = {*tokenizer.all_special_tokens, *(str(token) for token in added if token.special)}
    return sorted(token for token in special if token and token in text)


def without_special_tokens(processor: ProcessorMixin, text: str) -> str:
    """Text that a model wrote, fit for a prompt: no placeholder and no special token is left.

    Taking one out may put another together, so it is done until there is none.
    """
    while found := [
        *special_tokens_in(processor, text),
        *([IMAGE_PLACEHOLDER] if IMAGE_PLACEHOLDER in text else []),
    ]:
        for token in found:
            text = text.replace(token, "")
    return text


def build_prompt(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    family: AbstractFamily,
    question: str,
    images: Sequence[ImageInputs],
    *,
    system: str | None = None,
    position_ids: Callable[[Tensor, tuple[tuple[int, int], ...]], Tensor] | None = None,
) -> Prompt:
    """Renders the chat template, widens each image token and finds the image spans.

    Args:
        model, processor, family: of the same checkpoint.
        question, system: see `render_chat`.
        images: in prompt order.
        position_ids: positions for ids ``[1, length]`` and image spans, where they are known; by
            default the family works them out.

    Raises:
        PromptError: the question is empty or does not fit the images, see `render_chat`, or the
            template changes the number of images.
    """
    question = place_images(question, len(images))
    text = render_chat(processor, question, system)
    pieces = text.split(processor.image_token)
    if len(pieces) != len(images) + 1:
        raise PromptError(
            f"the rendered prompt holds {len(pieces) - 1} image tokens ({processor.image_token}) "
            f"for {len(images)} images; the chat template drops or adds some"
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
    input_ids = tokens["input_ids"].to(input_device(model))
    spans = tuple(family.image_spans(model, input_ids[0], [image.num_tokens for image in images]))
    if position_ids is None:
        positions = family.position_ids(model, input_ids, images)
    else:
        positions = position_ids(input_ids, spans)
    return Prompt(input_ids, spans, positions.to(torch.long), text)
