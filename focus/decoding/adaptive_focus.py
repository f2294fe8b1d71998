"""Adaptive FOCUS: plain decoding first, branches only where its first token is uncertain.

Source: ours; the branches are those of FOCUS (arXiv 2508.13744, see `focus.decoding.focus`). With
p the plain model's distribution of the first token, and p_1 >= p_2 its largest values,

    margin m = p_1 - p_2            (probability)
             = log p_1 - log p_2    (logit: l_1 - l_2, the log-odds of the two)
    m <  threshold    the answer is FOCUS's (or routed FOCUS's), from its first token on
    m >= threshold    the answer is plain decoding's

The margin is that of the model itself: before temperature, top-p and logits processors. One
decision holds for the whole answer and for all returned sequences. Threshold 0 is plain decoding
and infinity is FOCUS, neither with a pass that it does not need.

Cost: sure, that of plain decoding: one row, N encodings. Unsure, FOCUS's and the plain prefill
besides: |T| + 2 rows, of which the plain one never decodes a token. The branches reuse the clean
images of the plain pass, so encodings are FOCUS's own and the N - |T| images that no branch shows
clean (`prefill` ``naive`` shares nothing: N more). Routed, the plain row is run with the branches
too, to weigh them at every token: |T| + 3 rows.

Cannot help where the plain model is sure and wrong: leakage that it never doubts stays. Where an
answer's first token decides nothing ("The ..."), the margin measures the wrong token.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, cast, final

from pydantic import Field
from torch import Tensor

from focus.checks import Share, check_fields
from focus.composed import Flow
from focus.decoding.base import AbstractDecoding, Decoded, GenerationSettings, Request
from focus.decoding.branching import BranchSettings
from focus.decoding.composed_focus import ComposedFocus
from focus.decoding.focus import Focus
from focus.decoding.reuse import remembering
from focus.decoding.routed_focus import RoutedFocus
from focus.decoding.rows import Pass, clean_rows, decode_pass, decode_passes
from focus.engines.base import AbstractEngine
from focus.errors import FocusError, InvalidValueError
from focus.generate import KeepLogits
from focus.models.loading import VisionLanguageModel

Margin = Literal["probability", "logit"]


@final
@dataclass(frozen=True)
class AdaptiveFocus(BranchSettings, AbstractDecoding):
    """FOCUS where plain decoding is unsure of its first token, plain decoding elsewhere.

    Args:
        threshold: margin below which branches are run; 0 never, infinity always. To be tuned on
            dev.
        margin: of the two most likely first tokens: difference in ``probability`` or in ``logit``.
        routed: mix the branches as `RoutedFocus` does, which has no use for `beta` and
            `aggregation`.
        flow: keys and values of images are each ``row``'s own, or composed, see `ComposedFocus`.
            Composed, both passes run the images once; crossed, once each.
        beta, aggregation: see `Focus`.
        alpha, noise, sharing, single_image, targets, prefill, encode_batch: see
            `focus.decoding.branching.BranchSettings`.
    """

    threshold: Annotated[float, Field(ge=0)] = 0.5
    margin: Margin = "probability"
    routed: bool = False
    flow: Flow = "row"
    beta: Share = 0.0
    aggregation: str = "sum"

    name: ClassVar[str] = "adaptive_focus"

    def __post_init__(self) -> None:
        check_fields(self)
        if self.margin == "probability" and 1 < self.threshold < math.inf:
            accepted = "in [0, 1], or infinity, where margin='probability'"
            raise InvalidValueError("threshold", self.threshold, accepted)
        _ = self.focus  # refuses bad settings of the branches now, not at the first unsure answer
        for name, off in (("beta", 0), ("aggregation", "sum")):
            if self.routed and getattr(self, name) != off:
                accepted = f"{off!r} where routed=True, which mixes the branches in its own way"
                raise InvalidValueError(name, getattr(self, name), accepted)

    @property
    def focus(self) -> Focus | RoutedFocus | ComposedFocus:
        """The strategy that takes over."""
        if self.flow != "row":
            return ComposedFocus(flow=self.flow, routed=self.routed, beta=self.beta,
                                 aggregation=self.aggregation, **self.branch_settings)  # fmt: skip
        if self.routed:
            return RoutedFocus(**self.branch_settings)
        return Focus(beta=self.beta, aggregation=self.aggregation, **self.branch_settings)

    def decode(
        self,
        vlm: VisionLanguageModel,
        request: Request,
        settings: GenerationSettings,
        *,
        keep_logits: KeepLogits = "none",
        **generate_kwargs: Any,
    ) -> Decoded:
        """Answers one request; rows, encodings and seconds are those of both passes together."""
        generate_kwargs["keep_logits"] = keep_logits
        if self.threshold == 0 or not self.focus.plan(request).has_reference:
            plain = self._plain(request, never=True)
            return decode_pass(vlm, plain, settings, **generate_kwargs)
        if self.threshold == math.inf:
            return self.focus.decode(vlm, request, settings, **generate_kwargs)
        started = time.perf_counter()
        vlm = remembering(vlm)
        plain = self._plain(request)
        decoded = decode_pass(vlm, plain, settings, **generate_kwargs)
        if not _given_up(decoded):
            return decoded
        if generate_kwargs.get("streamer") is not None:
            generate_kwargs["streamer"] = _AfterPrompt(generate_kwargs["streamer"])
        answer = self.focus.decode(vlm, request, settings, **generate_kwargs)
        return replace(
            self._both(request, decoded, answer),
            seconds=time.perf_counter() - started,
        )

    def decode_many(
        self,
        engine: AbstractEngine,
        requests: Sequence[Request],
        settings: GenerationSettings,
        *,
        keep_logits: KeepLogits = "none",
    ) -> list[Decoded | FocusError]:
        """Plain decoding of all together, then the branches where it was unsure."""
        plans = [self.focus.plan(request) for request in requests]
        found: dict[int, Decoded | FocusError] = {}
        if self.threshold < math.inf:
            passes = [
                self._plain(request, never=self.threshold == 0 or not plan.has_reference)
                for request, plan in zip(requests, plans, strict=True)
            ]
            answers = decode_passes(engine, passes, settings, keep_logits=keep_logits)
            found = {i: each for i, each in enumerate(answers) if not _given_up(each)}
        unsure = [i for i in range(len(requests)) if i not in found]
        asked = [requests[i] for i in unsure]
        branched = self.focus.decode_many(engine, asked, settings, keep_logits=keep_logits)
        for i, answer in zip(unsure, branched, strict=True):
            if self.threshold < math.inf and isinstance(answer, Decoded):
                plain = cast(Decoded, answers[i])
                both = self._both(requests[i], plain, answer)
                answer = replace(both, seconds=plain.seconds + answer.seconds)
            found[i] = answer
        return [found[i] for i in range(len(requests))]

    def _plain(self, request: Request, *, never: bool = False) -> Pass:
        """Plain decoding that ends at its first token where it is unsure; or never."""
        unsure = None if never else self._unsure
        plan, combine = clean_rows(len(request.images))
        return Pass(request, plan, combine, flow=self.flow, encode_batch=self.encode_batch,
                    give_up=unsure)  # fmt: skip

    def _unsure(self, logits: Tensor) -> bool:
        return first_margin(logits, self.margin) < self.threshold

    def _both(self, request: Request, plain: Decoded, answer: Decoded) -> Decoded:
        """The branches' answer, at the cost of both passes."""
        contents = self.focus.plan(request).contents
        reused = 0 if self.prefill == "naive" else sum(each.kind == "clean" for each in contents)
        return replace(
            answer,
            num_rows=plain.num_rows + answer.num_rows,
            num_encoded=plain.num_encoded + answer.num_encoded - reused,
        )


def first_margin(logits: Tensor, margin: Margin) -> float:
    """Distance between the two most likely tokens.

    Args:
        logits: ``[vocab]``.
        margin: as a difference in ``probability``, in [0, 1], or in ``logit``.

    >>> import torch
    >>> first_margin(torch.tensor([3.0, 0.5, 2.0]), "logit")
    1.0
    """
    first, second = (logits.softmax(-1) if margin == "probability" else logits).topk(2).values
    return float(first - second)


def _given_up(answer: Decoded | FocusError) -> bool:
    return isinstance(answer, Decoded) and not answer.token_ids[0]


class _AfterPrompt:
    """A streamer that has already heard the prompt, from the pass that was given up."""

    def __init__(self, streamer: Any) -> None:
        self._streamer, self._heard_prompt = streamer, False

    def put(self, value: Tensor) -> None:
        if self._heard_prompt:
            self._streamer.put(value)
        self._heard_prompt = True

    def end(self) -> None:
        self._streamer.end()
