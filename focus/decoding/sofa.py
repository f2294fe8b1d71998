"""SoFA, soft attention: images see the images after them a little, against position bias.

Source: Tian et al., "Identifying and Mitigating Position Bias of Multi-image Vision-Language
Models", CVPR 2025, arXiv 2503.13792. Under causal attention the first image sees no other and the
last sees all. In every second layer the attention weights A of the prefill are mixed,

    A = (1 - s) A_causal + s A_bidirectional

where A_bidirectional also lets the tokens of an image attend to all tokens of the images after it.
Both are softmax weights that sum to one over what they may see; a mask cannot say this, since the
logarithm of s times minus infinity is minus infinity. Attention is linear in its weights, so mixing
the outputs of two ordinary calls is the same, exactly, with every kernel that takes a mask.

Our reading, since the authors' code is not public: inside one image, between text and images and
among text, attention stays causal ("we only alter the inter-image attention", caption of figure 4);
every second layer starts with the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from focus.checks import Positive, Share, check_fields
from focus.decoding.base import Request
from focus.decoding.interventions import AbstractIntervention, clean_prompt
from focus.hooks import chosen_attentions, different_images, explicit_mask
from focus.models.loading import VisionLanguageModel


@final
@dataclass(frozen=True)
class Sofa(AbstractIntervention):
    """SoFA (arXiv 2503.13792).

    Cost: the attention of every second layer runs twice in the prefill; N image encodings and
    decode steps as in plain decoding.

    It cannot apply to flash attention, which takes no such mask. One image has no other to see.

    Args:
        s: share of the bidirectional attention in [0, 1]; 0 switches it off, 1 is bidirectional
            between images. The paper tunes it on held-out questions for each model; 0.5 is merely
            the middle. Its symbol is sigma.
        every: distance of the layers it acts in, starting with the first: 2 is published.
    """

    s: Share = 0.5
    every: Positive = 2

    name: ClassVar[str] = "sofa"

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def active(self) -> bool:
        return self.s > 0

    def install(
        self, vlm: VisionLanguageModel, request: Request, handles: list[RemovableHandle]
    ) -> None:
        attentions = chosen_attentions(vlm, "all")[:: self.every]
        apart = different_images(clean_prompt(vlm, request))
        hook = _Soften(apart.triu(), self.s)
        for attention in attentions:
            handles.append(attention.register_forward_hook(hook, with_kwargs=True))


@dataclass(frozen=True)
class _Soften:
    """Forward hook that mixes the output of an attention module with a bidirectional one.

    Args:
        opened: ``[length, length]``, True where the query's image comes before the key's.
        share: of the bidirectional attention.
    """

    opened: Tensor
    share: float

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        hidden, length = kwargs["hidden_states"], len(self.opened)
        if hidden.shape[1] != length:  # a decode step: no image is the query
            return None
        mask = explicit_mask(kwargs["attention_mask"], length, hidden.device)
        # An earlier image sees a later one where the later one sees it: also right for windows.
        mask = torch.where(self.opened.to(hidden.device), mask.mT, mask)
        # The causal call has filled the cache, and the prompt comes in one piece: without the
        # cache the second call has the same keys and values, and does not store them again.
        second = {**kwargs, "attention_mask": mask, "past_key_values": None}
        both = module.forward(*args, **second)
        return tuple(
            causal if causal is None else torch.lerp(causal, bidirectional, self.share)
            for causal, bidirectional in zip(output, both, strict=True)
        )
