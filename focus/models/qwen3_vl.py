"""Qwen3-VL, dense and mixture of experts (`Qwen/Qwen3-VL-*-Instruct`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor
from transformers import PreTrainedModel, Qwen3VLProcessor

from focus.models.base import ImageFeatures
from focus.models.qwen_vision import AbstractQwenVision, split_by


class Qwen3VLImageProcessor(Qwen3VLProcessor):
    """`Qwen3VLProcessor` without the video half, which cannot be built without torchvision."""

    @classmethod
    def get_attributes(cls) -> list[str]:
        return ["image_processor", "tokenizer"]


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

    def _features(self, outputs: Any, num_tokens: Sequence[int]) -> list[ImageFeatures]:
        # Older versions of `transformers` give the deepstack features of all images as one tensor.
        per_layer = [split_by(num_tokens, layer) for layer in outputs.deepstack_features]
        return [
            ImageFeatures(embeddings, tuple(layer[k] for layer in per_layer))
            for k, embeddings in enumerate(split_by(num_tokens, outputs.pooler_output))
        ]
