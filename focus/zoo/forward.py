"""Questions to tensors and through a model, without the processor's cost per image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    ) -> Tensor:
        """Last hidden states ``[batch, length, hidden]``.

        Args:
            model: on any device.
            sequences: token ids of each sample.
            pixels: ``[images, SIZE, SIZE, 3]``, 8 bit: of all samples in order.
        """
        # Padding on the right needs no mask: with causal attention no real token can see it.
        ids = torch.full((len(sequences), max(map(len, sequences))), self.pad)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = torch.tensor(sequence)
        kwargs = self.architecture.vision_kwargs(
            model, normalised(pixels, self.mean, self.std), ids
        )
        on_device = {name: value.to(model.device) for name, value in kwargs.items()}
        return model.model(
            input_ids=ids.to(model.device), use_cache=False, **on_device
        ).last_hidden_state
