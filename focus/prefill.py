"""The rows of a branch plan through the language model, sharing every common prefix.

Under causal attention two rows that hold the same images up to some slot have the same keys and
values up to there. So the prompt is cut where rows part; each chunk runs once per distinct prefix,
and the cache rows are then duplicated for the rows that part. Plain causal attention, no custom
mask: exact with eager, sdpa and sliding-window layers.

With one noise image per slot shared by all rows, image c of N runs as c + 1 rows rather than
N + 1, and 2N images are encoded rather than N(N + 1). `NaiveRows` is the reference implementation:
the published scheme, one full batch of N + 1 rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import final

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, PreTrainedModel

from focus.branches import Content, Row
from focus.models.base import AbstractFamily, ImageFeatures, ImageInputs, input_device
from focus.prompts import Prompt


class AbstractRows(ABC):
    """Rows of one prompt in flight: their caches, and their logits for the next token."""

    def __init__(
        self, model: PreTrainedModel, family: AbstractFamily, prompt: Prompt, rows: Sequence[Row]
    ) -> None:
        self.model, self.family, self.prompt, self.rows = model, family, prompt, tuple(rows)
        self.num_sequences = 1
        # Decoding goes on from the largest position, which under M-RoPE is not length - 1.
        self._next_position = int(prompt.position_ids.max()) + 1
        self._cache: Cache = DynamicCache(config=model.config.get_text_config())

    @abstractmethod
    def prefill(self) -> Tensor:
        """Runs the prompt; logits ``[rows, 1, vocab]`` for the first new token, float32."""

    def repeat(self, num_sequences: int) -> None:
        """Prepares the decoding of several sequences from the one prefill."""
        if num_sequences > 1:
            self._cache.batch_repeat_interleave(num_sequences)
        self.num_sequences = num_sequences

    def step(self, tokens: Tensor) -> Tensor:
        """Appends one token per sequence to every row.

        Args:
            tokens: ``[sequences]``; each is appended to all rows of its sequence.

        Returns:
            Logits ``[rows, sequences, vocab]`` for the next token, float32.
        """
        batch = len(self.rows) * self.num_sequences
        positions = torch.full(
            (*self.prompt.position_ids.shape[:-2], batch, 1),
            self._next_position,
            device=tokens.device,
        )
        self._next_position += 1
        logits = self._forward(tokens.repeat(len(self.rows))[:, None], positions)
        return logits.unflatten(0, (len(self.rows), self.num_sequences))

    def _forward(self, input_ids: Tensor, position_ids: Tensor, **kwargs: object) -> Tensor:
        outputs = self.model(
            input_ids=input_ids,
            position_ids=position_ids,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
            return_dict=True,
            **kwargs,
        )
        return outputs.logits[:, -1].float()


@final
class SharedPrefixRows(AbstractRows):
    """Grows the batch: every prefix that rows have in common is computed once."""

    def __init__(
        self,
        model: PreTrainedModel,
        family: AbstractFamily,
        prompt: Prompt,
        rows: Sequence[Row],
        features: Mapping[Content, ImageFeatures],
    ) -> None:
        """
        Args:
            features: encoded image of every content that occurs in `rows`.
        """
        super().__init__(model, family, prompt, rows)
        self._features = features

    def prefill(self) -> Tensor:
        # Indices stay on the CPU: layers may lie on several devices, and each takes them there.
        prefixes: list[Row] = [()]  # the distinct prefixes that the cache rows stand for
        for start, end, slots in prefill_chunks(self.prompt, self.rows):
            width = slots.stop
            grown = list(dict.fromkeys(row[:width] for row in self.rows))
            parents = [prefixes.index(prefix[: slots.start]) for prefix in grown]
            if self._cache.get_seq_length() and parents != list(range(len(prefixes))):
                self._cache.batch_select_indices(torch.tensor(parents))
            prefixes = grown
            logits = self._run_chunk(start, end, [prefix[slots.start :] for prefix in grown])
        order = [prefixes.index(row) for row in self.rows]
        if order != list(range(len(prefixes))):  # equal rows, or rows in another order
            index = torch.tensor(order)
            self._cache.batch_select_indices(index)
            logits = logits[index]
        return logits[:, None]

    def _run_chunk(self, start: int, end: int, contents: list[Row]) -> Tensor:
        batch = len(contents)
        features = [self._features[content] for row in contents for content in row]
        extra = {"mm_encoder_outputs": self.family.encoder_outputs(features)} if features else {}
        positions = self.prompt.position_ids[..., start:end]
        return self._forward(
            self.prompt.input_ids[:, start:end].expand(batch, -1),
            positions.expand(*positions.shape[:-2], batch, -1),
            **extra,
        )


@final
class NaiveRows(AbstractRows):
    """The published scheme: all rows as one batch, every image of every row encoded.

    Kept as the reference that the shared prefixes are tested against: it shares nothing, hands the
    pixels to the model's own forward pass, and lets the model work out the prompt's positions.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        family: AbstractFamily,
        prompt: Prompt,
        rows: Sequence[Row],
        images: Mapping[Content, ImageInputs],
    ) -> None:
        """
        Args:
            images: pixels of every content that occurs in `rows`.
        """
        super().__init__(model, family, prompt, rows)
        self._images = images

    def prefill(self) -> Tensor:
        input_ids = self.prompt.input_ids.expand(len(self.rows), -1)
        pixels = self.family.model_kwargs([self._images[c] for row in self.rows for c in row])
        outputs = self.model(
            input_ids=input_ids,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
            return_dict=True,
            **{name: tensor.to(input_device(self.model)) for name, tensor in pixels.items()},
            **self.family.text_kwargs(self.model, input_ids),
        )
        return outputs.logits[:, -1:].float()


def prefill_chunks(prompt: Prompt, rows: Sequence[Row]) -> list[tuple[int, int, range]]:
    """Where to cut the prompt: at the start of each image at which rows part.

    Returns:
        ``(start, end, slots)`` per chunk: its token range and the image slots that start in it.
        Rows whose contents are equal up to the end of a chunk run through it once.
    """
    starts = [start for start, _ in prompt.spans]
    distinct = [len({row[:width] for row in rows}) for width in range(len(starts) + 1)]
    parting = {starts[slot] for slot in range(len(starts)) if distinct[slot + 1] > distinct[slot]}
    cuts = sorted(parting | {0, prompt.input_ids.shape[1]})
    return [
        (start, end, range(bisect_left(starts, start), bisect_left(starts, end)))
        for start, end in pairwise(cuts)
    ]
