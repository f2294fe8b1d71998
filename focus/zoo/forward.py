"""Questions to tensors and through a model, without the processor's cost per image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from focus.models.loading import family_of
from focus.zoo.architectures import ARCHITECTURES, AbstractArchitecture
from focus.zoo.bank import normalised
from focus.zoo.encoding import Encoder, build_encoder


@dataclass(frozen=True)
class Frontend:
    """What stands between questions and an embedded model.

    Args:
        architecture: knows the model's vision arguments.
        encoder: from words to ids.
        mean: of the image processor.
        std: of the image processor.
        pad: id of the padding token.
    """

    architecture: AbstractArchitecture
    encoder: Encoder
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pad: int

    @classmethod
    def of(cls, model: PreTrainedModel, processor: ProcessorMixin) -> Frontend:
        """Frontend of an embedded model."""
        family = family_of(model.config.model_type)
        return cls(
            ARCHITECTURES[family.name],
            build_encoder(processor, family),
            tuple(processor.image_processor.image_mean),
            tuple(processor.image_processor.image_std),
            processor.tokenizer.pad_token_id,
        )

    def hidden_states(
        self,
        model: PreTrainedModel,
        sequences: Sequence[Sequence[int]],
        pixels: np.ndarray,
        shown: Sequence[int] | None = None,
    ) -> Tensor:
        """Last hidden states ``[batch, length, hidden]``.

        Args:
            model: on any device.
            sequences: token ids of each sample.
            pixels: ``[images, SIZE, SIZE, 3]``, 8 bit: of all samples in order, or those of
                `shown`.
            shown: which of `pixels` is each image of all samples in order, where some are shown
                several times; every one of `pixels` is encoded once.
        """
        # Padding on the right needs no mask: with causal attention no real token can see it.
        ids = torch.full((len(sequences), max(map(len, sequences))), self.pad)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = torch.tensor(sequence)
        on_device = self._vision_kwargs(model, pixels, ids)
        if shown is not None:
            on_device = self._encoded_once(model, on_device, shown)
        return model.model(
            input_ids=ids.to(model.device), use_cache=False, **on_device
        ).last_hidden_state

    def image_kwargs(
        self, model: PreTrainedModel, pixels: np.ndarray, ids: Tensor
    ) -> dict[str, Tensor]:
        """Images as `model.generate` takes them, which knows positions by itself.

        Args:
            model: on any device.
            pixels: ``[images, SIZE, SIZE, 3]``, 8 bit: of all samples in order.
            ids: ``[batch, length]``.
        """
        kwargs = self._vision_kwargs(model, pixels, ids)
        return {name: value for name, value in kwargs.items() if name != "position_ids"}

    def _vision_kwargs(
        self, model: PreTrainedModel, pixels: np.ndarray, ids: Tensor
    ) -> dict[str, Tensor]:
        kwargs = self.architecture.vision_kwargs(
            model, normalised(pixels, self.mean, self.std), ids
        )
        return {name: value.to(model.device) for name, value in kwargs.items()}

    def _encoded_once(
        self, model: PreTrainedModel, kwargs: dict[str, Tensor], shown: Sequence[int]
    ) -> dict[str, Any]:
        """`kwargs` with the features of all images in place of the pixels of the different ones."""
        text = {"position_ids": kwargs.pop("position_ids")} if "position_ids" in kwargs else {}
        family = family_of(model.config.model_type)
        outputs = {"image": model.get_image_features(**kwargs, return_dict=True)}
        tokens = self.encoder.image.count(model.config.image_token_id)
        features = family.split_encoder_outputs(outputs, [tokens] * (max(shown) + 1))
        return {
            **text,
            "mm_encoder_outputs": family.encoder_outputs([features[i] for i in shown]),
        }
