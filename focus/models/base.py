"""What the rest of the package needs to know of a model family, and nothing more.

A family says how an image becomes pixel tensors and a number of tokens, how features of single
images are encoded and handed back to the language model, where the images of a prompt lie, which
tokens delimit them, and where the decoder layers are. Everything else is the same for all.
"""

from __future__ import annotations

import functools
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedModel, ProcessorMixin

from focus.checks import Positive, check_fields
from focus.errors import PromptError


@dataclass(frozen=True)
class ImageInputs:
    """One image as the vision tower takes it.

    Args:
        tensors: what the image processor returns for this image alone, by the processor's names.
        num_tokens: placeholder tokens that the image fills in the prompt.
        placeholder: the text that replaces the image token of the chat template.
    """

    tensors: Mapping[str, Tensor]
    num_tokens: int
    placeholder: str

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    @functools.cached_property
    def key(self) -> str:
        """Equal for images that the vision tower cannot tell apart, and for no others."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.tensors.items()):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
            digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()


@dataclass(frozen=True)
class ImageFeatures:
    """One image as the language model takes it.

    Args:
        embeddings: ``[tokens, hidden]``, scattered onto the placeholder tokens.
        deepstack: per injected decoder layer ``[tokens, hidden]`` (Qwen3-VL only, else empty).
    """

    embeddings: Tensor
    deepstack: tuple[Tensor, ...] = ()


#: Values of a channel of a pixel.
LEVELS = 256
#: Where those of each channel begin in a table of all.
CHANNELS = LEVELS * np.arange(3)[:, None, None]

#: Named budgets. ``checkpoint`` keeps the checkpoint's own settings. ``published`` does too, and
#: squares the images of the benchmarks that the published code resizes (MuirBench and MIRB).
#: ``compact`` is a fraction of that, for small memories, see `AbstractFamily.compact`.
BUDGETS = ("checkpoint", "published", "compact")


@dataclass(frozen=True)
class ImageBudget:
    """How much of the context one image may take; None keeps the checkpoint's own setting.

    Args:
        min_pixels: smallest size that images are scaled up to (Qwen).
        max_pixels: largest size that images are scaled down to (Qwen).
        max_tiles: largest number of tiles an image is cut into, 1 for no tiling (InternVL).
    """

    min_pixels: Positive | None = None
    max_pixels: Positive | None = None
    max_tiles: Positive | None = None

    def __str__(self) -> str:
        """The numbers that are set, such as ``max_pixels=262144``."""
        return ", ".join(f"{k}={v}" for k, v in vars(self).items() if v is not None) or "checkpoint"

    def __post_init__(self) -> None:
        check_fields(self)


def input_device(model: PreTrainedModel) -> torch.device:
    """Where the embeddings take their ids; a part that is kept on disk is there only while used."""
    embeddings = model.get_input_embeddings()
    device = getattr(getattr(embeddings, "_hf_hook", None), "execution_device", None)
    device = embeddings.weight.device if device is None else torch.device(device)
    # A model without weights only helps to make prompts, which need to be somewhere.
    return torch.device("cpu") if device.type == "meta" else device


class AbstractFamily(ABC):
    """Interface of one model family; the implementations are final and hold no state."""

    name: ClassVar[str]
    #: `config.model_type` of the checkpoints that this family serves.
    model_types: ClassVar[tuple[str, ...]]
    #: Processor without the video half, so that it also builds where torchvision is missing.
    processor_class: ClassVar[type[ProcessorMixin]]
    #: Text tokens that open and close one image in the prompt ("" where there is none).
    delimiters: ClassVar[tuple[str, str]]
    #: Whether positions have three axes (M-RoPE: time, height, width).
    multimodal_positions: ClassVar[bool] = False
    #: Budget of that name: images of a few hundred tokens; see `named_budget`.
    compact: ClassVar[ImageBudget] = ImageBudget()

    @abstractmethod
    def image_inputs(self, processor: ProcessorMixin, image: Image.Image) -> ImageInputs:
        """Pixel tensors and token count of one RGB image, at the processor's pixel budget."""

    def views(self, processor: ProcessorMixin, inputs: ImageInputs) -> tuple[Image.Image, ...]:
        """The image as the vision tower sees it, in 8 bit: whole, or its tiles and thumbnail."""
        levels = self._grey(processor, self._planes(processor, inputs))
        pixels = levels.round().clamp(0, 255).byte().movedim(1, -1).numpy()
        return tuple(Image.fromarray(each) for each in pixels)

    def view_inputs(self, processor: ProcessorMixin, views: Sequence[Image.Image]) -> ImageInputs:
        """Inverse of `views`: what the vision tower takes, with nothing resized or cut any more.

        The arithmetic of the image processors, without their cost per call, which for noise would
        be most of the time that small images take.
        """
        scale = processor.image_processor
        normal = _normalised(scale.rescale_factor, (*scale.image_mean,), (*scale.image_std,))
        levels = np.stack([np.asarray(view) for view in views])
        planes = normal.take(np.moveaxis(levels, -1, 1) + CHANNELS)
        return self._arranged(processor, torch.from_numpy(planes))

    @abstractmethod
    def _arranged(self, processor: ProcessorMixin, planes: Tensor) -> ImageInputs:
        """Inverse of `_planes`: normalised pixels as the vision tower takes them."""

    def grey_moments(self, processor: ProcessorMixin, inputs: ImageInputs) -> tuple[float, float]:
        """Mean of the pixels as the vision tower gets them, in grey levels (0..255), and their
        variance within a channel, since the channels differ in their means."""
        scale, planes = processor.image_processor, self._planes(processor, inputs).float()
        channels = planes.transpose(0, 1).flatten(1).numpy()  # [3, pixels]
        mean, std = np.array(scale.image_mean), np.array(scale.image_std)
        means = channels.mean(axis=1, dtype=np.float64) * std + mean
        variances = channels.var(axis=1, dtype=np.float64) * std**2
        return (float(means.mean() / scale.rescale_factor),
                float(variances.mean() / scale.rescale_factor**2))  # fmt: skip

    def _grey(self, processor: ProcessorMixin, planes: Tensor) -> Tensor:
        """Grey levels of normalised pixels."""
        scale = processor.image_processor
        mean, std = (
            torch.tensor(values)[:, None, None] for values in (scale.image_mean, scale.image_std)
        )
        return (planes.float() * std + mean) / scale.rescale_factor

    def _planes(self, processor: ProcessorMixin, inputs: ImageInputs) -> Tensor:
        """Normalised pixels ``[views, 3, height, width]``."""
        return inputs.tensors["pixel_values"].flatten(0, -4)

    def flat(self) -> AbstractFamily:
        """This family where images come as one flat list, as the published plain decoding has it.

        Only LLaVA-OneVision treats them otherwise: with any-resolution tiles.
        """
        return self

    @abstractmethod
    def model_kwargs(self, images: Sequence[ImageInputs]) -> dict[str, Tensor]:
        """Pixel arguments for the model's own `forward` or `generate`, images in prompt order."""

    @abstractmethod
    def encode(self, model: PreTrainedModel, images: Sequence[ImageInputs]) -> list[ImageFeatures]:
        """Features of each image, in one call of the vision tower."""

    def layout(self, inputs: ImageInputs) -> Hashable:
        """All that a prompt's ids and positions depend on in an image."""
        return inputs.placeholder

    def embedded(
        self, model: PreTrainedModel, input_ids: Tensor, features: Sequence[ImageFeatures]
    ) -> dict[str, Any]:
        """What the language model takes for some tokens and the images among them.

        Args:
            model: has the embeddings.
            input_ids: ``[rows, length]``.
            features: of all images, row by row; one for each placeholder token.
        """
        embeddings = model.get_input_embeddings()(input_ids)
        if features:
            shown = self._shown(model, input_ids).to(embeddings.device)
            stacked = torch.cat([each.embeddings for each in features]).to(embeddings)
            embeddings = embeddings.masked_scatter(shown[..., None], stacked)
        return {"inputs_embeds": embeddings}

    def _shown(self, model: PreTrainedModel, input_ids: Tensor) -> Tensor:
        """Which tokens are placeholders of images."""
        return input_ids == self.image_token_id(model)

    @abstractmethod
    def set_budget(self, processor: ProcessorMixin, budget: ImageBudget) -> None:
        """Applies a budget to the processor; raises for a setting that the family does not have."""

    def named_budget(self, processor: ProcessorMixin, name: str) -> ImageBudget:
        """The numbers behind one of `BUDGETS`."""
        return self.compact if name == "compact" else ImageBudget()

    def text_kwargs(self, model: PreTrainedModel, input_ids: Tensor) -> dict[str, Tensor]:
        """Further arguments that the model's own `forward` needs beside ids and pixels."""
        return {}

    def position_ids(
        self, model: PreTrainedModel, input_ids: Tensor, images: Sequence[ImageInputs]
    ) -> Tensor:
        """Positions of the whole prompt.

        Returns:
            ``[1, length]``, or ``[3, 1, length]`` for families with multimodal rotary positions.
        """
        return torch.arange(input_ids.shape[1], device=input_ids.device)[None]

    def decoder_layers(self, model: PreTrainedModel) -> nn.ModuleList:
        """Decoder layers of the language model, first to last (for probes and interventions)."""
        return model.model.language_model.layers

    def final_norm(self, model: PreTrainedModel) -> nn.Module:
        """Norm between the last decoder layer and the output embeddings."""
        return model.model.language_model.norm

    def context_length(self, model: PreTrainedModel) -> int:
        """Largest number of positions that the language model was configured for."""
        return int(model.config.get_text_config().max_position_embeddings)

    def image_token_id(self, model: PreTrainedModel) -> int:
        """Id of the placeholder token onto which features are scattered."""
        return int(model.config.image_token_id)

    def image_spans(
        self, model: PreTrainedModel, input_ids: Tensor, num_tokens: Sequence[int]
    ) -> list[tuple[int, int]]:
        """Half-open token ranges of the images in a prompt.

        Adjacent images without a delimiter share one run of placeholders, so lengths come from
        the images and not from the runs.

        Args:
            model: gives the id of the placeholder token.
            input_ids: ``[length]``.
            num_tokens: placeholder tokens of each image, in prompt order.

        Returns:
            One ``(start, end)`` per image; ``input_ids[start:end]`` is all placeholders.

        Raises:
            PromptError: the prompt does not hold exactly these images.
        """
        positions = (input_ids == self.image_token_id(model)).nonzero()[:, 0].tolist()
        if len(positions) != sum(num_tokens):
            raise PromptError(
                f"the prompt holds {len(positions)} image tokens but the {len(num_tokens)} images "
                f"fill {sum(num_tokens)} ({list(num_tokens)})"
            )
        spans: list[tuple[int, int]] = []
        used = 0
        for count in num_tokens:
            start, end = positions[used], positions[used + count - 1] + 1
            if end - start != count:
                raise PromptError(
                    f"image {len(spans)} should fill {count} consecutive tokens, but its "
                    f"placeholders are spread over positions {start} to {end - 1}"
                )
            spans.append((start, end))
            used += count
        return spans


@functools.lru_cache(maxsize=8)
def _normalised(rescale: float, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """What the image processors make of the 256 levels of a channel: ``[3, 256]``, float32."""
    levels = torch.from_numpy((np.arange(LEVELS) * rescale).astype(np.float32))
    center, spread = (torch.tensor(values)[:, None] for values in (mean, std))
    table: np.ndarray = ((levels - center) / spread).numpy()
    return table


def encode_in_calls(
    family: AbstractFamily,
    model: PreTrainedModel,
    images: Sequence[ImageInputs],
    *,
    at_once: int,
) -> Iterator[ImageFeatures]:
    """Features of each image in turn, `at_once` images in one call of the vision tower.

    What one call gives shares memory: clone what outlives the others.
    """
    for start in range(0, len(images), at_once):
        yield from family.encode(model, images[start : start + at_once])
