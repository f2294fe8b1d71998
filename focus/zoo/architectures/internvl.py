"""InternVL3: InternViT tower, pixel shuffle, Qwen3 language model."""

from __future__ import annotations

from typing import Any, final

from torch import Tensor
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    PreTrainedModel,
    Qwen3Config,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from focus.models.internvl import InternVLImageProcessor
from focus.worlds.base import SIZE
from focus.zoo.architectures.base import AbstractArchitecture, Architecture
from focus.zoo.vocabulary import (
    IMAGE,
    IMAGE_END,
    IMAGE_START,
    VIDEO,
    build_tokenizer,
    chat_template,
)

#: As the real checkpoints write them, so that strategies find their delimiters.
_SPELLING = {IMAGE_START: "<img>", IMAGE_END: "</img>", IMAGE: "<IMG_CONTEXT>"}


@final
class InternVLArchitecture(AbstractArchitecture):
    """One tile per image; 2x2 patches become one token between two delimiters."""

    name = "internvl"

    def model(self, sizes: Architecture, ids: dict[str, int]) -> PreTrainedModel:
        config = InternVLConfig(
            vision_config=InternVLVisionConfig(**self.square_tower(sizes)),
            text_config=Qwen3Config(
                **self.text_config(sizes, ids), head_dim=sizes.hidden // sizes.heads
            ),
            image_token_id=ids[IMAGE],
            image_seq_length=self._tokens(sizes),
            tie_word_embeddings=True,
        )
        # `forward` would otherwise multiply scores by whatever attention kernel suits the machine.
        config._attn_implementation = "eager"
        return InternVLForConditionalGeneration(config)

    def processor(self, sizes: Architecture) -> InternVLImageProcessor:
        return InternVLImageProcessor(
            image_processor=GotOcr2ImageProcessorPil(
                size={"height": SIZE, "width": SIZE}, crop_to_patches=False
            ),
            tokenizer=build_tokenizer(
                _SPELLING,
                start_image_token=_SPELLING[IMAGE_START],
                end_image_token=_SPELLING[IMAGE_END],
                context_image_token=_SPELLING[IMAGE],
                video_token=VIDEO,
            ),
            image_seq_length=self._tokens(sizes),
            chat_template=chat_template(_SPELLING[IMAGE]),
        )

    def vision_kwargs(self, model: PreTrainedModel, pixels: Tensor, ids: Tensor) -> dict[str, Any]:
        return {"pixel_values": pixels}

    def _tokens(self, sizes: Architecture) -> int:
        return (SIZE // sizes.patch // self.merge) ** 2
