"""Attention within images of one size, as one product.

The Qwen-VL towers put all images of a batch into one sequence and, unless flash attention is there,
attend in a Python loop over images, which makes training on a CPU several times slower. They hand
the boundaries to any attention function whose name says flash; this one takes them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

#: Name under which `transformers` finds it. Only for training: it is never saved with a model.
BLOCKS = "flash_equal_blocks"


def equal_blocks(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    cu_seq_lens_q: Tensor,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Bidirectional attention inside blocks of equal length.

    Args:
        module: unused, as is `attention_mask`; the interface asks for both.
        query: ``[1, heads, sequence, head]``, as `key` and `value`.
        scaling: factor of the scores.
        cu_seq_lens_q: ``[blocks + 1]``, where each block begins, and the end.

    Returns:
        ``[1, sequence, heads, head]`` and no weights.
    """
    _, heads, length, head = query.shape
    blocks = len(cu_seq_lens_q) - 1
    q, k, v = (
        x.reshape(heads, blocks, length // blocks, head).transpose(0, 1)
        for x in (query, key, value)
    )
    weights = (q @ k.transpose(-1, -2) * scaling).softmax(-1, dtype=torch.float32).to(q.dtype)
    mixed = weights @ v  # [blocks, heads, block, head]
    return mixed.transpose(1, 2).reshape(1, length, heads, head), None


AttentionInterface.register(BLOCKS, equal_blocks)
