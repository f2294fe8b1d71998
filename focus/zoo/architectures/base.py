"""Sizes of an embedded model, and what every architecture must provide to build and train one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, ProcessorMixin

from focus.errors import InvalidValueError
from focus.randomness import key_to_seed
from focus.worlds.base import SIZE
from focus.zoo.vocabulary import END, PAD, token_ids

#: Longest prompt: two clips, or eight images, with a question and its answer.
MAX_LENGTH = 1024


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Family and sizes of an embedded model.

    Args:
        family: key of `focus.zoo.architectures.ARCHITECTURES`.
        hidden: width of the language model.
        layers: decoder layers.
        heads: attention heads; divides `hidden`.
        vision_hidden: width of the vision tower.
        vision_layers: encoder layers.
        vision_heads: attention heads of the tower; divides `vision_hidden`.
        patch: side of a vision patch in pixels.
        expansion: MLP width over hidden width, in both halves.
        initializer_range: standard deviation of the initial weights. The usual 0.02 leaves a model
            this small unable to learn comparisons of a word with an image for thousands of steps.
    """

    family: str = "internvl"
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
        if not 1 <= self.patch <= SIZE:
            raise InvalidValueError("patch", self.patch, f"from 1 to {SIZE}")


class AbstractArchitecture(ABC):
    """Builds a model of one family from its real configuration and model classes.

    Attributes:
        name: the family's name in `focus.models`.
        merge: patches in each direction that become one token of the language model.
    """

    name: ClassVar[str]
    merge: ClassVar[int] = 2

    @abstractmethod
    def model(self, sizes: Architecture, ids: dict[str, int]) -> PreTrainedModel:
        """Model with random weights, in float32."""

    @abstractmethod
    def processor(self, sizes: Architecture) -> ProcessorMixin:
        """Tokenizer, chat template and image processor for images of `SIZE` x `SIZE` pixels."""

    @abstractmethod
    def vision_kwargs(self, model: PreTrainedModel, pixels: Tensor, ids: Tensor) -> dict[str, Any]:
        """What `model.model` takes besides the token ids, for a whole batch at once.

        The same as the processor gives, without its cost per image.

        Args:
            pixels: ``[images, 3, SIZE, SIZE]``, normalised, in the order of their placeholders.
            ids: ``[batch, length]``.
        """

    def text_config(self, sizes: Architecture, ids: dict[str, int]) -> dict[str, Any]:
        """Settings that every language model of these families knows."""
        return {
            "vocab_size": len(ids),
            "hidden_size": sizes.hidden,
            "num_hidden_layers": sizes.layers,
            "num_attention_heads": sizes.heads,
            "num_key_value_heads": sizes.heads,
            "intermediate_size": sizes.expansion * sizes.hidden,
            "max_position_embeddings": MAX_LENGTH,
            "initializer_range": sizes.initializer_range,
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": ids[END],
            "pad_token_id": ids[PAD],
        }

    def square_tower(self, sizes: Architecture) -> dict[str, Any]:
        """Settings that every vision tower for images of one size knows."""
        return {
            "hidden_size": sizes.vision_hidden,
            "num_hidden_layers": sizes.vision_layers,
            "num_attention_heads": sizes.vision_heads,
            "intermediate_size": sizes.expansion * sizes.vision_hidden,
            "image_size": SIZE,
            "patch_size": sizes.patch,
            "initializer_range": sizes.initializer_range,
        }

    def check(self, sizes: Architecture) -> None:
        """Raise `InvalidValueError` unless the patches of an image can be merged."""
        if SIZE % (self.merge * sizes.patch):
            accepted = f"such that {self.merge} * patch divides {SIZE}"
            raise InvalidValueError("patch", sizes.patch, accepted)

    def build(self, sizes: Architecture, *, seed: int) -> PreTrainedModel:
        """Untrained model in float32; the global random state is left as it was."""
        self.check(sizes)
        ids = token_ids()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key_to_seed(seed, "initial weights") % 2**63)
            model = self.model(sizes, ids)
        model.generation_config = GenerationConfig(
            do_sample=False, max_new_tokens=8, eos_token_id=ids[END], pad_token_id=ids[PAD]
        )
        return model
