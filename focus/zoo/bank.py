"""Pre-rendered training images: drawing them anew in every step would cost more than the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from focus.errors import InvalidValueError
from focus.noise import NOISE_TYPES, noise_image
from focus.randomness import generator
from focus.worlds import world_of
from focus.worlds.base import SIZE, AbstractWorld, Truth

#: Noise that a model sees in training: the published types that hide the image completely.
NOISE_NAMES = tuple(
    name for name, kind in NOISE_TYPES.items() if kind.published and not kind.content_dependent
)
#: Mild corruption, as photographs in any data set have; the image remains readable.
CORRUPTIONS = ("shot-corrected", "speckle-corrected", "impulse-corrected")


@dataclass(frozen=True)
class ImageBank:
    """Views of every truth of some worlds, and noise images, as pixels.

    Args:
        pixels: ``[images, SIZE, SIZE, 3]``, 8 bit: worlds one after another, each ordered by
            truth, view and frame; noise images last.
        starts: first image of each world.
        per_truth: views of each truth, by world.
        num_views: images that are not noise.
    """

    pixels: np.ndarray
    starts: Mapping[str, int]
    per_truth: Mapping[str, int]
    num_views: int

    def draw(self, world: AbstractWorld, truth: Truth, rng: np.random.Generator) -> tuple[int, ...]:
        """Rows of a random view that shows `truth`, one per frame."""
        count = self.per_truth[world.name]
        view = _rows(world)[_key(truth)] * count + int(rng.integers(count))
        start = self.starts[world.name] + view * world.frames
        return tuple(range(start, start + world.frames))

    def noise(self, world: AbstractWorld, rng: np.random.Generator) -> tuple[int, ...]:
        """Rows of random noise images in place of a view, one per frame."""
        drawn = rng.integers(self.num_views, len(self.pixels), size=world.frames)
        return tuple(int(row) for row in drawn)


def build_bank(
    per_truth: Mapping[str, int],
    *,
    seed: int,
    split: str = "train",
    noise_images: int = 2000,
    corrupted: float = 0.0,
    progress: bool = False,
) -> ImageBank:
    """Renders views of one split.

    Args:
        per_truth: views of each truth, by name of the world.
        seed: of every view.
        split: "train", or "dev" to see how training goes.
        noise_images: types of `NOISE_NAMES` take turns.
        corrupted: share of the views with mild noise of one of `CORRUPTIONS`.
        progress: show a progress bar.

    Raises:
        UnknownNameError: no such world.
        InvalidValueError: a count below 1.
    """
    for name, count in {**per_truth, "noise_images": noise_images}.items():
        if count < 1:
            raise InvalidValueError(name, count, "a positive number of images")
    images: list[Image.Image] = []
    starts = {}
    total = sum(len(world_of(name).truths) * count for name, count in per_truth.items())
    with tqdm(total=total, desc="drawing", unit="view", disable=not progress) as bar:
        for name, count in per_truth.items():
            world, starts[name] = world_of(name), len(images)
            for row, truth in enumerate(world.truths):
                for i in range(count):
                    view = world.view(truth, seed=seed, split=split, index=f"{row}-{i}")
                    rng = generator(seed, "corruption", name, row, i)
                    if rng.random() < corrupted:
                        view = corrupt(view, rng)
                    images += view
                    bar.update()
    num_views = len(images)
    blank = Image.new("RGB", (SIZE, SIZE))
    images += [
        noise_image(NOISE_NAMES[i % len(NOISE_NAMES)], blank, generator(seed, f"{split} noise", i))
        for i in range(noise_images)
    ]
    return ImageBank(stack(images), starts, dict(per_truth), num_views)


def corrupt(view: Sequence[Image.Image], rng: np.random.Generator) -> tuple[Image.Image, ...]:
    """The same view as a worse camera would have taken it."""
    name = CORRUPTIONS[int(rng.integers(len(CORRUPTIONS)))]
    return tuple(noise_image(name, frame, rng, severity=1) for frame in view)


def normalised(pixels: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """What an image processor makes of images that already have its size.

    Args:
        pixels: ``[images, height, width, 3]``, 8 bit.
        mean: of the red, green and blue channel, in [0, 1].
        std: of the same.

    Returns:
        ``[images, 3, height, width]``, float32.
    """
    unit = torch.from_numpy(pixels).float() / 255
    return ((unit - torch.tensor(mean)) / torch.tensor(std)).permute(0, 3, 1, 2).contiguous()


def stack(images: Sequence[Image.Image]) -> np.ndarray:
    """Images as ``[images, height, width, 3]``, 8 bit."""
    return np.stack([np.asarray(image) for image in images])


def _key(truth: Truth) -> tuple[str, ...]:
    return tuple(truth[attribute] for attribute in sorted(truth))


@cache
def _rows(world: AbstractWorld) -> dict[tuple[str, ...], int]:
    """Place of each truth in `world.truths`."""
    return {_key(truth): row for row, truth in enumerate(world.truths)}
