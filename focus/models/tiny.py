"""Tiny random models of every family, built in code from the real configuration classes.

They have no skill; they have every architectural feature that a decoding strategy can get wrong
(M-RoPE, DeepStack, tiles, adjacent images, mixture of experts, grouped-query attention), load
through the same classes as the real checkpoints, and need no network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
    SiglipVisionConfig,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import (
    LlavaOnevisionImageProcessorPil,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from focus.errors import UnknownNameError
from focus.models.internvl import InternVLImageProcessor
from focus.models.llava_onevision import LlavaOnevisionImageProcessor
from focus.models.loading import VisionLanguageModel, family_of
from focus.models.qwen2_5_vl import Qwen2_5_VLImageProcessor
from focus.models.qwen3_vl import Qwen3VLImageProcessor

SPECIAL_TOKENS = (
    *("<unk>", "<pad>", "<eos>", "<user>", "<assistant>"),
    *("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
    *("<img>", "</img>", "<IMG_CONTEXT>", "<image>", "<video>"),
)
WORDS = (
    *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789",
    *("first", "second", "third", "image", "which", "shows", "what", "colour", "is", "the", "in"),
    *("red", "green", "blue", "circle", "square", "unknown", "and", "?", ".", ":", ","),
)
VOCABULARY = {token: index for index, token in enumerate(SPECIAL_TOKENS + WORDS)}

#: Larger than the usual 0.02: with nearly constant logits a wrong cache would go unnoticed.
INITIALIZER_RANGE = 0.15
HIDDEN, VISION_HIDDEN, PATCH = 64, 32, 8

_TEXT = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": HIDDEN,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "initializer_range": INITIALIZER_RANGE,
    "bos_token_id": None,
    "eos_token_id": VOCABULARY["<eos>"],
    "pad_token_id": VOCABULARY["<pad>"],
    "tie_word_embeddings": False,
}
_MROPE = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10_000.0}


def _template(image: str) -> str:
    return (
        "{% for message in messages %}<{{ message.role }}> "
        "{% for part in message.content %}"
        "{% if part.type == 'image' %}" + image + "{% else %}{{ part.text }}{% endif %}"
        "{% endfor %} <eos> {% endfor %}{% if add_generation_prompt %}<assistant> {% endif %}"
    )


def _tokenizer(**extra: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        pad_token="<pad>",
        eos_token="<eos>",
        extra_special_tokens=extra,
    )


def _qwen_image_processor() -> Qwen2VLImageProcessorPil:
    return Qwen2VLImageProcessorPil(
        patch_size=PATCH,
        merge_size=2,
        size={"shortest_edge": (2 * PATCH) ** 2, "longest_edge": 64**2},
    )


def _qwen_ids() -> dict[str, int]:
    return {
        "image_token_id": VOCABULARY["<|image_pad|>"],
        "video_token_id": VOCABULARY["<|video_pad|>"],
        "vision_start_token_id": VOCABULARY["<|vision_start|>"],
        "vision_end_token_id": VOCABULARY["<|vision_end|>"],
    }


def _qwen2_5_vl() -> tuple[PreTrainedModel, Qwen2_5_VLImageProcessor]:
    config = Qwen2_5_VLConfig(
        text_config={**_TEXT, "rope_parameters": {**_MROPE}},
        vision_config={
            "depth": 3,
            "hidden_size": VISION_HIDDEN,
            "intermediate_size": 64,
            "num_heads": 4,
            "patch_size": PATCH,
            "spatial_merge_size": 2,
            "window_size": 4 * PATCH,
            "fullatt_block_indexes": [1],
            "out_hidden_size": HIDDEN,
            "initializer_range": INITIALIZER_RANGE,
        },
        tie_word_embeddings=False,
        **_qwen_ids(),
    )
    processor = Qwen2_5_VLImageProcessor(
        image_processor=_qwen_image_processor(),
        tokenizer=_tokenizer(),
        chat_template=_template("<|vision_start|><|image_pad|><|vision_end|>"),
    )
    return Qwen2_5_VLForConditionalGeneration(config), processor


def _qwen3_vision() -> dict:
    return {
        "depth": 3,
        "hidden_size": VISION_HIDDEN,
        "intermediate_size": 64,
        "num_heads": 4,
        "patch_size": PATCH,
        "spatial_merge_size": 2,
        "num_position_embeddings": 64,
        "out_hidden_size": HIDDEN,
        "deepstack_visual_indexes": [0, 1],
        "initializer_range": INITIALIZER_RANGE,
    }


def _qwen3_processor() -> Qwen3VLImageProcessor:
    return Qwen3VLImageProcessor(
        image_processor=_qwen_image_processor(),
        tokenizer=_tokenizer(),
        chat_template=_template("<|vision_start|><|image_pad|><|vision_end|>"),
    )


def _qwen3_vl() -> tuple[PreTrainedModel, Qwen3VLImageProcessor]:
    rope = {**_MROPE, "mrope_interleaved": True}
    config = Qwen3VLConfig(
        text_config={**_TEXT, "head_dim": 16, "rope_parameters": rope},
        vision_config=_qwen3_vision(),
        tie_word_embeddings=False,
        **_qwen_ids(),
    )
    return Qwen3VLForConditionalGeneration(config), _qwen3_processor()


def _qwen3_vl_moe() -> tuple[PreTrainedModel, Qwen3VLImageProcessor]:
    rope = {**_MROPE, "mrope_interleaved": True}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
    config = Qwen3VLMoeConfig(
        text_config={**_TEXT, "head_dim": 16, "rope_parameters": rope, **experts},
        vision_config=_qwen3_vision(),
        tie_word_embeddings=False,
        **_qwen_ids(),
    )
    return Qwen3VLMoeForConditionalGeneration(config), _qwen3_processor()


def _internvl() -> tuple[PreTrainedModel, InternVLImageProcessor]:
    size = 4 * PATCH
    config = InternVLConfig(
        vision_config=InternVLVisionConfig(
            hidden_size=VISION_HIDDEN,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=size,
            patch_size=PATCH,
            initializer_range=INITIALIZER_RANGE,
        ),
        text_config=Qwen2Config(**_TEXT),
        image_token_id=VOCABULARY["<IMG_CONTEXT>"],
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    processor = InternVLImageProcessor(
        image_processor=GotOcr2ImageProcessorPil(
            size={"height": size, "width": size}, crop_to_patches=True, max_patches=4
        ),
        tokenizer=_tokenizer(
            start_image_token="<img>",
            end_image_token="</img>",
            context_image_token="<IMG_CONTEXT>",
            video_token="<video>",
        ),
        image_seq_length=4,
        chat_template=_template("<IMG_CONTEXT>"),
    )
    return InternVLForConditionalGeneration(config), processor


def _llava_onevision() -> tuple[PreTrainedModel, LlavaOnevisionImageProcessor]:
    size = 4 * PATCH
    grid = [[size * rows, size * columns] for rows in (1, 2) for columns in (1, 2)]
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=VISION_HIDDEN,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=size,
            patch_size=PATCH,
            initializer_range=INITIALIZER_RANGE,
            vision_use_head=False,
        ),
        text_config=Qwen2Config(**_TEXT),
        image_token_id=VOCABULARY["<image>"],
        video_token_id=VOCABULARY["<video>"],
        image_grid_pinpoints=grid,
        initializer_range=INITIALIZER_RANGE,
        tie_word_embeddings=False,
    )
    processor = LlavaOnevisionImageProcessor(
        image_processor=LlavaOnevisionImageProcessorPil(
            size={"height": size, "width": size}, image_grid_pinpoints=grid
        ),
        tokenizer=_tokenizer(image_token="<image>", video_token="<video>"),
        num_image_tokens=(size // PATCH) ** 2,
        vision_feature_select_strategy="full",
        chat_template=_template("<image>"),
    )
    return LlavaOnevisionForConditionalGeneration(config), processor


BUILDERS: dict[str, Callable[[], tuple[PreTrainedModel, object]]] = {
    "internvl": _internvl,
    "llava_onevision": _llava_onevision,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "qwen3_vl_moe": _qwen3_vl_moe,
}


def build_tiny(architecture: str, *, seed: int = 0) -> VisionLanguageModel:
    """Random model (float32) and processor of an architecture; the global random state is kept.

    Raises:
        UnknownNameError: no builder for that architecture.
    """
    if architecture not in BUILDERS:
        raise UnknownNameError("architecture", architecture, BUILDERS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, processor = BUILDERS[architecture]()
    model.generation_config = GenerationConfig(
        eos_token_id=VOCABULARY["<eos>"], pad_token_id=VOCABULARY["<pad>"]
    )
    family = family_of(model.config.model_type)
    return VisionLanguageModel(model.eval(), processor, family, f"tiny-{architecture}")


@dataclass(frozen=True)
class TinyModel:
    """The same as a checkpoint of configuration files: `load` builds the model.

    Args:
        architecture: key of `BUILDERS`.
        seed: of the random weights.
    """

    architecture: str
    seed: int = 0

    def __post_init__(self) -> None:
        if self.architecture not in BUILDERS:
            raise UnknownNameError("architecture", self.architecture, BUILDERS)

    def load(self, *, weights: bool = True) -> VisionLanguageModel:
        """Builds the model, which is small enough to have its weights in any case."""
        return build_tiny(self.architecture, seed=self.seed)
