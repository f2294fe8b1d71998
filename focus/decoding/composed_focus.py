"""Composed FOCUS: the branches of FOCUS at about the price of plain decoding.

Source: ours; the branches are those of FOCUS (arXiv 2508.13744, see `focus.decoding.focus`), but
keys and values of images are computed once and shared between rows, as `focus.composed` defines it.
What each row's text sees is FOCUS's: image k clean, noise elsewhere. What differs is what the
images themselves have seen: images of their own kind (flow ``kept``), the same, but noise behind
the clean image has seen clean images (``crossed``) or a photograph in the place of each
(``stand_in``), or no other image (``isolated``).

    l'_k   = logits of x_1 .. x_N, y_<t behind K(x_0), K(Z_1), .., K(I_k), .., K(Z_N)
    l'_ref = the same behind K(x_0), K(Z_1), .., K(Z_N)    (but isolated: FOCUS's own, exactly)
    l*     = sum_{k in T} (l'_k - alpha * l'_ref)

NOT the published method, and not equivalent to it on every model and task: the ablation of schemes
(docs/composed/README.md) says where the two part. Nearest are ``crossed`` and ``stand_in``: in
FOCUS noise behind the clean image has seen it, and models notice (what it shows hardly matters).

Cost: the images of plain decoding, crossed all noise but the first as well, and |T| + 1 rows of
text; 2N image encodings, N with sharing scope ``run`` (after the first sample), whose noise, and
stand-ins with it, are run once per layout too. Questions about the same images share those;
isolated, in any order of the questions and with every strategy of that flow.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, final

from torch import Tensor

from focus.branches import BranchPlan, with_plain_row
from focus.checks import Share
from focus.contrast import check_aggregation, combine
from focus.decoding.base import Request
from focus.decoding.branching import AbstractBranching
from focus.decoding.rows import Pass
from focus.errors import InvalidValueError
from focus.models.loading import VisionLanguageModel
from focus.routing import route


@final
@dataclass(frozen=True)
class ComposedFocus(AbstractBranching):
    """FOCUS whose rows share keys and values of images; see the head of this file.

    Args:
        flow: ``kept``, an image sees those of its kind before it; ``crossed``, noise behind a clean
            image sees the clean images before it; ``stand_in``, it sees photographs there, for
            which noise of a ``run`` is best; ``isolated``, no image sees another.
        routed: mix the branches as `RoutedFocus` does, with a plain row of the same flow; it has no
            use for `beta` and `aggregation`.
        beta, aggregation: see `Focus`.
        alpha, noise, single_image, targets, encode_batch: see
            `focus.decoding.branching.BranchSettings`.
        sharing: noise per ``sample`` or per ``run``; drawn for every branch anew there would be
            nothing to share.
        prefill: ``shared`` alone.

    Raises:
        InvalidValueError: a value that is not accepted.
        UnknownNameError: there is no such aggregation.
    """

    flow: Literal["kept", "crossed", "stand_in", "isolated"] = "kept"
    routed: bool = False
    beta: Share = 0.0
    aggregation: str = "sum"

    name: ClassVar[str] = "composed_focus"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_aggregation(self.aggregation)
        if self.sharing == "branch":
            accepted = "'sample' or 'run': rows that share nothing cannot be composed"
            raise InvalidValueError("sharing", self.sharing, accepted)
        if self.prefill != "shared":
            raise InvalidValueError("prefill", self.prefill, "'shared', which is what it is about")

    def plan(self, request: Request) -> BranchPlan:
        """The rows of FOCUS; routed, and last the one with all images clean."""
        plan = super().plan(request)
        return with_plain_row(plan) if self.routed else plan

    def one_pass(self, vlm: VisionLanguageModel, request: Request) -> Pass:
        return replace(super().one_pass(vlm, request), flow=self.flow)

    def _combine(self, logits: Tensor) -> Tensor:
        if self.routed:
            return route(logits[1:-1], logits[0], logits[-1], alpha=self.alpha)
        return combine(
            logits[1:], logits[0], alpha=self.alpha, beta=self.beta, aggregation=self.aggregation
        )
