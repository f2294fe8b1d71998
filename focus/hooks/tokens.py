"""Which tokens of a prompt are what: images, their delimiters, the question, the last one."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from focus.models.loading import VisionLanguageModel
from focus.prompts import Prompt

IMAGE_GROUPS = ("asked image", "other images")
TEXT_GROUPS = ("earlier text", "question", "last token")
#: Every token of a prompt is in one of these. ``question`` is the text behind the last image
#: without the ``last token``, where the answer is read; ``earlier text`` all text before.
GROUPS = (*IMAGE_GROUPS, "delimiters", *TEXT_GROUPS)


def delimiter_positions(vlm: VisionLanguageModel, prompt: Prompt) -> Tensor:
    """Where the delimiters of the images stand in a prompt: their opening and closing tokens, or
    the learned newline that closes each image (LLaVA-OneVision). Empty if there are none."""
    tokens = [token for token in vlm.family.delimiters if token]
    if not tokens:  # the last feature of each image is the newline that closes it
        ends = [end - 1 for _, end in prompt.spans]
        return torch.tensor(ends, device=prompt.input_ids.device)
    ids = torch.tensor(vlm.processor.tokenizer.convert_tokens_to_ids(tokens))
    return torch.isin(prompt.input_ids[0], ids.to(prompt.input_ids.device)).nonzero()[:, 0]


def image_numbers(prompt: Prompt) -> Tensor:
    """The image that each token belongs to, from 0: ``[length]``; -1 for text."""
    image = torch.full((prompt.input_ids.shape[1],), -1, device=prompt.input_ids.device)
    for index, (start, end) in enumerate(prompt.spans):
        image[start:end] = index
    return image


def different_images(prompt: Prompt) -> Tensor:
    """Pairs of tokens that belong to two different images: ``[length, length]``, symmetric."""
    image = image_numbers(prompt)
    query, key = image[:, None], image[None, :]
    return (query >= 0) & (key >= 0) & (query != key)


def token_groups(
    vlm: VisionLanguageModel, prompt: Prompt, asked: Collection[int] = ()
) -> dict[str, Tensor]:
    """Tokens of each of `GROUPS`: ``[length]``, True where they are; on the CPU.

    Args:
        vlm: made the prompt.
        prompt: its ids and image spans.
        asked: images that the question is about, from 0; empty for all of them.
    """
    image = image_numbers(prompt).cpu()
    length = len(image)
    delimiters = torch.zeros(length, dtype=torch.bool)
    delimiters[delimiter_positions(vlm, prompt).cpu()] = True
    shown = (image >= 0) & ~delimiters
    named = torch.tensor(sorted(asked) or range(len(prompt.spans)))
    in_asked = torch.isin(image, named)
    place = torch.arange(length)
    text = ~shown & ~delimiters
    last = place == length - 1
    behind = place >= (prompt.spans[-1][1] if prompt.spans else 0)
    groups = (
        *(shown & in_asked, shown & ~in_asked, delimiters & ~last),
        *(text & ~behind, text & behind & ~last, last),
    )
    return dict(zip(GROUPS, groups, strict=True))
