"""Short videos of one shape that moves, grows or shrinks and may change its colour.

Everything a clip says lies in the order of its frames: played backwards it has the opposite motion
and the colours the other way round, which makes the temporal minimal pairs of Vinoground.
"""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np
from PIL import Image, ImageDraw

from focus.randomness import generator
from focus.worlds.base import SIZE, AbstractWorld, Truth, pick
from focus.worlds.scenes import COLORS, background, draw_shape, shade

_COLORS = ("red", "green", "blue", "yellow")
_SHAPES = ("circle", "square", "triangle", "cross")
_REVERSED = {
    "rightward": "leftward",
    "leftward": "rightward",
    "downward": "upward",
    "upward": "downward",
    "appearing": "vanishing",
    "vanishing": "appearing",
}
_TIMELESS = ("appearing", "vanishing")  # at one place
#: Half-width of a shape that appears, at the first and the last frame. Never nothing: the colour
#: must be seen at both ends.
_GROWTH = (1.5, 7.0)
_SCALE = 4  # drawn larger and reduced, because PIL draws polygons without anti-aliasing


@final
class Clips(AbstractWorld):
    """96 truths: six motions, four colours at the start, four at the end."""

    name = "clips"
    attributes: ClassVar[dict[str, tuple[str, ...]]] = {
        "motion": tuple(_REVERSED),
        "start": _COLORS,
        "end": _COLORS,
    }
    frames = 8
    noun = "video"

    def caption(self, truth: Truth) -> str:
        """Telegraphic, with punctuation as words of its own.

        >>> Clips().caption({"motion": "rightward", "start": "red", "end": "blue"})
        'first red then blue , moving rightward'
        >>> Clips().caption({"motion": "appearing", "start": "red", "end": "blue"})
        'first red then blue , appearing'
        """
        motion = truth["motion"]
        how = motion if motion in _TIMELESS else f"moving {motion}"
        return f"first {truth['start']} then {truth['end']} , {how}"

    def counterpart(self, truth: Truth, attribute: str, rng: np.random.Generator) -> Truth:
        """What playing the clip backwards shows, as far as `attribute` tells.

        The opposite motion with the colours as they are; or the two colours swapped with the motion
        as it is. Equal colours cannot be swapped: then the one that is asked for changes.

        >>> red_to_blue = {"motion": "upward", "start": "red", "end": "blue"}
        >>> Clips().counterpart(red_to_blue, "start", np.random.default_rng(0))
        {'motion': 'upward', 'start': 'blue', 'end': 'red'}
        """
        if attribute == "motion":
            return {**truth, "motion": _REVERSED[truth["motion"]]}
        if truth["start"] != truth["end"]:
            return {**truth, "start": truth["end"], "end": truth["start"]}
        others = [color for color in _COLORS if color != truth[attribute]]
        return {**truth, attribute: pick(others, rng)}

    def view(
        self, truth: Truth, *, seed: int, split: str, index: int | str
    ) -> tuple[Image.Image, ...]:
        self.check(truth, split)
        rng = generator(seed, "clips", split, index)
        ground, shape = background(rng), pick(_SHAPES, rng)
        # The same shade for both colours, so that nothing changes where none is said to change.
        start, end = (
            shade(COLORS[truth[when]], generator(seed, "clips", split, index, "shade"))
            for when in ("start", "end")
        )
        frames = []
        for i, (center, half_width) in enumerate(_path(truth["motion"], self.frames, rng)):
            canvas = Image.new("RGB", (SIZE * _SCALE, SIZE * _SCALE), ground)
            color = start if i < self.frames // 2 else end
            draw_shape(ImageDraw.Draw(canvas), shape, center, half_width, color, _SCALE)
            frames.append(np.asarray(canvas.reduce(_SCALE), dtype=np.float32))
        return _with_grain(np.stack(frames), rng)


def _path(
    motion: str, num_frames: int, rng: np.random.Generator
) -> list[tuple[tuple[float, float], float]]:
    """Center and half-width in every frame; with equal `rng`, of opposite motions the reverse."""
    half_width = float(rng.uniform(4.0, 6.0))
    first, last = half_width + rng.uniform(0, 2), SIZE - half_width - rng.uniform(0, 2)
    lateral = float(rng.uniform(half_width, SIZE - half_width))
    x, y = (float(c) for c in rng.uniform(8, SIZE - 8, size=2))
    if motion in _TIMELESS:
        path = [((x, y), float(r)) for r in np.linspace(*_GROWTH, num_frames)]
    else:
        way = [float(p) for p in np.linspace(first, last, num_frames)]
        if motion in ("rightward", "leftward"):
            path = [((p, lateral), half_width) for p in way]
        else:
            path = [((lateral, p), half_width) for p in way]
    return path if motion in ("rightward", "downward", "appearing") else path[::-1]


def _with_grain(pixels: np.ndarray, rng: np.random.Generator) -> tuple[Image.Image, ...]:
    """Frames [frames, size, size, 3] as images: grain anew in each, its strength one per clip."""
    grain = rng.normal(0.0, rng.uniform(2.0, 5.0), size=pixels.shape)
    noisy = np.clip(pixels + grain, 0, 255).astype(np.uint8)
    return tuple(Image.fromarray(frame) for frame in noisy)
