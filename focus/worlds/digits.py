"""Handwritten digits: real scans as coloured ink on a plain background.

The 1,797 scans of scikit-learn (8 x 8 pixels each, from the UCI data set of optical recognition of
handwritten digits) are split scan by scan, so a model is tested on handwriting it never saw.
"""

from __future__ import annotations

from functools import cache
from typing import ClassVar, final

import numpy as np
from PIL import Image

from focus.randomness import generator
from focus.worlds.base import SIZE, AbstractWorld, Truth
from focus.worlds.scenes import COLORS, background, shade, textured

_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
#: Where a class's scans are cut, as shares: train before the first, dev up to the second.
_CUTS = (0.6, 0.8)
_SIDES = (24, 28)  # least and greatest width of a digit, in pixels
#: Least Euclidean distance between ink and background in RGB: below, strokes sink into the ground.
_CONTRAST = 110.0


@final
class Digits(AbstractWorld):
    """40 truths: ten digits, four colours."""

    name = "digits"
    attributes: ClassVar[dict[str, tuple[str, ...]]] = {
        "digit": _WORDS,
        "color": ("red", "green", "blue", "purple"),
    }

    def caption(self, truth: Truth) -> str:
        """Colour before digit, as one says it.

        >>> Digits().caption({"digit": "seven", "color": "red"})
        'a red seven'
        """
        return f"a {truth['color']} {truth['digit']}"

    def view(
        self, truth: Truth, *, seed: int, split: str, index: int | str
    ) -> tuple[Image.Image, ...]:
        self.check(truth, split)
        rng = generator(seed, "digits", split, index)
        usable = scans(split, truth["digit"])
        scan = usable[int(rng.integers(len(usable)))]
        side = int(rng.integers(_SIDES[0], _SIDES[1] + 1))
        left, top = (int(p) for p in rng.integers(SIZE - side + 1, size=2))
        ink = shade(COLORS[truth["color"]], rng)
        ground = background(rng)
        while np.linalg.norm(np.subtract(ink, ground)) < _CONTRAST:
            ground = background(rng)
        canvas = Image.new("RGB", (SIZE, SIZE), ground)
        mask = _masks()[scan].resize((side, side), Image.Resampling.BICUBIC)
        canvas.paste(ink, (left, top), mask)
        return (textured(canvas, rng),)


@cache
def scans(split: str, digit: str) -> tuple[int, ...]:
    """Rows of `sklearn.datasets.load_digits` that a split may show of a digit.

    Each class is shuffled once (the rows are ordered by writer) under a key without a world seed:
    the scans are the same data for everybody.
    """
    _, labels = _data()
    rows = generator("digits", "scans", digit).permutation(
        np.flatnonzero(labels == _WORDS.index(digit))
    )
    train, dev = (round(share * len(rows)) for share in _CUTS)
    parts = {"train": rows[:train], "dev": rows[train:dev], "test": rows[dev:]}
    return tuple(int(row) for row in parts[split])


@cache
def _data() -> tuple[np.ndarray, np.ndarray]:
    """Scans [1797, 8, 8] from 0 (paper) to 16 (ink), and their digits [1797]."""
    from sklearn.datasets import load_digits  # takes a second, and other worlds do without

    bunch = load_digits()
    return bunch.images, bunch.target


@cache
def _masks() -> tuple[Image.Image, ...]:
    """Opacity of the ink. Full from 12 of 16 on, because thin strokes never reach 16."""
    opacity = np.clip(_data()[0] / 12.0, 0.0, 1.0) * 255.0
    return tuple(Image.fromarray(scan) for scan in opacity.astype(np.uint8))
