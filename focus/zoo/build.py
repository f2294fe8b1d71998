"""Model and processor of the embedded models, built from the real InternVL classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import (
    GenerationConfig,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    Qwen3Config,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from focus.errors import InvalidValueError
from focus.models.internvl import InternVLImageProcessor
from focus.randomness import key_to_seed
from focus.zoo.vocabulary import CHAT_TEMPLATE, END, IMAGE_CONTEXT, PAD, build_tokenizer, token_ids
from focus.zoo.world import SIZE


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Sizes of an embedded model.

    Args:
        hidden: width of the language model.
        layers: decoder layers.
        heads: attention heads; divides `hidden`.
        vision_hidden: width of the vision tower.
        vision_layers: encoder layers.
        vision_heads: attention heads of the tower; divides `vision_hidden`.
        patch: side of a vision patch in pixels; 2x2 patches become one token.
        expansion: MLP width over hidden width, in both halves.
        initializer_range: standard deviation of the initial weights. The usual 0.02 leaves a model
            this small unable to learn comparisons of a word with an image for thousands of steps.
    """

    hidden: int = 128
    layers: int = 4
    heads: int = 4
    vision_hidden: int = 96
    vision_layers: int = 2
    vision_heads: int = 4
    patch: int = 8
    expansion: int = 3
    initializer_range: float = 0.08

    def __post_init__(self) -> None:
        for name in ("hidden", "layers", "heads", "vision_hidden", "vision_layers", "expansion"):
            if getattr(self, name) < 1:
                raise InvalidValueError(name, getattr(self, name), "a positive integer")
        if self.hidden % self.heads:
            raise InvalidValueError("heads", self.heads, f"a divisor of hidden={self.hidden}")
        if self.vision_hidden % self.vision_heads:
            raise InvalidValueError(
                "vision_heads", self.vision_heads, f"a divisor of {self.vision_hidden}"
            )
        if self.patch < 1 or SIZE % (2 * self.patch):
            raise InvalidValueError("patch", self.patch, f"such that 2 * patch divides {SIZE}")

    @property
    def tokens_per_image(self) -> int:
        """Placeholder tokens that one image fills."""
        return (SIZE // self.patch // 2) ** 2


def build_model(architecture: Architecture, *, seed: int) -> InternVLForConditionalGeneration:
    """Untrained model in float32; the global random state is left as it was."""
    ids = token_ids()
    config = InternVLConfig(
        vision_config=InternVLVisionConfig(
            hidden_size=architecture.vision_hidden,
            num_hidden_layers=architecture.vision_layers,
            num_attention_heads=architecture.vision_heads,
            intermediate_size=architecture.expansion * architecture.vision_hidden,
            image_size=SIZE,
            patch_size=architecture.patch,
            initializer_range=architecture.initializer_range,
        ),
        text_config=Qwen3Config(
            vocab_size=len(ids),
            hidden_size=architecture.hidden,
            num_hidden_layers=architecture.layers,
            num_attention_heads=architecture.heads,
            num_key_value_heads=architecture.heads,
            head_dim=architecture.hidden // architecture.heads,
            intermediate_size=architecture.expansion * architecture.hidden,
            max_position_embeddings=512,
            initializer_range=architecture.initializer_range,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=ids[END],
            pad_token_id=ids[PAD],
        ),
        image_token_id=ids[IMAGE_CONTEXT],
        image_seq_length=architecture.tokens_per_image,
        tie_word_embeddings=True,
    )
    # `forward` would otherwise multiply scores by whatever attention kernel suits the machine.
    config._attn_implementation = "eager"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key_to_seed(seed, "initial weights") % 2**63)
        model = InternVLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=8, eos_token_id=ids[END], pad_token_id=ids[PAD]
    )
    return model


def build_processor(architecture: Architecture) -> InternVLImageProcessor:
    """Tokenizer, chat template and image processor for one tile of 32x32 pixels per image."""
    return InternVLImageProcessor(
        image_processor=GotOcr2ImageProcessorPil(
            size={"height": SIZE, "width": SIZE}, crop_to_patches=False
        ),
        tokenizer=build_tokenizer(),
        image_seq_length=architecture.tokens_per_image,
        chat_template=CHAT_TEMPLATE,
    )
