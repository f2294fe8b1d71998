"""LLaVA-OneVision (`llava-hf/llava-onevision-qwen2-*-ov-hf`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from PIL import Image
from torch import Tensor
from transformers import LlavaOnevisionProcessor, PreTrainedModel, ProcessorMixin

from focus.errors import InvalidValueError
from focus.models.base import AbstractFamily, ImageBudget, ImageFeatures, ImageInputs, input_device


class LlavaOnevisionImageProcessor(LlavaOnevisionProcessor):
    """`LlavaOnevisionProcessor` without the video half, always in multi-image mode.

    The upstream processor gives a lone image many tiles (anyres) and each of several images one.
    A strategy that shows the model one image of three would then spend more tokens on it than
    plain decoding does, and the comparison would measure resolution. Here every image is one tile
    and one newline token, however many there are.
    """

    @classmethod
    def get_attributes(cls) -> list[str]:
        return ["image_processor", "tokenizer"]

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs: Any) -> str:
        return self.image_token * self.tokens_per_image

    @property
    def tokens_per_image(self) -> int:
        newline = 1
        dropped_class_token = int(self.vision_feature_select_strategy == "default")
        return self.num_image_tokens + newline - dropped_class_token


class LlavaOnevision(AbstractFamily):
    """One square tile per image, followed by the `image_newline` embedding that closes it."""

    name = "llava_onevision"
    model_types = ("llava_onevision",)
    processor_class = LlavaOnevisionImageProcessor
    delimiters = ("", "")  # the learned newline is a feature, not a token

    def set_budget(self, processor: ProcessorMixin, budget: ImageBudget) -> None:
        for name, value in vars(budget).items():
            if value is not None:
                accepted = f"left out for {self.name}, which gives every image one tile"
                raise InvalidValueError(name, value, accepted)

    def flat(self) -> AbstractFamily:
        return LlavaOnevisionAnyRes()

    def image_inputs(self, processor: ProcessorMixin, image: Image.Image) -> ImageInputs:
        # A nested list of at least two images selects multi-image mode; the second is thrown away.
        partner = Image.new("RGB", (1, 1))
        tensors = processor.image_processor([[image, partner]], return_tensors="pt")
        return self._one_tile(processor, tensors["pixel_values"][:1], tensors["image_sizes"][:1])

    def _arranged(self, processor: ProcessorMixin, planes: Tensor) -> ImageInputs:
        size = torch.tensor([planes.shape[-2:]])
        return self._one_tile(processor, planes[None], size)

    def _one_tile(self, processor: ProcessorMixin, pixels: Tensor, size: Tensor) -> ImageInputs:
        """One image, ``[1, 1, 3, height, width]``, of some size before it was scaled."""
        return ImageInputs(
            tensors={"pixel_values": pixels, "image_sizes": size},
            num_tokens=processor.tokens_per_image,
            placeholder=processor.replace_image_token({}, 0),
        )

    def model_kwargs(self, images: Sequence[ImageInputs]) -> dict[str, Tensor]:
        kwargs = {
            name: torch.cat([image.tensors[name] for image in images])
            for name in ("pixel_values", "image_sizes")
        }
        # The number of images in the sample they belong to; 1 would ask for anyres tiles.
        return {**kwargs, "batch_num_images": torch.tensor([max(2, len(images))])}

    def encode(self, model: PreTrainedModel, images: Sequence[ImageInputs]) -> list[ImageFeatures]:
        pixels = {k: v.to(input_device(model)) for k, v in self.model_kwargs(images).items()}
        pixels["pixel_values"] = pixels["pixel_values"].to(model.dtype)
        outputs = model.get_image_features(**pixels, return_dict=True)
        return [ImageFeatures(part) for part in outputs.pooler_output]


@final
class LlavaOnevisionAnyRes(LlavaOnevision):
    """Every image in any-resolution tiles, as the upstream processor treats a flat list of images.

    The published code hands plain decoding such a list and FOCUS a nested one, so that its
    comparison is also one of resolution: 3,699 tokens against 730 for 512 x 512.
    """

    def image_inputs(self, processor: ProcessorMixin, image: Image.Image) -> ImageInputs:
        tensors = processor.image_processor([image], return_tensors="pt")
        height, width = (int(side) for side in tensors["image_sizes"][0])
        tile = processor.image_processor.size["height"]
        # The processor's own count, as its call makes it: tiles, newlines and the whole image.
        num_tokens = processor._get_number_of_features(height, width, tile, tile)
        num_tokens -= int(processor.vision_feature_select_strategy == "default")
        return ImageInputs(
            tensors={name: tensors[name] for name in ("pixel_values", "image_sizes")},
            num_tokens=num_tokens,
            placeholder=processor.image_token * num_tokens,
        )

    def model_kwargs(self, images: Sequence[ImageInputs]) -> dict[str, Tensor]:
        tiles = [image.tensors["pixel_values"][0] for image in images]
        most = max(len(each) for each in tiles)
        padded = [torch.cat([t, t.new_zeros(most - len(t), *t.shape[1:])]) for t in tiles]
        return {
            "pixel_values": torch.stack(padded),
            "image_sizes": torch.cat([image.tensors["image_sizes"] for image in images]),
            "batch_num_images": torch.ones(len(images), dtype=torch.long),
        }
