"""The embedded world: 32x32 scenes with one coloured shape at one place.

Small enough for a model of a million parameters to see every attribute reliably, so that what goes
wrong with several images is a matter of mixing them up and not of seeing. Nothing is stored: a
scene is a function of its truth and of its key, and the split is part of the key.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from focus.errors import InvalidValueError
from focus.randomness import generator

#: Width and height of every scene, in pixels.
SIZE = 32
SPLITS = ("train", "dev", "test")
Truth = Mapping[str, str]

_COLORS = {
    "red": (220, 40, 40),
    "green": (40, 165, 60),
    "blue": (45, 75, 225),
    "yellow": (235, 205, 40),
    "purple": (155, 55, 190),
    "cyan": (50, 205, 215),
}
_CENTERS = {"top": (16, 9), "bottom": (16, 23), "left": (9, 16), "right": (23, 16)}  # x, y
_SHAPES = ("circle", "square", "triangle", "cross")

#: Every attribute of a scene with its possible values.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "color": tuple(_COLORS),
    "shape": _SHAPES,
    "place": tuple(_CENTERS),
}
#: Every possible ground truth: one scene class each.
TRUTHS: tuple[Truth, ...] = tuple(
    dict(zip(ATTRIBUTES, values, strict=True)) for values in itertools.product(*ATTRIBUTES.values())
)

_SCALE = 4  # drawn larger and reduced, because PIL draws polygons without anti-aliasing


def scene(truth: Truth, *, seed: int, split: str, index: int | str) -> Image.Image:
    """The scene numbered `index` of a split, showing what `truth` says.

    Size, position, colour, background and texture vary with the key; the truth does not.

    Args:
        truth: a value for each of `ATTRIBUTES`.
        seed: world seed.
        split: one of `SPLITS`.
        index: name of the scene within its split.

    Returns:
        RGB image of `SIZE` x `SIZE` pixels.
    """
    check_truth(truth)
    if split not in SPLITS:
        raise InvalidValueError("split", split, f"one of {list(SPLITS)}")
    rng = generator(seed, "scene", split, index)
    canvas = Image.new("RGB", (SIZE * _SCALE, SIZE * _SCALE), _background(rng))
    jitter = rng.integers(-12, 13, size=3)
    color = tuple(int(c) for c in np.clip(np.add(_COLORS[truth["color"]], jitter), 0, 255))
    _draw_shape(ImageDraw.Draw(canvas), truth["shape"], _CENTERS[truth["place"]], color, rng)
    pixels = np.asarray(canvas.reduce(_SCALE), dtype=np.float32)
    texture = rng.normal(0.0, rng.uniform(2.0, 5.0), size=pixels.shape)
    return Image.fromarray(np.clip(pixels + texture, 0, 255).astype(np.uint8))


def check_truth(truth: Truth) -> None:
    """Raise `InvalidValueError` unless `truth` gives one known value for every attribute."""
    if set(truth) != set(ATTRIBUTES):
        raise InvalidValueError("truth", dict(truth), f"a value for each of {list(ATTRIBUTES)}")
    for attribute, values in ATTRIBUTES.items():
        if truth[attribute] not in values:
            raise InvalidValueError(attribute, truth[attribute], f"one of {list(values)}")


def varied(
    truth: Truth, change: tuple[str, ...], rng: np.random.Generator, *, keep_rest: bool = True
) -> dict[str, str]:
    """A truth that differs from `truth` in every attribute of `change`.

    Args:
        truth: where to start from.
        change: attributes that must differ.
        rng: chooses the new values.
        keep_rest: the other attributes stay the same; otherwise they are drawn anew and may
            coincide or not.
    """
    result = dict(truth)
    for attribute, values in ATTRIBUTES.items():
        if attribute in change:
            result[attribute] = pick([v for v in values if v != truth[attribute]], rng)
        elif not keep_rest:
            result[attribute] = pick(values, rng)
    return result


def pick(options: Sequence[str], rng: np.random.Generator) -> str:
    """One of `options`, uniformly (`rng.choice` would turn strings into NumPy strings)."""
    return options[int(rng.integers(len(options)))]


def _background(rng: np.random.Generator) -> tuple[int, int, int]:
    """Light, dark or tinted: grey enough to stay apart from every shape colour."""
    kind = rng.integers(3)
    level = rng.uniform(*((200, 245), (10, 55), (80, 170))[kind])
    tint = rng.uniform(-22, 22, size=3) if kind == 2 else rng.uniform(-8, 8, size=3)
    red, green, blue = np.clip(level + tint, 0, 255).astype(int).tolist()
    return red, green, blue


def _draw_shape(
    draw: ImageDraw.ImageDraw,
    shape: str,
    center: tuple[int, int],
    color: tuple[int, ...],
    rng: np.random.Generator,
) -> None:
    x, y = (float(c + rng.uniform(-1, 1)) * _SCALE for c in center)
    r = float(rng.uniform(6.0, 7.5)) * _SCALE
    if shape == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=color)
    elif shape == "square":
        draw.rectangle((x - r, y - r, x + r, y + r), fill=color)
    elif shape == "triangle":
        draw.polygon([(x, y - r), (x + r, y + r), (x - r, y + r)], fill=color)
    else:
        arm = r * 0.35
        draw.rectangle((x - r, y - arm, x + r, y + arm), fill=color)
        draw.rectangle((x - arm, y - r, x + arm, y + r), fill=color)
