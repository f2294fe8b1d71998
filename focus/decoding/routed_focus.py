"""Routed FOCUS: a mixture of the branches, each weighted by whether it is the one that was asked.

Source: ours; rows are those of FOCUS (arXiv 2508.13744, see `focus.decoding.focus`) and one of
plain decoding. The weights and the mixture are in `focus.routing`:

    w_k  proportional to  a_k exp(KL_k)     over branches k, anew at every token
    p*   = sum_k w_k softmax(l_k - alpha * l_ref)

and y_t is chosen once from p* and appended to every row, the plain one included.

Cost: |T| + 2 rows per token, one more than FOCUS; the same image encodings, since the plain row
shows the clean images of the branches (sharing scope ``branch`` and `prefill` ``naive`` share
nothing: N more with the latter).

Cannot help where no single branch can answer (counting over images, the odd one out), and hardly
where off-target branches answer from their own images while plain decoding prefers a wrong one: no
row then tells which image was asked. With one image it is FOCUS.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, final

from torch import Tensor

from focus.branches import BranchPlan, SharingScope, clean_plan
from focus.decoding.base import AbstractDecoding, Decoded, GenerationSettings, Request
from focus.decoding.focus import Focus
from focus.decoding.rows import decode_rows
from focus.models.loading import VisionLanguageModel
from focus.noise import NoiseConfig
from focus.routing import route


@final
@dataclass(frozen=True)
class RoutedFocus(AbstractDecoding):
    """The branches of FOCUS, mixed by divergence from the reference and agreement with plain.

    Args:
        alpha: contrast weight within each branch; 0 drops the contrast, not the reference.
        noise, sharing, targets, prefill, encode_batch: see `Focus`.
    """

    alpha: float = 0.3
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    sharing: SharingScope = "sample"
    targets: Literal["all", "named"] = "all"
    prefill: Literal["shared", "naive"] = "shared"
    encode_batch: int = 8

    name: ClassVar[str] = "routed_focus"

    def __post_init__(self) -> None:
        _ = self.focus  # refuses bad settings

    @property
    def focus(self) -> Focus:
        """The strategy whose rows are mixed."""
        return Focus(
            alpha=self.alpha,
            noise=self.noise,
            sharing=self.sharing,
            targets=self.targets,
            prefill=self.prefill,
            encode_batch=self.encode_batch,
        )

    def plan(self, request: Request) -> BranchPlan:
        """The rows of FOCUS, and last the one with all images clean."""
        rows, plain = self.focus.plan(request), clean_plan(len(request.images))
        return BranchPlan(
            rows=(*rows.rows, *plain.rows), has_reference=True, units=(*rows.units, *plain.units)
        )

    def combine(self, logits: Tensor) -> Tensor:
        """Next-token logits out of the rows: the reference first, plain decoding last.

        Args:
            logits: ``[2 + branches, sequences, vocab]``.

        Returns:
            ``[sequences, vocab]``.
        """
        return route(logits[1:-1], logits[0], logits[-1], alpha=self.alpha)

    def decode(
        self,
        vlm: VisionLanguageModel,
        request: Request,
        settings: GenerationSettings,
        *,
        keep_logits: str = "none",
        **generate_kwargs: Any,
    ) -> Decoded:
        return decode_rows(
            vlm,
            request,
            settings,
            plan=self.plan(request),
            combine=self.combine,
            noise=self.noise,
            per_run=self.sharing == "run",
            prefill=self.prefill,
            encode_batch=self.encode_batch,
            keep_logits=keep_logits,
            **generate_kwargs,
        )
