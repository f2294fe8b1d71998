"""Images that several passes of one answer show are processed and encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from focus.models.base import AbstractFamily, ImageFeatures, ImageInputs
from focus.models.loading import VisionLanguageModel


class RememberingFamily:
    """A family that remembers the images it has seen; for the passes of ONE request.

    It knows an image by its identity, so the request's images are recognised and noise, which is
    drawn as a new image each time, never is. Exact: the features are the same tensors.

    Args:
        family: does the work, and everything that is not about encoding images.
    """

    def __init__(self, family: AbstractFamily) -> None:
        self._family = family
        # Beside each result stands what its key is the id of: an id is free again once its object
        # is gone.
        self._inputs: dict[int, tuple[Image.Image, ImageInputs]] = {}
        self._features: dict[int, tuple[ImageInputs, ImageFeatures]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._family, name)

    def image_inputs(self, processor: ProcessorMixin, image: Image.Image) -> ImageInputs:
        if id(image) not in self._inputs:
            self._inputs[id(image)] = (image, self._family.image_inputs(processor, image))
        return self._inputs[id(image)][1]

    def encode(self, model: PreTrainedModel, images: Sequence[ImageInputs]) -> list[ImageFeatures]:
        new = list({id(i): i for i in images if id(i) not in self._features}.values())
        if new:
            encoded = self._family.encode(model, new)
            self._features |= {
                id(i): (i, features) for i, features in zip(new, encoded, strict=True)
            }
        return [self._features[id(image)][1] for image in images]


def remembering(vlm: VisionLanguageModel) -> VisionLanguageModel:
    """The same model with a family that remembers."""
    return replace(vlm, family=cast(AbstractFamily, RememberingFamily(vlm.family)))
