"""Block attention: the images of a prompt cannot see each other, the text sees all of them.

The attention-mask alternative to decoding from branches. Closest source: Das et al., "More Images,
More Problems?", arXiv 2601.07812, who fine-tune with a mask under which image tokens see their own
image only. Here nothing is trained, and image tokens keep seeing the text before them, where the
model's attention sinks are. With keys K(q) that token q sees in plain decoding,

    K'(q) = K(q) without the tokens of other images    q a token of an image, in the chosen layers
    K'(q) = K(q)                                       q text, and in all other layers

New tokens are text, so decode steps are those of plain decoding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch.utils.hooks import RemovableHandle

from focus.decoding.base import Request
from focus.decoding.interventions import AbstractIntervention, clean_prompt
from focus.hooks import HidePairs, Layers, checked_layers, chosen_attentions, different_images
from focus.models.loading import VisionLanguageModel


@final
@dataclass(frozen=True)
class BlockAttention(AbstractIntervention):
    """Tokens of one image do not attend to tokens of another image.

    Cost: as plain decoding, N image encodings; the prefill needs an explicit mask, with which
    fused kernels are slower. Positions stay as they are.

    It cannot apply to flash attention, which takes no such mask. One image has nothing to block.
    What an image tells the text before the next image can still reach that image through the text;
    only a prompt with all images first and nothing between them is free of it.

    Args:
        layers: decoder layers in which images are blocked: ``all`` or indices from 0; none
            switches the strategy off. Indices that the model does not have are left out.
    """

    layers: Layers = "all"

    name: ClassVar[str] = "block_attention"

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", checked_layers(self.layers))

    @property
    def active(self) -> bool:
        return bool(self.layers)

    def install(
        self, vlm: VisionLanguageModel, request: Request, handles: list[RemovableHandle]
    ) -> None:
        attentions = chosen_attentions(vlm, self.layers)
        blocked = different_images(clean_prompt(vlm, request))
        hook = HidePairs(blocked)
        for attention in attentions:
            handles.append(attention.register_forward_pre_hook(hook, with_kwargs=True))
