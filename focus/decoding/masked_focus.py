"""Masked FOCUS: images are hidden from the text of a branch by attention, not by noise.

Source: the alternative that arXiv 2508.13744 names as the trade-off of noise, worked out by us. All
images are clean and run once, as in plain decoding; with M_k the mask under which text sees image k
alone, and M_0 that under which it sees none,

    l'_k   = logits(I_1, .., I_N, x, y_<t | M_k)       k in T
    l'_ref = logits(I_1, .., I_N, x, y_<t | M_0)
    l*     = sum_{k in T} (l'_k - alpha * l'_ref)

and y_t is chosen once from l* and appended to every row. No noise is drawn or encoded. Images see
each other as in plain decoding (flow ``kept``), so what one has read of another stays in it, or
not at all (``isolated``). A text without any image to see is unlike what models were trained on.

Cost: images and encodings of plain decoding, |T| + 1 rows of text, keys and values of images once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, final

from torch import Tensor

from focus.branches import clean_plan, hidden_plan
from focus.checks import Positive, Share, check_fields
from focus.contrast import ContrastWeight, check_aggregation, combine
from focus.decoding.base import Request
from focus.decoding.branching import chosen_targets, means_plain
from focus.decoding.rows import AbstractPassDecoding, Pass
from focus.hooks import Layers, checked_layers, chosen_layers
from focus.models.loading import VisionLanguageModel


@final
@dataclass(frozen=True)
class MaskedFocus(AbstractPassDecoding):
    """FOCUS with images hidden by attention; see the head of this file.

    Args:
        alpha: contrast weight in [0, 10]; 0 drops the contrast with the reference.
        flow: ``kept``, images see those before them, or ``isolated``, no other.
        layers: decoder layers in which images are hidden: ``all`` or indices from 0; in the others
            text sees all images, and with no layers at all every row is plain decoding. Indices
            that the model does not have are left out.
        single_image: where all images are targets together, ``plain`` decoding or ``contrast``.
        targets: ``all`` images, or only the ``named`` ones of requests that name some.
        beta, aggregation, encode_batch: see `focus.decoding.focus.Focus`.

    Raises:
        InvalidValueError: a value that is not accepted.
        UnknownNameError: there is no such aggregation.
        UnsupportedGenerationError: when decoding, an attention implementation that takes no mask.
    """

    alpha: ContrastWeight = 0.3
    flow: Literal["kept", "isolated"] = "kept"
    layers: Layers = "all"
    single_image: Literal["plain", "contrast"] = "plain"
    targets: Literal["all", "named"] = "all"
    beta: Share = 0.0
    aggregation: str = "sum"
    encode_batch: Positive = 8

    name: ClassVar[str] = "masked_focus"

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", checked_layers(self.layers))
        check_fields(self)
        check_aggregation(self.aggregation)

    def one_pass(self, vlm: VisionLanguageModel, request: Request) -> Pass:
        targets = chosen_targets(request, self.targets)
        plain = means_plain(request, targets, self.single_image)
        number = len(request.images)
        layers = None if isinstance(self.layers, str) else tuple(self.layers)
        if layers:
            chosen_layers(vlm, layers)  # refuses indices of which the model has none
        return Pass(
            request,
            clean_plan(number) if plain else hidden_plan(number, targets=targets),
            self.combine,
            flow=self.flow,
            layers=layers,
            encode_batch=self.encode_batch,
        )

    def combine(self, logits: Tensor) -> Tensor:
        """Next-token logits ``[sequences, vocab]`` out of those of all rows, in their order.

        Args:
            logits: ``[rows, sequences, vocab]``, the reference first; a lone row is plain decoding.
        """
        if len(logits) == 1:
            return logits[0]
        return combine(
            logits[1:], logits[0], alpha=self.alpha, beta=self.beta, aggregation=self.aggregation
        )
