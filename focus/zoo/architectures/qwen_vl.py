"""Qwen2.5-VL and Qwen3-VL: dynamic resolution towers, multimodal rotary positions."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, final

import torch
from torch import Tensor
from transformers import (
    PreTrainedModel,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from focus.models.qwen2_5_vl import Qwen2_5_VLImageProcessor
from focus.models.qwen3_vl import Qwen3VLImageProcessor
from focus.worlds.base import SIZE
from focus.zoo.architectures.attention import BLOCKS
from focus.zoo.architectures.base import AbstractArchitecture, Architecture
from focus.zoo.vocabulary import (
    IMAGE,
    IMAGE_END,
    IMAGE_START,
    VIDEO,
    build_tokenizer,
    chat_template,
)

#: Frames that one patch spans; an image is repeated to fill it.
_TEMPORAL = 2


class AbstractQwenVL(AbstractArchitecture):
    """Images as sequences of patches, 2x2 of which become one token."""

    def vision_kwargs(self, model: PreTrainedModel, pixels: Tensor, ids: Tensor) -> dict[str, Any]:
        vision = model.config.vision_config
        side, merge = SIZE // vision.patch_size, vision.spatial_merge_size
        grid = torch.tensor([[1, side, side]]).expand(len(pixels), 3)
        return {
            "pixel_values": patches(pixels, vision.patch_size, merge),
            "image_grid_thw": grid,
            "position_ids": positions(
                ids, model.config.image_token_id, side // merge, side // merge
            ),
        }

    def processor(self, sizes: Architecture) -> ProcessorMixin:
        return self.processor_class(
            image_processor=Qwen2VLImageProcessorPil(
                patch_size=sizes.patch,
                merge_size=self.merge,
                temporal_patch_size=_TEMPORAL,
                size={"shortest_edge": SIZE**2, "longest_edge": SIZE**2},
            ),
            tokenizer=build_tokenizer(),
            chat_template=chat_template(IMAGE_START + IMAGE + IMAGE_END),
        )

    @property
    @abstractmethod
    def processor_class(self) -> type[ProcessorMixin]:
        """Processor of `focus.models`."""

    def vision_config(self, sizes: Architecture) -> dict[str, Any]:
        """What both towers have in common."""
        return {
            "depth": sizes.vision_layers,
            "hidden_size": sizes.vision_hidden,
            "intermediate_size": sizes.expansion * sizes.vision_hidden,
            "num_heads": sizes.vision_heads,
            "patch_size": sizes.patch,
            "temporal_patch_size": _TEMPORAL,
            "spatial_merge_size": self.merge,
            "out_hidden_size": sizes.hidden,
            "initializer_range": sizes.initializer_range,
        }

    def rope(self, sizes: Architecture) -> dict[str, Any]:
        """Rotary frequencies of a head, shared out to time, height and width as in Qwen-VL."""
        pairs = sizes.hidden // sizes.heads // 2
        time = pairs // 4
        height = (pairs - time) // 2
        return {
            "rope_type": "default",
            "mrope_section": [time, height, pairs - time - height],
            "rope_theta": 10_000.0,
        }


@final
class Qwen2_5_VLArchitecture(AbstractQwenVL):
    """Windows in the tower, all but one layer; Qwen2 language model."""

    name = "qwen2_5_vl"

    @property
    def processor_class(self) -> type[ProcessorMixin]:
        return Qwen2_5_VLImageProcessor

    def model(self, sizes: Architecture, ids: dict[str, int]) -> PreTrainedModel:
        config = Qwen2_5_VLConfig(
            text_config={**self.text_config(sizes, ids), "rope_parameters": self.rope(sizes)},
            vision_config={
                **self.vision_config(sizes),
                "window_size": SIZE,
                "fullatt_block_indexes": [sizes.vision_layers - 1],
            },
            tie_word_embeddings=True,
            **_ids(ids),
        )
        return _eager(Qwen2_5_VLForConditionalGeneration(config))


@final
class Qwen3VLArchitecture(AbstractQwenVL):
    """DeepStack: features of the first tower layer also enter the first decoder layer."""

    name = "qwen3_vl"

    @property
    def processor_class(self) -> type[ProcessorMixin]:
        return Qwen3VLImageProcessor

    def model(self, sizes: Architecture, ids: dict[str, int]) -> PreTrainedModel:
        config = Qwen3VLConfig(
            text_config={
                **self.text_config(sizes, ids),
                "head_dim": sizes.hidden // sizes.heads,
                "rope_parameters": {**self.rope(sizes), "mrope_interleaved": True},
            },
            vision_config={
                **self.vision_config(sizes),
                "num_position_embeddings": (SIZE // sizes.patch) ** 2,
                "deepstack_visual_indexes": [0],
            },
            tie_word_embeddings=True,
            **_ids(ids),
        )
        return _eager(Qwen3VLForConditionalGeneration(config))


def patches(pixels: Tensor, patch: int, merge: int) -> Tensor:
    """Images as the rows of patches that the image processor makes of them.

    Args:
        pixels: ``[images, 3, height, width]``.
        patch: side of a patch in pixels.
        merge: patches in each direction that are merged later and so stand together here.

    Returns:
        ``[images * patches, 3 * temporal * patch * patch]``.
    """
    count, channels, height, width = pixels.shape
    rows, columns = height // patch // merge, width // patch // merge
    parts = pixels.reshape(count, channels, rows, merge, patch, columns, merge, patch)
    parts = parts.permute(0, 2, 5, 3, 6, 1, 4, 7)  # image, block, patch in block, channel, pixels
    parts = parts[..., None, :, :].expand(*parts.shape[:-2], _TEMPORAL, patch, patch)
    return parts.reshape(count * rows * merge * columns * merge, -1)


def positions(ids: Tensor, image_token: int, height: int, width: int) -> Tensor:
    """Multimodal rotary positions of prompts whose images are all of one size.

    Text counts on by one; an image spreads over height and width and then counts on by its longer
    side. The same as `get_rope_index`, without its loop over samples.

    Args:
        ids: ``[batch, length]``; images are runs of ``height * width`` times `image_token`.
        image_token: id of the placeholder.
        height: rows of tokens in an image.
        width: columns of tokens in an image.

    Returns:
        ``[3, batch, length]``: time, height, width.
    """
    is_image = ids == image_token
    size = height * width
    ordinal = is_image.long().cumsum(1) - 1  # of each image token among those of its row
    within = ordinal % size
    first = is_image & (within == 0)
    # An image moves the count on by its longer side, at its first token.
    advance = torch.where(is_image, first.long() * max(height, width), 1)
    after = advance.cumsum(1)
    start = after - torch.where(is_image, max(height, width), 1)
    zero = torch.zeros_like(within)
    row = torch.where(is_image, within // width, zero)
    column = torch.where(is_image, within % width, zero)
    return torch.stack([start, start + row, start + column])


def _ids(ids: dict[str, int]) -> dict[str, int]:
    return {
        "image_token_id": ids[IMAGE],
        "video_token_id": ids[VIDEO],
        "vision_start_token_id": ids[IMAGE_START],
        "vision_end_token_id": ids[IMAGE_END],
    }


def _eager(model: PreTrainedModel) -> PreTrainedModel:
    model.set_attn_implementation({"": "eager", "text_config": "eager", "vision_config": BLOCKS})
    return model
