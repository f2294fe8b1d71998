"""Crops of the photographs that scikit-image ships, medical, of the sky, textures and everyday.

A photograph is cut into a grid of blocks; each block belongs to one split and each crop lies wholly
in one block, so no pixel is ever in two splits.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, final

import numpy as np
from PIL import Image

from focus.randomness import generator
from focus.worlds.base import SIZE, AbstractWorld, Truth, pick

Region = tuple[int, int, int, int]  # top, left, bottom, right: pixels of the photograph


@dataclass(frozen=True)
class _Photo:
    """One photograph and the part of it that shows its subject.

    Attributes:
        domain: part of the world.
        source: function of `skimage.data` that loads it from the installed package.
        box: what is used of it; the whole where every part shows the subject.
        rows, columns: blocks of the grid. Where only the whole thing is recognised, the blocks are
            strips across all of it, which a view shows compressed.
    """

    domain: str
    source: str
    box: Region
    rows: int = 5
    columns: int = 5


_PHOTOS = {
    "retina": _Photo("medical", "retina", (205, 205, 1205, 1205), 8, 8),  # within the round field
    "tissue": _Photo("medical", "immunohistochemistry", (0, 0, 512, 512), 8, 8),
    "vessels": _Photo("medical", "microaneurysms", (0, 0, 102, 102), 1, 10),  # across the vessels
    "cell": _Photo("medical", "cell", (303, 327, 443, 527), 10, 1),  # the cell and its dark rim
    "galaxy": _Photo("astronomy", "hubble_deep_field", (0, 0, 872, 1000)),
    "moon": _Photo("astronomy", "moon", (0, 0, 512, 512), 8, 8),
    "brick": _Photo("texture", "brick", (0, 0, 512, 512)),
    "grass": _Photo("texture", "grass", (0, 0, 512, 512)),
    "gravel": _Photo("texture", "gravel", (0, 0, 512, 512)),
    "coffee": _Photo("everyday", "coffee", (13, 110, 385, 450), 1, 10),  # cup on saucer
    "cat": _Photo("everyday", "cat", (0, 90, 270, 370), 1, 10),  # the face
    "astronaut": _Photo("everyday", "astronaut", (20, 130, 440, 320), 1, 10),  # head and suit
    "rocket": _Photo("everyday", "rocket", (140, 240, 400, 400), 10, 1),  # across the rocket
    "motorcycle": _Photo("everyday", "stereo_motorcycle", (80, 150, 445, 630), 1, 10),
    "coins": _Photo("everyday", "coins", (10, 10, 303, 384), 4, 6),  # a coin in each block
    "clock": _Photo("everyday", "clock", (80, 145, 230, 280), 1, 10),  # across the dial
    "page": _Photo("everyday", "page", (45, 0, 122, 384), 2, 10),  # the paragraph
}
#: Split of block (row, column) by (row + 2 * column) % 5: in each run of five blocks three, one and
#: one, and those to be recognised lie between those learned from.
_SPLITS = ("train", "dev", "train", "test", "train")
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)
_LIGHT = {"bright": 170.0, "dark": 70.0}  # mean luminance of a view, up to `_JITTER`
_JITTER = 12.0
#: Standard deviation of a view's luminance is brought into this range: below it a smooth surface
#: shows nothing, above it no shift makes a view bright or dark as a whole.
_CONTRAST = (22.0, 48.0)
_LEAST_SIDE = 0.65  # of the block's; at most all of it


@final
class Photos(AbstractWorld):
    """34 truths: seventeen subjects, two kinds of light."""

    name = "photos"
    attributes: ClassVar[dict[str, tuple[str, ...]]] = {
        "subject": tuple(_PHOTOS),
        "light": tuple(_LIGHT),
    }

    def caption(self, truth: Truth) -> str:
        """Light before subject.

        >>> Photos().caption({"subject": "coffee", "light": "dark"})
        'a dark photo of coffee'
        """
        return f"a {truth['light']} photo of {truth['subject']}"

    def domain(self, truth: Truth) -> str:
        """Medical, astronomy, texture or everyday."""
        return _PHOTOS[truth["subject"]].domain

    def view(
        self, truth: Truth, *, seed: int, split: str, index: int | str
    ) -> tuple[Image.Image, ...]:
        self.check(truth, split)
        rng = generator(seed, "photos", split, index)
        top, left, bottom, right = pick(regions(split, truth["subject"]), rng)
        share = rng.uniform(_LEAST_SIDE, 1.0)
        height, width = round(share * (bottom - top)), round(share * (right - left))
        y = top + int(rng.integers(bottom - top - height + 1))
        x = left + int(rng.integers(right - left - width + 1))
        # Cropped before it is resized: `resize(box=...)` would let its filter see past the crop.
        crop = Image.fromarray(photo(truth["subject"])[y : y + height, x : x + width])
        pixels = np.asarray(crop.resize((SIZE, SIZE), Image.Resampling.LANCZOS), dtype=np.float32)
        if rng.integers(2):
            pixels = pixels[:, ::-1]
        return (_lit(pixels, _LIGHT[truth["light"]] + rng.uniform(-_JITTER, _JITTER)),)


@cache
def regions(split: str, subject: str) -> tuple[Region, ...]:
    """The blocks of a photograph that belong to a split."""
    kind = _PHOTOS[subject]
    top, left, bottom, right = kind.box
    rows = [top + (bottom - top) * i // kind.rows for i in range(kind.rows + 1)]
    columns = [left + (right - left) * i // kind.columns for i in range(kind.columns + 1)]
    return tuple(
        (rows[r], columns[c], rows[r + 1], columns[c + 1])
        for r, c in itertools.product(range(kind.rows), range(kind.columns))
        if _SPLITS[(r + 2 * c) % len(_SPLITS)] == split
    )


@cache
def photo(subject: str) -> np.ndarray:
    """The whole photograph of a subject, [height, width, 3] of type uint8."""
    import skimage.data  # takes a second, and other worlds do without

    loaded = getattr(skimage.data, _PHOTOS[subject].source)()
    pixels = loaded[0] if isinstance(loaded, tuple) else loaded  # of a stereo pair the left one
    return np.asarray(Image.fromarray(pixels).convert("RGB"))


def _lit(pixels: np.ndarray, mean: float) -> Image.Image:
    """Pixels at a mean luminance, their contrast scaled no more than `_CONTRAST` asks.

    Colour fades with the light but is not amplified: a shift alone would turn dark red into glare.
    """
    luminance = pixels @ _LUMINANCE
    spread = float(luminance.std())
    gain = np.clip(spread, *_CONTRAST) / max(spread, 1e-3)
    tint = (pixels - luminance[..., None]) * min(1.0, mean / float(luminance.mean()))
    pixels = (luminance - luminance.mean())[..., None] * gain + tint
    shift = mean
    for _ in range(3):  # clipping moves the mean: aim a little further
        shown = np.clip(pixels + shift, 0, 255)
        shift += mean - float((shown @ _LUMINANCE).mean())
    return Image.fromarray(shown.astype(np.uint8))
