"""Raw PyTorch hooks on the language model, as context managers that leave no trace.

They work where `register_forward_hook` works: on every family, on models spread over devices, and
beside each other. Nothing is patched and no configuration changes.
"""

from focus.hooks.attention import (
    HidePairs,
    attention_weights,
    causal_mask,
    edge,
    explicit_mask,
    knocked_out,
)
from focus.hooks.layers import (
    MASKABLE,
    Layers,
    checked_layers,
    chosen_attentions,
    chosen_layers,
    removed_afterwards,
)
from focus.hooks.states import States, captured, patched, stream_modules
from focus.hooks.tokens import (
    GROUPS,
    IMAGE_GROUPS,
    TEXT_GROUPS,
    delimiter_positions,
    different_images,
    token_groups,
)

__all__ = [
    "GROUPS",
    "IMAGE_GROUPS",
    "MASKABLE",
    "TEXT_GROUPS",
    "HidePairs",
    "Layers",
    "States",
    "attention_weights",
    "captured",
    "causal_mask",
    "checked_layers",
    "chosen_attentions",
    "chosen_layers",
    "delimiter_positions",
    "different_images",
    "edge",
    "explicit_mask",
    "knocked_out",
    "patched",
    "removed_afterwards",
    "stream_modules",
    "token_groups",
]
