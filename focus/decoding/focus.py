"""FOCUS: decode from branches that each see one target image, minus a noise-only reference.

Source: arXiv 2508.13744, "Mitigating Cross-Image Information Leakage in LVLMs for Multi-Image
Tasks" (v1; retitled in later versions). With noise images Z, target units T and contrast weight
alpha,

    branch k    l_k   = logits(Z_1, .., I_k, .., Z_N, x, y_<t)       k in T
    reference   l_ref = logits(Z_1, .., Z_N, x, y_<t)
    combined    l*    = sum_{k in T} (l_k - alpha * l_ref)

and y_t is chosen once from l* and appended to every row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, final

from torch import Tensor

from focus.aggregation import AGGREGATIONS
from focus.branches import SHARING_SCOPES, BranchPlan, SharingScope, focus_plan
from focus.contrast import combine, validate_alpha, validate_beta
from focus.decoding.base import AbstractDecoding, Decoded, GenerationSettings, Request
from focus.decoding.rows import decode_rows
from focus.errors import InvalidValueError, UnknownNameError
from focus.generate import check_encode_batch
from focus.models.loading import VisionLanguageModel
from focus.noise import NoiseConfig


@final
@dataclass(frozen=True)
class Focus(AbstractDecoding):
    """FOCUS (arXiv 2508.13744).

    Cost: |T| + 1 rows per token; N(|T| + 1) image encodings with sharing scope ``branch``, 2N with
    ``sample``, N with ``run`` (after the first sample).

    Args:
        alpha: contrast weight; 0 drops the reference. The paper fixes no value.
        beta: plausibility cut-off in [0, 1], 0 for none (not in the paper; VCD's rule).
        aggregation: how branches are pooled, see `focus.aggregation`; ``sum`` is published.
        noise: what masks the other images.
        sharing: noise drawn anew for every ``branch`` (published), or shared between the rows of a
            ``sample``, or by all samples of a ``run``. Each branch's noise has the same
            distribution in all three.
        targets: ``all`` images, or only the ``named`` ones of requests that name some.
        prefill: ``shared`` prefixes, or the ``naive`` full batch as published (same result).
        encode_batch: images per call of the vision tower.
    """

    alpha: float = 0.3
    beta: float = 0.0
    aggregation: str = "sum"
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    sharing: SharingScope = "sample"
    targets: Literal["all", "named"] = "all"
    prefill: Literal["shared", "naive"] = "shared"
    encode_batch: int = 8

    name: ClassVar[str] = "focus"

    def __post_init__(self) -> None:
        validate_alpha(self.alpha)
        validate_beta(self.beta)
        if self.aggregation not in AGGREGATIONS:
            raise UnknownNameError("aggregation", self.aggregation, AGGREGATIONS)
        if self.sharing not in SHARING_SCOPES:
            raise InvalidValueError("sharing", self.sharing, f"one of {', '.join(SHARING_SCOPES)}")
        if self.targets not in ("all", "named"):
            raise InvalidValueError("targets", self.targets, "'all' or 'named'")
        if self.prefill not in ("shared", "naive"):
            raise InvalidValueError("prefill", self.prefill, "'shared' or 'naive'")
        if not isinstance(self.noise, NoiseConfig):
            raise InvalidValueError("noise", self.noise, "a NoiseConfig")
        check_encode_batch(self.encode_batch)

    @classmethod
    def official(cls, alpha: float = 0.1) -> Focus:
        """The published protocol without its bugs: fresh noise in every row, full batch.

        Pair it with `official_settings`. The paper fixes no alpha; 0.1 is the example value of the
        authors' README.
        """
        return cls(alpha=alpha, sharing="branch", prefill="naive", noise=NoiseConfig(seed=42))

    def plan(self, request: Request) -> BranchPlan:
        """Rows for one request."""
        targets = request.targets if self.targets == "named" else None
        return focus_plan(
            len(request.images),
            targets=targets or None,
            sharing=self.sharing,
            scale=self.noise.scale,
        )

    def combine(self, logits: Tensor) -> Tensor:
        """Next-token logits out of the rows, the reference first.

        Args:
            logits: ``[1 + branches, sequences, vocab]``.

        Returns:
            ``[sequences, vocab]``.
        """
        return combine(
            logits[1:],
            logits[0],
            alpha=self.alpha,
            beta=self.beta,
            aggregation=self.aggregation,
        )

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


def official_settings(max_new_tokens: int = 512, seed: int = 42) -> GenerationSettings:
    """Generation settings of the published protocol: temperature 0.2, the checkpoint's top-p/k."""
    return GenerationSettings(
        max_new_tokens=max_new_tokens, temperature=0.2, top_p=None, top_k=None, seed=seed
    )
