"""Delimiter scaling: louder tokens between the images, so that they keep apart.

Source: Lee et al., "Enhancing Multi-Image Understanding through Delimiter Token Scaling", ICLR
2026, arXiv 2602.01984, and the authors' code (github.com/MYMY-young/DelimScaling, commit a288073).
With residual stream h after decoder layer i,

    h_i[p] <- factor * h_i[p]      for every delimiter position p of the prompt, i in layers

in the prefill, and only where the prompt holds several images. A layer reads the scaled stream of
the layer before it, so four layers scale by the factor four times. What a layer reads is normalised
first, so the scaling is felt where later layers add to a stream grown long: they change it less.

Delimiters: the tokens that open and close an image (Qwen-VL, InternVL), or the learned newline that
closes it (LLaVA-OneVision, which has no such tokens). Qwen3-VL is not in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, final

from pydantic import Field
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from focus.checks import check_fields
from focus.decoding.base import Request
from focus.decoding.interventions import AbstractIntervention, clean_prompt
from focus.errors import PromptError
from focus.hooks import Layers, checked_layers, chosen_layers, delimiter_positions
from focus.models.loading import VisionLanguageModel


@final
@dataclass(frozen=True)
class DelimiterScaling(AbstractIntervention):
    """Delimiter token scaling (arXiv 2602.01984).

    Cost: that of plain decoding, N image encodings.

    It cannot apply to one image (published rule: that is plain decoding) nor where the prompt holds
    no delimiters. Any attention implementation will do.

    Args:
        factor: what the residual stream is multiplied by; 1 switches it off, 8 is published.
        layers: decoder layers after which it is: indices from 0, or ``all``; 0 to 3 are published.
            Indices that the model does not have are left out.
    """

    factor: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 8.0
    layers: Layers = (0, 1, 2, 3)

    name: ClassVar[str] = "delimiter_scaling"

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", checked_layers(self.layers))
        check_fields(self)

    @property
    def active(self) -> bool:
        return self.factor != 1 and bool(self.layers)

    def install(
        self, vlm: VisionLanguageModel, request: Request, handles: list[RemovableHandle]
    ) -> None:
        layers = chosen_layers(vlm, self.layers)
        prompt = clean_prompt(vlm, request)
        length = prompt.input_ids.shape[1]
        positions = delimiter_positions(vlm, prompt)
        if not len(positions):
            tokens = " or ".join(token for token in vlm.family.delimiters if token)
            raise PromptError(
                f"the prompt holds no image delimiter ({tokens}), so there is nothing to scale; "
                "use a chat template that writes them"
            )
        hook = _Scale(positions, length, self.factor)
        for layer in layers:
            handles.append(layer.register_forward_hook(hook))


@dataclass(frozen=True)
class _Scale:
    """Forward hook that multiplies what a decoder layer hands on at some positions.

    Args:
        positions: of the prompt, as indices.
        length: of the prompt, which tells the prefill from a decode step.
        factor: of the scaling.
    """

    positions: Tensor
    length: int
    factor: float

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        if output.shape[1] != self.length:
            return None
        scaled = output.clone()
        scaled[:, self.positions.to(output.device)] *= self.factor
        return scaled
