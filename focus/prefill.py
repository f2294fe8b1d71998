"""Rows of prompts through the language model, every prefix that they have in common once.

Under causal attention two rows whose text and images are equal up to some place have the same keys
and values up to there, whether they are rows of one prompt or of several: the branches of FOCUS up
to the image at which they part, two questions about the same images up to their end, the references
of a run that shares its noise. So prompts are cut where rows part, each piece runs once per
distinct prefix, and the rows go on from there. Plain causal attention: exact with eager, sdpa and
sliding-window layers.

With one noise image per slot shared by all rows of a prompt, image c of N runs as c + 1 rows rather
than N + 1, and 2N images are encoded rather than N(N + 1). `NaiveRows` is the reference
implementation: the published scheme, one full batch of N + 1 rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, final

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import Cache, DynamicCache, PreTrainedModel

from focus.branches import Content, Row
from focus.cache import SharedLayer, shared_cache
from focus.models.base import AbstractFamily, ImageFeatures, ImageInputs, input_device
from focus.prompts import Prompt


@dataclass(frozen=True)
class PromptRow:
    """One row of one prompt.

    Args:
        prompt: its ids, positions and image spans.
        images: what stands in each span, in words that tell different images apart.
    """

    prompt: Prompt
    images: tuple[Hashable, ...]


class AbstractRows(ABC):
    """Rows in flight: their keys and values, and their logits for the next token."""

    _cache: Cache
    #: Position of the next token: ``[rows]``. Decoding goes on from the largest one, which under
    #: M-RoPE is not length - 1.
    _positions: Tensor
    #: Which of the cached tokens are there: ``[rows, length]``; None where no row has padding.
    _seen: Tensor | None = None
    #: Of all rows together in one pass; None for any number.
    _most_tokens: int | None = None

    def __init__(self, model: PreTrainedModel, family: AbstractFamily) -> None:
        self.model, self.family = model, family

    @abstractmethod
    def prefill(self) -> Tensor:
        """Runs the prompts; logits ``[rows, vocab]`` for the first new token, float32."""

    def select(self, indices: Sequence[int]) -> None:
        """Goes on with these rows alone, in this order; a row that occurs twice parts in two."""
        rows = torch.tensor(indices)
        self._cache.batch_select_indices(rows)
        self._positions = self._positions[rows]
        self._seen = None if self._seen is None else self._seen[rows]

    def step(self, tokens: Tensor) -> Tensor:
        """Appends one token to every row.

        Args:
            tokens: ``[rows]``.

        Returns:
            Logits ``[rows, vocab]`` for the next token, float32.
        """
        axes = (3,) if self.family.multimodal_positions else ()
        positions = self._positions.to(tokens.device)[:, None].expand(*axes, -1, -1)
        self._positions = self._positions + 1
        if self._seen is not None:
            self._seen = torch.cat([self._seen, self._seen.new_ones(len(tokens), 1)], dim=1)
        return self._forward(tokens[:, None], positions)

    def extend(
        self,
        ids: Tensor,
        positions: Tensor,
        features: Sequence[Sequence[ImageFeatures]],
        mask: Tensor | None = None,
    ) -> Tensor:
        """Appends tokens to every row, no more than `most_tokens` in one pass.

        Args:
            ids: ``[rows, tokens]``.
            positions: ``[.., rows, tokens]``.
            features: of the images among them, row by row.
            mask: ``[.., tokens, keys]``, as the model's attention takes it; without one, all that
                is before a token and there.

        Returns:
            Logits ``[rows, vocab]`` behind the last token, float32.
        """
        whole, before, width = self._seen, self._cache.get_seq_length(), ids.shape[1]
        shown = ids == self.family.image_token_id(self.model)
        step = max(1, self._most_tokens // len(ids)) if self._most_tokens else width
        for at in range(0, width, step):
            until = before + min(at + step, width)
            self._seen = None if whole is None else whole[:, :until]
            part = None if mask is None else mask[..., at : at + step, :until]
            there = piece_features(shown, at, at + step, features)
            logits = self._forward(
                ids[:, at : at + step], positions[..., at : at + step], there, part
            )
        return logits

    def _forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        features: Sequence[ImageFeatures] = (),
        mask: Tensor | None = None,
    ) -> Tensor:
        """Logits ``[rows, vocab]`` behind the last of `input_ids`, which `features` stand among.

        The language model by itself: which positions tokens have and which images they are is
        known here, and the head is not to run for every token of a prompt. `mask` says which keys
        each token sees, ``[rows, 1, tokens, keys]``; without one, all before it that are `_seen`.
        """
        if mask is None and self._seen is not None:
            mask = self._seen.to(input_ids.device)
        hidden = self.model.get_decoder()(
            **self.family.embedded(self.model, input_ids, features),
            position_ids=positions,
            attention_mask=mask,
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        return self.model.get_output_embeddings()(hidden[:, -1]).float()


@final
class SharedPrefixRows(AbstractRows):
    """Every prefix that rows have in common is computed once."""

    def __init__(
        self,
        model: PreTrainedModel,
        family: AbstractFamily,
        rows: Sequence[PromptRow],
        features: Mapping[Any, ImageFeatures],
        *,
        most_tokens: int | None = None,
        cut: bool = True,
    ) -> None:
        """
        Args:
            rows: of any prompts with equal image spans; whatever follows the last image may
                differ in length.
            features: encoded image of everything that stands in a slot of `rows`.
            most_tokens: of all rows together in one pass; longer pieces of prompts are cut.
            cut: whether prompts are cut where rows part; if not, only equal rows share work.
        """
        super().__init__(model, family)
        self.rows, self._features, self._most_tokens = tuple(rows), features, most_tokens
        self._chunks = prefill_chunks(self.rows) if cut else [(0, None)]
        self._cache = shared_cache(model)
        last = [int(row.prompt.position_ids.max()) + 1 for row in self.rows]
        self._positions = torch.tensor(last)

    def prefill(self) -> Tensor:
        # Indices stay on the CPU: layers may lie on several devices, and each takes them there.
        labels = [0] * len(self.rows)  # the prefix that each row shares, so far the empty one
        for start, end in self._chunks:
            parents, labels = labels, prefix_labels(self.rows, end)
            first = [labels.index(label) for label in range(max(labels) + 1)]
            if self._cache.get_seq_length():
                self._cache.batch_select_indices(torch.tensor([parents[row] for row in first]))
            logits = self._run_chunk([self.rows[row] for row in first], start, end)
        if labels != list(range(len(labels))):  # equal rows
            rows = torch.tensor(labels)
            self._cache.batch_select_indices(rows)
            logits = logits[rows]
            self._seen = None if self._seen is None else self._seen[rows]
        return logits

    def states(self) -> list[tuple[Tensor, Tensor]]:
        """Keys and values of every layer, ``[rows, heads, tokens, size]``, of what has run."""
        return [layer.read() for layer in self._cache.layers if isinstance(layer, SharedLayer)]

    def _run_chunk(self, rows: Sequence[PromptRow], start: int, end: int | None) -> Tensor:
        ids = [row.prompt.input_ids[0, start:end] for row in rows]
        lengths = [len(each) for each in ids]
        width = max(lengths)
        slots = [slots_between(row.prompt, start, end) for row in rows]
        features = [
            [self._features[key] for key in row.images[part.start : part.stop]]
            for row, part in zip(rows, slots, strict=True)
        ]
        # Padding stands on the left of the last piece, where every row ends at the same place.
        nothing = int(self.family.image_token_id(self.model) == 0)
        padded = pad_sequence(ids, batch_first=True, padding_value=nothing, padding_side="left")
        positions = torch.stack(
            [_left(row.prompt.position_ids[..., 0, start:end], width) for row in rows], dim=-2
        )
        if min(lengths) < width:
            before = torch.ones(len(rows), self._cache.get_seq_length() + width, dtype=torch.long)
            for row, length in zip(before, lengths, strict=True):
                row[len(row) - width : len(row) - length] = 0
            self._seen = before
        return self.extend(padded, positions, features)


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
        super().__init__(model, family)
        self._prompt, self._rows, self._images = prompt, tuple(rows), images
        self._cache = DynamicCache(config=model.config.get_text_config())
        self._positions = torch.full((len(rows),), int(prompt.position_ids.max()) + 1)

    def prefill(self) -> Tensor:
        input_ids = self._prompt.input_ids.expand(len(self._rows), -1)
        pixels = self.family.model_kwargs([self._images[c] for row in self._rows for c in row])
        outputs = self.model(
            input_ids=input_ids,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
            return_dict=True,
            **{name: tensor.to(input_device(self.model)) for name, tensor in pixels.items()},
            **self.family.text_kwargs(self.model, input_ids),
        )
        return outputs.logits[:, -1].float()


def prefill_chunks(rows: Sequence[PromptRow]) -> list[tuple[int, int | None]]:
    """Where to cut prompts: at the images, and behind the last one, wherever rows part.

    Returns:
        ``(start, end)`` token range of every chunk; the last has no end, since prompts differ
        there. Rows that are equal up to the end of a chunk run through it once.
    """
    spans = rows[0].prompt.spans
    places = [*(start for start, _ in spans), *(end for _, end in spans[-1:])]
    distinct = [max(prefix_labels(rows, place)) for place in places]
    distinct.append(max(prefix_labels(rows, None)))
    parting = {place for place, (here, there) in zip(places, pairwise(distinct), strict=True)
               if there > here}  # fmt: skip
    cuts = sorted(parting | {0})
    return [*pairwise(cuts), (cuts[-1], None)]


def prefix_labels(rows: Sequence[PromptRow], end: int | None) -> list[int]:
    """A number for every row: equal where text and images are equal up to token `end`."""
    texts: dict[int, tuple[bytes, int]] = {}
    for prompt in {id(row.prompt): row.prompt for row in rows}.values():
        text = prompt.input_ids[0, :end].cpu().numpy().tobytes()
        texts[id(prompt)] = text, slots_between(prompt, 0, end).stop
    known: dict[Hashable, int] = {}
    labels = []
    for row in rows:
        text, width = texts[id(row.prompt)]
        labels.append(known.setdefault((text, row.images[:width]), len(known)))
    return labels


def slots_between(prompt: Prompt, start: int, end: int | None) -> range:
    """Image slots whose tokens begin in a token range."""
    starts = [begin for begin, _ in prompt.spans]
    stop = len(starts) if end is None else bisect_left(starts, end)
    return range(bisect_left(starts, start), stop)


def piece_features(
    shown: Tensor, start: int, end: int, features: Sequence[Sequence[ImageFeatures]]
) -> list[ImageFeatures]:
    """What of the images of every row lies between two places of a chunk.

    Args:
        shown: ``[rows, tokens]``, which tokens of the chunk are images.
        start, end: the places.
        features: of every row of the chunk, image by image.
    """
    if start == 0 and end >= shown.shape[1]:
        return [each for row in features for each in row]
    before = shown[:, :start].sum(dim=1).tolist()
    until = shown[:, :end].sum(dim=1).tolist()
    return [
        ImageFeatures(
            torch.cat([each.embeddings for each in row])[a:b],
            tuple(torch.cat(layer)[a:b] for layer in zip(*(e.deepstack for e in row), strict=True)),
        )
        for row, a, b in zip(features, before, until, strict=True)
        if b > a
    ]


def _left(positions: Tensor, width: int) -> Tensor:
    """Positions ``[.., length]`` of a row that is padded on the left: the padding's are of no
    account."""
    if positions.shape[-1] == width:
        return positions
    padding = positions[..., :1].expand(*positions.shape[:-1], width - positions.shape[-1])
    return torch.cat([padding, positions], dim=-1)
