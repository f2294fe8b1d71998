"""Pre-rendered training images: drawing them anew in every step would cost more than the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from focus.errors import InvalidValueError
from focus.noise import NOISE_TYPES, noise_image
from focus.randomness import generator
from focus.zoo.world import SIZE, TRUTHS, Truth, scene

#: Noise that a model sees in training: the published types that hide the image completely.
NOISE_NAMES = tuple(
    name for name, kind in NOISE_TYPES.items() if kind.published and not kind.content_dependent
)
#: Stands for "any noise image" where a truth is expected.
NOISE: Truth = {}


@dataclass(frozen=True)
class ImageBank:
    """Scenes of every truth and noise images, as pixels.

    Args:
        pixels: ``[images, height, width, 3]``, 8 bit; scenes ordered by truth, then noise.
        per_truth: scenes of each truth.
    """

    pixels: np.ndarray
    per_truth: int

    def draw(self, truth: Truth, rng: np.random.Generator) -> int:
        """Row of a random scene that shows `truth`, or of a noise image for `NOISE`."""
        scenes = self.per_truth * len(TRUTHS)
        if not truth:
            return scenes + int(rng.integers(len(self.pixels) - scenes))
        return _ROW[_key(truth)] * self.per_truth + int(rng.integers(self.per_truth))


def build_bank(*, seed: int, per_truth: int = 100, noise_images: int = 2000) -> ImageBank:
    """Renders the training split (a few seconds for 10,000 images)."""
    if per_truth < 1 or noise_images < 1:
        raise InvalidValueError("per_truth, noise_images", (per_truth, noise_images), "positive")
    blank = Image.new("RGB", (SIZE, SIZE))
    images = [
        scene(truth, seed=seed, split="train", index=f"{row}-{i}")
        for row, truth in enumerate(TRUTHS)
        for i in range(per_truth)
    ]
    images += [
        noise_image(NOISE_NAMES[i % len(NOISE_NAMES)], blank, generator(seed, "training noise", i))
        for i in range(noise_images)
    ]
    return ImageBank(np.stack([np.asarray(image) for image in images]), per_truth)


def normalised(pixels: np.ndarray, processor: GotOcr2ImageProcessorPil) -> Tensor:
    """What the image processor makes of images that already have its size.

    Args:
        pixels: ``[images, height, width, 3]``, 8 bit.
        processor: gives mean and standard deviation.

    Returns:
        ``[images, 3, height, width]``, float32.
    """
    mean, std = torch.tensor(processor.image_mean), torch.tensor(processor.image_std)
    unit = torch.from_numpy(pixels).float() * processor.rescale_factor
    return ((unit - mean) / std).permute(0, 3, 1, 2).contiguous()


def _key(truth: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(truth[attribute] for attribute in TRUTHS[0])


_ROW: dict[tuple[str, ...], int] = {_key(truth): row for row, truth in enumerate(TRUTHS)}


def stack(images: Sequence[Image.Image]) -> np.ndarray:
    """Images as ``[images, height, width, 3]``, 8 bit."""
    return np.stack([np.asarray(image) for image in images])
