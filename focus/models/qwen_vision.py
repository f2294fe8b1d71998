"""What the Qwen-VL families share: dynamic resolution and multimodal rotary positions."""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from focus.errors import InvalidValueError
from focus.models.base import AbstractFamily, ImageBudget, ImageFeatures, ImageInputs, input_device


class AbstractQwenVision(AbstractFamily):
    """Images keep their aspect ratio; their token count follows from their size in pixels."""

    delimiters = ("<|vision_start|>", "<|vision_end|>")
    multimodal_positions = True
    compact = ImageBudget(max_pixels=512**2)

    def set_budget(self, processor: ProcessorMixin, budget: ImageBudget) -> None:
        if budget.max_tiles is not None:
            raise InvalidValueError(
                "max_tiles", budget.max_tiles, f"left out for {self.name}, which has no tiles"
            )
        size = dict(processor.image_processor.size)
        size["shortest_edge"] = budget.min_pixels or size["shortest_edge"]
        size["longest_edge"] = budget.max_pixels or size["longest_edge"]
        if size["shortest_edge"] > size["longest_edge"]:
            name = "min_pixels" if budget.min_pixels else "max_pixels"
            accepted = (
                f"such that min_pixels ({size['shortest_edge']}) is at most max_pixels "
                f"({size['longest_edge']}); set both"
            )
            raise InvalidValueError(name, getattr(budget, name), accepted)
        processor.image_processor.size = size

    def named_budget(self, processor: ProcessorMixin, name: str) -> ImageBudget:
        budget = super().named_budget(processor, name)
        own = processor.image_processor.size["longest_edge"]
        return replace(budget, max_pixels=min(budget.max_pixels or own, own))  # never more than own

    def _planes(self, processor: ProcessorMixin, inputs: ImageInputs) -> Tensor:
        settings = processor.image_processor
        _, rows, columns = (int(n) for n in inputs.tensors["image_grid_thw"][0])
        merge, patch = settings.merge_size, settings.patch_size
        # Patches stand in blocks that are merged later; a still image fills all frames of a patch.
        blocks = inputs.tensors["pixel_values"].reshape(
            rows // merge, columns // merge, merge, merge, 3, -1, patch, patch
        )[:, :, :, :, :, 0]
        plane = blocks.permute(4, 0, 2, 5, 1, 3, 6)
        return plane.reshape(1, 3, rows * patch, columns * patch)

    def _arranged(self, processor: ProcessorMixin, planes: Tensor) -> ImageInputs:
        settings = processor.image_processor
        merge, patch = settings.merge_size, settings.patch_size
        rows, columns = planes.shape[-2] // patch, planes.shape[-1] // patch
        blocks = planes[0].reshape(
            3, rows // merge, merge, patch, columns // merge, merge, patch
        ).permute(1, 4, 2, 5, 0, 3, 6)  # fmt: skip
        patches = blocks[:, :, :, :, :, None].expand(
            *blocks.shape[:5], settings.temporal_patch_size, patch, patch
        )
        grid = torch.tensor([[1, rows, columns]])
        return self._filled(processor, patches.reshape(rows * columns, -1), grid)

    def image_inputs(self, processor: ProcessorMixin, image: Image.Image) -> ImageInputs:
        tensors = processor.image_processor(image, return_tensors="pt")
        return self._filled(processor, tensors["pixel_values"], tensors["image_grid_thw"])

    def _filled(self, processor: ProcessorMixin, patches: Tensor, grid: Tensor) -> ImageInputs:
        """One image of a grid ``[1, 3]``: patches in time, height and width."""
        merge = processor.image_processor.merge_size
        num_tokens, placeholder = _placeholder(processor, tuple(grid[0].tolist()), merge)
        return ImageInputs(
            {"pixel_values": patches, "image_grid_thw": grid}, num_tokens, placeholder
        )

    def layout(self, inputs: ImageInputs) -> Hashable:
        return inputs.placeholder, tuple(inputs.tensors["image_grid_thw"][0].tolist())

    def model_kwargs(self, images: Sequence[ImageInputs]) -> dict[str, Tensor]:
        return {
            name: torch.cat([image.tensors[name] for image in images])
            for name in ("pixel_values", "image_grid_thw")
        }

    def text_kwargs(self, model: PreTrainedModel, input_ids: Tensor) -> dict[str, Tensor]:
        return {"mm_token_type_ids": (input_ids == self.image_token_id(model)).int()}

    def position_ids(
        self, model: PreTrainedModel, input_ids: Tensor, images: Sequence[ImageInputs]
    ) -> Tensor:
        grid = torch.cat([image.tensors["image_grid_thw"] for image in images])
        positions, _ = model.model.get_rope_index(
            input_ids,
            mm_token_type_ids=self.text_kwargs(model, input_ids)["mm_token_type_ids"],
            image_grid_thw=grid.to(input_ids.device),
        )
        return positions  # [3, 1, length]

    def encode(self, model: PreTrainedModel, images: Sequence[ImageInputs]) -> list[ImageFeatures]:
        pixels = {k: v.to(input_device(model)) for k, v in self.model_kwargs(images).items()}
        pixels["image_grid_thw"] = as_frames(pixels["image_grid_thw"])
        outputs = model.get_image_features(**pixels, return_dict=True)
        return self._features(outputs, [image.num_tokens for image in images])

    def _features(self, outputs: Any, num_tokens: Sequence[int]) -> list[ImageFeatures]:
        """Features of each image, out of those of all."""
        return [ImageFeatures(part) for part in split_by(num_tokens, outputs.pooler_output)]


def as_frames(grids: Tensor) -> Tensor:
    """Images of one size in a row as frames of one video: ``[images, 3]`` to ``[videos, 3]``.

    Frames do not attend to each other either, so that it is the same to the vision tower, which
    works out positions and windows of each entry by itself.

    >>> as_frames(torch.tensor([[1, 4, 6], [1, 4, 6], [1, 2, 2]])).tolist()
    [[2, 4, 6], [1, 2, 2]]
    """
    sizes, numbers = grids.unique_consecutive(dim=0, return_counts=True)
    return torch.stack([sizes[:, 0] * numbers, sizes[:, 1], sizes[:, 2]], dim=1)


def split_by(num_tokens: Sequence[int], features: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    """Features ``[tokens, hidden]`` of each image, of one tensor or of several in a row."""
    whole = features if isinstance(features, Tensor) else torch.cat(list(features))
    return whole.split(list(num_tokens))


@functools.lru_cache(maxsize=256)
def _placeholder(processor: ProcessorMixin, grid: tuple[int, ...], merge: int) -> tuple[int, str]:
    """Number of tokens that an image of a grid fills, and the text that stands for them."""
    text = processor.replace_image_token({"image_grid_thw": torch.tensor([grid])}, 0)
    return math.prod(grid) // merge**2, text
