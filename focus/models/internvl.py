"""InternVL3 (`OpenGVLab/InternVL3-*-hf`) and the embedded models of the same architecture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, final

import torch
from PIL import Image
from transformers import InternVLProcessor, PreTrainedModel, ProcessorMixin

from focus.errors import InvalidValueError
from focus.models.base import AbstractFamily, ImageBudget, ImageFeatures, ImageInputs, input_device


class InternVLImageProcessor(InternVLProcessor):
    """`InternVLProcessor` without the video half, which cannot be built without torchvision.

    The parent class switches tiling on in its call, whatever the image processor's file says; here
    the image processor's own setting decides, which `InternVL.set_budget` switches on.
    """

    images_kwargs: ClassVar[dict[str, Any]] = {}

    @classmethod
    def get_attributes(cls) -> list[str]:
        return ["image_processor", "tokenizer"]

    @property
    def video_processor(self) -> None:
        return None


@final
class InternVL(AbstractFamily):
    """Each image is one or more square tiles of a fixed number of tokens (`max_patches`).

    Several tiles are followed by a thumbnail of the whole image.
    """

    name = "internvl"
    model_types = ("internvl",)
    processor_class = InternVLImageProcessor
    delimiters = ("<img>", "</img>")
    compact = ImageBudget(max_tiles=1)

    def set_budget(self, processor: ProcessorMixin, budget: ImageBudget) -> None:
        for name in ("min_pixels", "max_pixels"):
            if getattr(budget, name) is not None:
                accepted = f"left out for {self.name}, whose images are cut into square tiles"
                raise InvalidValueError(name, getattr(budget, name), accepted)
        settings = processor.image_processor
        settings.max_patches = budget.max_tiles or settings.max_patches
        settings.crop_to_patches = settings.max_patches > 1

    def image_inputs(self, processor: ProcessorMixin, image: Image.Image) -> ImageInputs:
        settings = {"crop_to_patches": self._tiles(processor)}
        tensors = processor.image_processor([image], return_tensors="pt", **settings)
        return self._arranged(processor, tensors["pixel_values"])

    def _arranged(self, processor: ProcessorMixin, planes: torch.Tensor) -> ImageInputs:
        num_tiles = len(planes)
        return ImageInputs(
            tensors={"pixel_values": planes},  # [tiles, 3, height, width]
            num_tokens=num_tiles * processor.image_seq_length,
            placeholder=processor.replace_image_token({"num_patches": [num_tiles]}, 0),
        )

    def _tiles(self, processor: ProcessorMixin) -> bool:
        """Whether images are tiled: as the call of an upstream processor has it, else our own."""
        own = processor.image_processor.crop_to_patches
        return bool(processor.images_kwargs.get("crop_to_patches", own))

    def model_kwargs(self, images: Sequence[ImageInputs]) -> dict[str, torch.Tensor]:
        return {"pixel_values": torch.cat([image.tensors["pixel_values"] for image in images])}

    def encode(self, model: PreTrainedModel, images: Sequence[ImageInputs]) -> list[ImageFeatures]:
        pixels = self.model_kwargs(images)["pixel_values"].to(input_device(model))
        outputs = model.get_image_features(pixels, return_dict=True)
        flat = outputs.pooler_output.flatten(0, 1)  # [tiles, tokens, hidden] -> rows
        return [ImageFeatures(part) for part in flat.split([i.num_tokens for i in images])]
