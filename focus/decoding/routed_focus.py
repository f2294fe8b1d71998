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
row then tells which image was asked. With one image it is FOCUS, which is plain decoding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from focus.branches import BranchPlan, with_plain_row
from focus.decoding.base import Request
from focus.decoding.branching import AbstractBranching
from focus.routing import route


@final
@dataclass(frozen=True)
class RoutedFocus(AbstractBranching):
    """The branches of FOCUS, mixed by divergence from the reference and agreement with plain.

    Args:
        alpha: contrast weight within each branch; 0 drops the contrast, not the reference.
        noise, sharing, single_image, targets, prefill, encode_batch: see
            `focus.decoding.branching.BranchSettings`.
    """

    name: ClassVar[str] = "routed_focus"

    def plan(self, request: Request) -> BranchPlan:
        """The rows of FOCUS, and last the one with all images clean."""
        return with_plain_row(super().plan(request))

    def _combine(self, logits: Tensor) -> Tensor:
        return route(logits[1:-1], logits[0], logits[-1], alpha=self.alpha)
