"""Prompts read once, in batches of equal length: for looking inside with hooks in place.

The engines share what rows have in common and cut prompts into pieces; a hook that knows tokens by
their place wants every prompt in one piece and every row where it was put. A reading is that, and
stops at the logits for the first new token. They are those of plain decoding.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import final

import torch
from torch import Tensor
from transformers import DynamicCache

from focus.branches import BranchPlan
from focus.decoding.base import Request
from focus.decoding.preparing import prepare
from focus.decoding.rows import clean_rows, only_row
from focus.engines import LocalEngine
from focus.engines.features import FeatureStore
from focus.errors import InvalidValueError
from focus.hooks import attention_weights, token_groups
from focus.models.base import ImageInputs, input_device
from focus.models.loading import VisionLanguageModel
from focus.noise import NoiseConfig
from focus.prompts import Prompt


@dataclass(frozen=True)
class Reading:
    """One row of a prompt, ready to be read.

    Args:
        prompt: ids, positions and image spans.
        images: what stands in each span.
        groups: which tokens are what, see `focus.hooks.token_groups`.
    """

    prompt: Prompt
    images: tuple[ImageInputs, ...]
    groups: dict[str, Tensor]

    @property
    def length(self) -> int:
        """Tokens of the prompt."""
        return int(self.prompt.input_ids.shape[1])

    def tokens(self, *names: str) -> Tensor:
        """Tokens that are in any of these groups: ``[length]``."""
        found = torch.zeros(self.length, dtype=torch.bool)
        for name in names:
            found = found | self.groups[name]
        return found

    def image(self, index: int) -> Tensor:
        """Tokens of one image without its delimiters: ``[length]``."""
        start, end = self.prompt.spans[index]
        place = torch.arange(self.length)
        return (place >= start) & (place < end) & ~self.groups["delimiters"]


#: Hooks that stay in place during every pass over some readings, such as a planted fault.
Around = Callable[[VisionLanguageModel, Sequence[Reading]], AbstractContextManager[None]]


def untouched(
    vlm: VisionLanguageModel, readings: Sequence[Reading]
) -> AbstractContextManager[None]:
    """Nothing around a pass."""
    return nullcontext()


@final
class Reader:
    """Reads prompts with one model.

    Args:
        vlm: the model, never modified.
        batch: most prompts in one pass.
        features: GiB of encoded images to keep.
        around: hooks around every pass, see `Around`.
    """

    def __init__(
        self,
        vlm: VisionLanguageModel,
        *,
        batch: int = 32,
        features: float = 0.5,
        around: Around = untouched,
    ) -> None:
        if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
            raise InvalidValueError("batch", batch, "a positive integer")
        self.vlm, self.batch, self._around = vlm, batch, around
        self._untrained: Reader | None = None
        self._store = FeatureStore(vlm, num_bytes=int(features * 2**30))

    @cached_property
    def engine(self) -> LocalEngine:
        """An engine on the same model, for strategies; nothing is planted in it."""
        return LocalEngine(self.vlm, batch=self.batch)

    @property
    def planted(self) -> bool:
        """Whether hooks stay in place during every pass."""
        return self._around is not untouched

    @property
    def num_places(self) -> int:
        """Places of the residual stream, see `focus.hooks.states`: one more than layers."""
        return len(self.vlm.family.decoder_layers(self.vlm.model)) + 1

    def reading(self, request: Request) -> Reading:
        """The prompt of a request with its clean images.

        Raises:
            ImageError, PromptError: see `focus.decoding.preparing.prepare`.
        """
        plan, _ = clean_rows(len(request.images))
        return self.rows(request, plan)[0]

    def rows(
        self, request: Request, plan: BranchPlan, noise: NoiseConfig | None = None
    ) -> list[Reading]:
        """The prompt of a request in every row of a plan."""
        made = prepare(self.vlm, request, plan, only_row, noise=noise)
        groups = token_groups(self.vlm, made.prompt, asked_images(request))
        return [
            Reading(made.prompt, tuple(made.images[content] for content in row), groups)
            for row in plan.rows
        ]

    def batches(self, readings: Sequence[Reading]) -> Iterator[list[int]]:
        """Indices of readings that one pass can take: of equal length, at most `batch`."""
        alike: dict[int, list[int]] = {}
        for i, reading in enumerate(readings):
            alike.setdefault(reading.length, []).append(i)
        for indices in alike.values():
            for start in range(0, len(indices), self.batch):
                yield indices[start : start + self.batch]

    @torch.no_grad()
    def logits(self, readings: Sequence[Reading]) -> Tensor:
        """One pass over readings of equal length: ``[rows, vocab]``, float32, on the CPU."""
        model, family = self.vlm.model, self.vlm.family
        images = [image for reading in readings for image in reading.images]
        features = self._store.features(images, encode_batch=8)
        ids = torch.cat([reading.prompt.input_ids for reading in readings])
        positions = torch.cat([reading.prompt.position_ids for reading in readings], dim=-2)
        with self._around(self.vlm, readings):
            hidden = model.get_decoder()(
                **family.embedded(model, ids, [features[image.key] for image in images]),
                position_ids=positions,
                # Without a cache, jumps of multimodal positions would be taken for packed prompts.
                past_key_values=DynamicCache(config=model.config.get_text_config()),
                use_cache=True,
            ).last_hidden_state
        return model.get_output_embeddings()(hidden[:, -1]).float().cpu()

    def attention(self, reading: Reading, queries: Tensor | None = None) -> Tensor:
        """How much some tokens look at each image: ``[layers, images + 1]``, the rest last.

        Shares of attention, the mean over heads and queries; each line sums to one. Delimiters are
        of the rest.

        Args:
            reading: what is read.
            queries: the tokens that look, ``[length]``; by default the last one, which answers.

        Raises:
            InvalidValueError: see `focus.hooks.attention_weights`.
        """
        queries = reading.groups["last token"] if queries is None else queries
        images = torch.stack([reading.image(k) for k in range(len(reading.images))]).float()
        keys = torch.cat([images, 1 - images.sum(dim=0, keepdim=True)])
        with attention_weights(self.vlm) as weights:
            self.logits([reading])
        return torch.stack([layer[0][queries].mean(dim=0) @ keys.T for layer in weights])

    @torch.no_grad()
    def unembedded(self, stream: Tensor) -> Tensor:
        """What the model would say out of the residual stream ``[..., hidden]``: its last norm and
        its output embeddings, ``[..., vocab]``, float32, on the CPU (the logit lens)."""
        return self.said(self.normalised(stream))

    @torch.no_grad()
    def normalised(self, stream: Tensor) -> Tensor:
        """The stream as it would enter the output embeddings; also inside a hook on the norm."""
        norm = self.vlm.family.final_norm(self.vlm.model)
        return norm.forward(stream.to(_device_of(norm)))

    @torch.no_grad()
    def said(self, states: Tensor) -> Tensor:
        """Logits ``[..., vocab]`` of what enters the output embeddings."""
        head = self.vlm.model.get_output_embeddings()
        return head(states.to(_device_of(head))).float().cpu()

    def untrained(self, seed: int = 0) -> Reader:
        """A reader of the same architecture with random weights, as a control."""
        if self._untrained is None:
            model = self.vlm.model
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                twin = type(model)(copy.deepcopy(model.config)).to(model.dtype)
            vlm = replace(self.vlm, model=twin.to(input_device(model)).eval())
            self._untrained = Reader(vlm, batch=self.batch, around=self._around)
        return self._untrained


def asked_images(request: Request) -> tuple[int, ...]:
    """Images that a request names, from 0; empty where it names none."""
    units = request.targets or ()
    return tuple(k for unit in units for k in ((unit,) if isinstance(unit, int) else unit))


def _device_of(module: torch.nn.Module) -> torch.device:
    """Where a module computes, wherever its weights are kept between calls."""
    device = getattr(getattr(module, "_hf_hook", None), "execution_device", None)
    return next(module.parameters()).device if device is None else torch.device(device)
