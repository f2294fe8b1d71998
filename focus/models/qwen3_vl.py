"""Qwen3-VL, dense and mixture of experts (`Qwen/Qwen3-VL-*-Instruct`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from transformers import PreTrainedModel, Qwen3VLProcessor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from focus.models.base import ImageFeatures
from focus.models.qwen_vision import AbstractQwenVision


class Qwen3VLImageProcessor(Qwen3VLProcessor):
    """`Qwen3VLProcessor` without the video half, which cannot be built without torchvision."""

    @classmethod
    def get_attributes(cls) -> list[str]:
        return ["image_processor", "tokenizer"]


@dataclass
class DeepstackOutput(BaseModelOutputWithPooling):
    """What the vision tower returns; the upstream class is not exported.

    Args:
        deepstack_features: per injected layer, one ``[tokens, hidden]`` tensor for each image.
    """

    deepstack_features: list[tuple[torch.Tensor, ...]] | None = None


@final
class Qwen3VL(AbstractQwenVision):
    """Vision features also enter the first decoder layers (DeepStack, arXiv 2406.04334)."""

    name = "qwen3_vl"
    model_types = ("qwen3_vl", "qwen3_vl_moe")
    processor_class = Qwen3VLImageProcessor

    def embedded(
        self, model: PreTrainedModel, input_ids: Tensor, features: Sequence[ImageFeatures]
    ) -> dict[str, Any]:
        inputs = super().embedded(model, input_ids, features)
        if features:
            layers = zip(*(each.deepstack for each in features), strict=True)
            inputs["deepstack_visual_embeds"] = [torch.cat(layer) for layer in layers]
            inputs["visual_pos_masks"] = self._shown(model, input_ids)
        return inputs

    def encoder_outputs(self, features: Sequence[ImageFeatures]) -> dict[str, Any]:
        # One tuple per injected layer, holding that layer's features of every image.
        deepstack = [tuple(layer) for layer in zip(*(f.deepstack for f in features), strict=True)]
        outputs = DeepstackOutput(
            pooler_output=tuple(feature.embeddings for feature in features),
            deepstack_features=deepstack,
        )
        return {"image": outputs}

    def split_encoder_outputs(
        self, outputs: Mapping[str, Any], num_tokens: Sequence[int]
    ) -> list[ImageFeatures]:
        image = outputs["image"]
        # Older versions of `transformers` give the features of all images as one tensor.
        per_layer: list[Sequence[torch.Tensor]] = [
            layer.split(list(num_tokens)) if isinstance(layer, Tensor) else layer
            for layer in image.deepstack_features
        ]
        return [
            ImageFeatures(embeddings, tuple(layer[k] for layer in per_layer))
            for k, embeddings in enumerate(image.pooler_output)
        ]
