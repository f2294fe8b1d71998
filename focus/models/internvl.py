"""InternVL3 (`OpenGVLab/InternVL3-*-hf`) and the embedded models of the same architecture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from PIL import Image
from transformers import InternVLProcessor, PreTrainedModel, ProcessorMixin
from transformers.modeling_outputs import BaseModelOutputWithPooling

from focus.errors import InvalidValueError
from focus.models.base import AbstractFamily, ImageBudget, ImageFeatures, ImageInputs


class InternVLImageProcessor(InternVLProcessor):
    """`InternVLProcessor` without the video half, which cannot be built without torchvision.

    The tiling (`crop_to_patches`, `max_patches`) is the image processor's own setting here; the
    parent class would switch it on silently in some calls and not in others.
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
    """Each image is one or more square tiles of a fixed number of tokens (`max_patches`)."""

    name = "internvl"
    model_types = ("internvl",)
    processor_class = InternVLImageProcessor
    delimiters = ("<img>", "</img>")

    def set_budget(self, processor: ProcessorMixin, budget: ImageBudget) -> None:
        for name in ("min_pixels", "max_pixels"):
            if getattr(budget, name) is not None:
                accepted = f"left out for {self.name}, whose images are cut into square tiles"
                raise InvalidValueError(name, getattr(budget, name), accepted)
        if budget.max_tiles is not None:
            processor.image_processor.crop_to_patches = budget.max_tiles > 1
            processor.image_processor.max_patches = budget.max_tiles

    def image_inputs(self, processor: ProcessorMixin, image: Image.Image) -> ImageInputs:
        tensors = processor.image_processor(image, return_tensors="pt")
        num_tiles = int(tensors["num_patches"][0])
        return ImageInputs(
            tensors={"pixel_values": tensors["pixel_values"]},  # [tiles, 3, height, width]
            num_tokens=num_tiles * processor.image_seq_length,
            placeholder=processor.replace_image_token({"num_patches": [num_tiles]}, 0),
        )

    def model_kwargs(self, images: Sequence[ImageInputs]) -> dict[str, torch.Tensor]:
        return {"pixel_values": torch.cat([image.tensors["pixel_values"] for image in images])}

    def encode(self, model: PreTrainedModel, images: Sequence[ImageInputs]) -> list[ImageFeatures]:
        pixels = self.model_kwargs(images)["pixel_values"].to(model.device)
        outputs = model.get_image_features(pixels, return_dict=True)
        return self.split_encoder_outputs(
            {"image": outputs}, [image.num_tokens for image in images]
        )

    def encoder_outputs(self, features: Sequence[ImageFeatures]) -> dict[str, Any]:
        stacked = torch.cat([feature.embeddings for feature in features])[None]
        return {"image": BaseModelOutputWithPooling(pooler_output=stacked)}

    def split_encoder_outputs(
        self, outputs: Mapping[str, Any], num_tokens: Sequence[int]
    ) -> list[ImageFeatures]:
        flat = outputs["image"].pooler_output.flatten(0, 1)  # [tiles, tokens, hidden] -> rows
        return [ImageFeatures(part) for part in flat.split(list(num_tokens))]
