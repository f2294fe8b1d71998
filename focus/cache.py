"""Keys and values of rows that have their beginnings in common: each stretch is kept once.

The rows of a prompt part image by image, and prompts about the same images part behind the last
one. Where rows part, `transformers`' own dynamic cache copies all that lies before; here the rows
go on reading the one copy, and what a layer needs in one piece is put together only while that
layer runs. Exact: the same numbers stand at the same places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

#: Keys and values of some tokens, layer by layer: each ``[.., heads, tokens, size]``.
States = tuple[tuple[Tensor, Tensor], ...]


@dataclass(frozen=True)
class Stretch:
    """Keys and values of some consecutive tokens, and who reads them.

    Args:
        keys: ``[entries, heads, tokens, size]``.
        values: the same.
        reader: ``[rows]``, the entry that each row reads.
    """

    keys: Tensor
    values: Tensor
    reader: Tensor

    def read(self, name: str) -> Tensor:
        """Keys or values of every row: ``[rows, heads, tokens, size]``."""
        entries: Tensor = getattr(self, name)
        if len(entries) == 1:
            return entries.expand(len(self.reader), -1, -1, -1)
        return entries.index_select(0, self.reader)

    def select(self, rows: Tensor) -> Stretch:
        """The same for other rows; entries that hardly anyone reads any more are dropped."""
        reader = self.reader[rows]
        entries, again = reader.unique(return_inverse=True)
        if 2 * len(entries) > len(self.keys):
            return replace(self, reader=reader)
        return Stretch(self.keys[entries], self.values[entries], again)


@final
class SharedLayer(DynamicLayer):
    """One layer: stretches that several rows read, and behind them one that each row extends."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.keys: Tensor
        self.values: Tensor
        self._shared: tuple[Stretch, ...] = ()

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        own = dict(zip(("keys", "values"), super().update(key_states, value_states), strict=True))
        if not self._shared:
            return own["keys"], own["values"]
        keys, values = (
            torch.cat([*(stretch.read(name) for stretch in self._shared), last], dim=-2)
            for name, last in own.items()
        )
        return keys, values

    def get_seq_length(self) -> int:
        before = sum(stretch.keys.shape[-2] for stretch in self._shared)
        return before + super().get_seq_length()

    def append(self, stretch: Stretch) -> None:
        """Adds a stretch to a layer in which no row has tokens of its own yet."""
        self._shared += (stretch,)
        self.lazy_initialization(stretch.keys, stretch.values)

    def read(self) -> tuple[Tensor, Tensor]:
        """Keys and values of every row, put together."""
        own = [(self.keys, self.values)] if self.keys.numel() else []
        pieces = [(each.read("keys"), each.read("values")) for each in self._shared] + own
        keys, values = zip(*pieces, strict=True)
        return torch.cat(keys, dim=-2), torch.cat(values, dim=-2)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps, reorders or repeats rows; what is repeated is shared and not copied."""
        if not self.is_initialized:
            return
        rows = indices.to(self.device)
        self._shared = tuple(stretch.select(rows) for stretch in self._shared)
        if not self.keys.numel():
            return
        if len(rows.unique()) == len(rows):
            self.keys, self.values = self.keys[rows], self.values[rows]
        else:
            self._shared += (Stretch(self.keys, self.values, rows),)
            self.lazy_initialization(self.keys, self.values)  # an empty one from here on

    @property
    def num_bytes(self) -> int:
        """Of all keys and values that are kept."""
        own = self.keys.nbytes + self.values.nbytes if self.is_initialized else 0
        return own + sum(each.keys.nbytes + each.values.nbytes for each in self._shared)


def composed_cache(pieces: Sequence[tuple[Sequence[States], Sequence[int]]]) -> Cache:
    """A cache that is put together from keys and values which other passes have left.

    Args:
        pieces: consecutive pieces of all rows. Of each, the entries there are, without a dimension
            for rows, and which of them each row reads.
    """
    layers = []
    for at in range(len(pieces[0][0][0])):
        layer = SharedLayer()
        for entries, reader in pieces:
            keys, values = (torch.stack([entry[at][part] for entry in entries]) for part in (0, 1))
            layer.append(Stretch(keys, values, torch.tensor(reader, device=keys.device)))
        layers.append(layer)
    return Cache(layers=layers)


def shared_cache(model: PreTrainedModel) -> Cache:
    """An empty cache for the language model of `model`."""
    layers = model.config.get_text_config().num_hidden_layers
    return Cache(layers=[SharedLayer() for _ in range(layers)])


def token_bytes(model: PreTrainedModel) -> int:
    """Bytes of the keys and values of one token in one layer of the language model."""
    config = model.config.get_text_config()
    heads = config.num_key_value_heads or config.num_attention_heads
    # Some configurations have no such entry, some an empty one.
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * heads * size * model.dtype.itemsize)
