"""Qwen2.5-VL (`Qwen/Qwen2.5-VL-*-Instruct`)."""

from __future__ import annotations

from typing import final

from transformers import Qwen2_5_VLProcessor

from focus.models.qwen_vision import AbstractQwenVision


class Qwen2_5_VLImageProcessor(Qwen2_5_VLProcessor):
    """`Qwen2_5_VLProcessor` without the video half, which cannot be built without torchvision."""

    @classmethod
    def get_attributes(cls) -> list[str]:
        return ["image_processor", "tokenizer"]


@final
class Qwen2_5_VL(AbstractQwenVision):
    """Dynamic resolution, window attention in the vision tower, M-RoPE in the language model."""

    name = "qwen2_5_vl"
    model_types = ("qwen2_5_vl",)
    processor_class = Qwen2_5_VLImageProcessor
