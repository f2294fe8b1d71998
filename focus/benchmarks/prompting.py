"""Putting images, questions and options into one prompt text."""

from __future__ import annotations

import string
from collections.abc import Sequence

from PIL import Image

from focus.images import IMAGE_PLACEHOLDER


def letters(count: int) -> tuple[str, ...]:
    """The first option letters; none beyond Z.

    >>> letters(3)
    ('A', 'B', 'C')
    """
    return tuple(string.ascii_uppercase[:count])


def rotation(count: int, order: int) -> tuple[int, ...]:
    """Original index of what stands at each place after turning by `order` places.

    >>> rotation(4, 1)
    (1, 2, 3, 0)
    """
    return tuple((place + order) % count for place in range(count))


def turned(
    question: str, options: Sequence[str], images: Sequence[Image.Image], permutation: Sequence[int]
) -> tuple[list[str], tuple[Image.Image, ...]]:
    """Options in another order, and with them the images that stand in them.

    Args:
        question: its placeholders come before those of the options.
        options: in their original order.
        images: in the order of their placeholders, those without one first.
        permutation: original index of the option that comes to each place.
    """
    counts = [option.count(IMAGE_PLACEHOLDER) for option in options]
    before = max(0, len(images) - sum(counts))
    starts = [before + sum(counts[:k]) for k in range(len(options))]
    moved = [image for k in permutation for image in images[starts[k] : starts[k] + counts[k]]]
    return [options[k] for k in permutation], (*images[:before], *moved)


def interleaved(text: str, num_images: int) -> str:
    """Text with exactly one placeholder per image, each where the data set put it.

    Images without a placeholder stand in front, as in the harness of Mantis; placeholders without
    an image go, the last first.

    >>> interleaved("left <image> and <image>", 3)
    '<image>left <image> and <image>'
    """
    missing = num_images - text.count(IMAGE_PLACEHOLDER)
    if missing >= 0:
        return IMAGE_PLACEHOLDER * missing + text
    for _ in range(-missing):
        before, _, after = text.rpartition(IMAGE_PLACEHOLDER)
        text = before + after
    return text


def images_first(text: str, num_images: int) -> str:
    """All images, then the text without placeholders (the authors' order in every benchmark)."""
    return IMAGE_PLACEHOLDER * num_images + text.replace(IMAGE_PLACEHOLDER, "")


def bracketed_options(options: Sequence[str]) -> list[str]:
    """Lines such as ``(A) a dog``."""
    return [f"({chr(ord('A') + i)}) {option}" for i, option in enumerate(options)]
