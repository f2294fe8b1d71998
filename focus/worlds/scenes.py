"""Drawn scenes: one to three equal shapes of one colour at one place of a plain background.

The four attributes are the four kinds of minimal change in VisMin: attribute (color), object
(shape), spatial relation (place) and counting (count).
"""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np
from PIL import Image, ImageDraw

from focus.randomness import generator
from focus.worlds.base import SIZE, AbstractWorld, Truth

#: Colours that stay apart from each other and from every background.
COLORS = {
    "red": (220, 40, 40),
    "green": (40, 165, 60),
    "blue": (45, 75, 225),
    "yellow": (235, 205, 40),
    "purple": (155, 55, 190),
    "cyan": (50, 205, 215),
}
_CENTERS = {"top": (16, 9), "bottom": (16, 23), "left": (9, 16), "right": (23, 16)}  # x, y
_COUNTS = {"one": 1, "two": 2, "three": 3}
#: By count: least and greatest half-width of a shape, and distance between neighbours, in pixels.
_SIZES = {1: (6.0, 7.5, 0.0), 2: (5.0, 5.8, 13.0), 3: (4.1, 4.6, 10.2)}
_SCALE = 4  # drawn larger and reduced, because PIL draws polygons without anti-aliasing


@final
class Scenes(AbstractWorld):
    """288 truths: six colours, four shapes, four places, three counts."""

    name = "scenes"
    attributes: ClassVar[dict[str, tuple[str, ...]]] = {
        "color": tuple(COLORS),
        "shape": ("circle", "square", "triangle", "cross"),
        "place": tuple(_CENTERS),
        "count": tuple(_COUNTS),
    }

    def caption(self, truth: Truth) -> str:
        """Telegraphic, so that every value is one word.

        >>> Scenes().caption({"color": "red", "shape": "circle", "place": "top", "count": "two"})
        'two red circle at the top'
        """
        return f"{truth['count']} {truth['color']} {truth['shape']} at the {truth['place']}"

    def view(
        self, truth: Truth, *, seed: int, split: str, index: int | str
    ) -> tuple[Image.Image, ...]:
        self.check(truth, split)
        rng = generator(seed, "scene", split, index)
        canvas = Image.new("RGB", (SIZE * _SCALE, SIZE * _SCALE), background(rng))
        color = shade(COLORS[truth["color"]], rng)
        count = _COUNTS[truth["count"]]
        low, high, distance = _SIZES[count]
        half_width = float(rng.uniform(low, high))
        center_x, center_y = (c + rng.uniform(-1, 1) for c in _CENTERS[truth["place"]])
        horizontal = truth["place"] in ("top", "bottom")
        for i in range(count):
            offset = (i - (count - 1) / 2) * distance
            center = (center_x + offset, center_y) if horizontal else (center_x, center_y + offset)
            draw_shape(ImageDraw.Draw(canvas), truth["shape"], center, half_width, color)
        return (textured(canvas, rng),)


def background(rng: np.random.Generator) -> tuple[int, int, int]:
    """Light, dark or tinted: grey enough to stay apart from every shape colour."""
    kind = rng.integers(3)
    level = rng.uniform(*((200, 245), (10, 55), (80, 170))[kind])
    tint = rng.uniform(-22, 22, size=3) if kind == 2 else rng.uniform(-8, 8, size=3)
    red, green, blue = np.clip(level + tint, 0, 255).astype(int).tolist()
    return red, green, blue


def shade(color: tuple[int, int, int], rng: np.random.Generator) -> tuple[int, ...]:
    """A colour a little off, as paint and light vary."""
    jitter = rng.integers(-12, 13, size=3)
    return tuple(int(c) for c in np.clip(np.add(color, jitter), 0, 255))


def textured(canvas: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A canvas reduced to `SIZE` x `SIZE` pixels, with grain."""
    pixels = np.asarray(canvas.reduce(canvas.width // SIZE), dtype=np.float32)
    grain = rng.normal(0.0, rng.uniform(2.0, 5.0), size=pixels.shape)
    return Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8))


def draw_shape(
    draw: ImageDraw.ImageDraw,
    shape: str,
    center: tuple[float, float],
    half_width: float,
    color: tuple[int, ...],
    scale: int = _SCALE,
) -> None:
    """Draws one shape; `center` and `half_width` in pixels of the reduced image."""
    x, y, r = center[0] * scale, center[1] * scale, half_width * scale
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
