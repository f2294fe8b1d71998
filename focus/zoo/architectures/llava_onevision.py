"""LLaVA-OneVision: SigLIP tower, MLP projector, Qwen2 language model."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedModel,
    Qwen2Config,
    SiglipVisionConfig,
)
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)

from focus.models.llava_onevision import LlavaOnevisionImageProcessor
from focus.worlds.base import SIZE
from focus.zoo.architectures.base import AbstractArchitecture, Architecture
from focus.zoo.vocabulary import IMAGE, VIDEO, build_tokenizer, chat_template


@final
class LlavaOnevisionArchitecture(AbstractArchitecture):
    """One tile per image and the learned newline that closes it; every patch is a token."""

    name = "llava_onevision"
    merge = 1

    def check(self, sizes: Architecture) -> None:
        """Any patch will do: what is left over at the right and the bottom stays unseen."""

    def model(self, sizes: Architecture, ids: dict[str, int]) -> PreTrainedModel:
        config = LlavaOnevisionConfig(
            vision_config=SiglipVisionConfig(**self.square_tower(sizes), vision_use_head=False),
            text_config=Qwen2Config(**self.text_config(sizes, ids)),
            image_token_id=ids[IMAGE],
            video_token_id=ids[VIDEO],
            image_grid_pinpoints=[[SIZE, SIZE]],
            initializer_range=sizes.initializer_range,
            tie_word_embeddings=True,
        )
        config._attn_implementation = "eager"
        return LlavaOnevisionForConditionalGeneration(config)

    def processor(self, sizes: Architecture) -> LlavaOnevisionImageProcessor:
        return LlavaOnevisionImageProcessor(
            image_processor=LlavaOnevisionImageProcessorPil(
                size={"height": SIZE, "width": SIZE}, image_grid_pinpoints=[[SIZE, SIZE]]
            ),
            tokenizer=build_tokenizer(image_token=IMAGE, video_token=VIDEO),
            num_image_tokens=(SIZE // sizes.patch) ** 2,
            vision_feature_select_strategy="full",
            chat_template=chat_template(IMAGE),
        )

    def vision_kwargs(self, model: PreTrainedModel, pixels: Tensor, ids: Tensor) -> dict[str, Any]:
        count = len(pixels)
        return {
            "pixel_values": pixels[:, None],  # [images, 1 tile, 3, height, width]
            "image_sizes": torch.full((count, 2), SIZE),
            # As if of one sample: a sample with a single image would get anyres tiles.
            "batch_num_images": torch.tensor([max(2, count)]),
        }
