"""What all strategies that run the branches of FOCUS have in common: which rows, and how run."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from torch import Tensor

from focus.branches import SHARING_SCOPES, BranchPlan, SharingScope, focus_plan
from focus.contrast import validate_alpha
from focus.decoding.base import AbstractDecoding, Decoded, GenerationSettings, Request
from focus.decoding.rows import decode_rows
from focus.errors import InvalidValueError
from focus.generate import check_encode_batch
from focus.models.loading import VisionLanguageModel
from focus.noise import NoiseConfig


@dataclass(frozen=True)
class BranchSettings:
    """Settings of the rows, whatever is made of their logits.

    Args:
        alpha: contrast weight; 0 drops the contrast with the reference. The paper fixes no value.
        noise: what masks the other images.
        sharing: noise drawn anew for every ``branch`` (published), or shared between the rows of a
            ``sample``, or by all samples of a ``run``. Each branch's noise has the same
            distribution in all three.
        targets: ``all`` images, or only the ``named`` ones of requests that name some.
        prefill: ``shared`` prefixes, or the ``naive`` full batch as published (same result).
        encode_batch: images per call of the vision tower.

    Raises:
        InvalidValueError: a value that is not accepted.
    """

    alpha: float = 0.3
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    sharing: SharingScope = "sample"
    targets: Literal["all", "named"] = "all"
    prefill: Literal["shared", "naive"] = "shared"
    encode_batch: int = 8

    def __post_init__(self) -> None:
        validate_alpha(self.alpha)
        if self.sharing not in SHARING_SCOPES:
            raise InvalidValueError("sharing", self.sharing, f"one of {', '.join(SHARING_SCOPES)}")
        if self.targets not in ("all", "named"):
            raise InvalidValueError("targets", self.targets, "'all' or 'named'")
        if self.prefill not in ("shared", "naive"):
            raise InvalidValueError("prefill", self.prefill, "'shared' or 'naive'")
        if not isinstance(self.noise, NoiseConfig):
            raise InvalidValueError("noise", self.noise, "a NoiseConfig")
        check_encode_batch(self.encode_batch)

    @property
    def branch_settings(self) -> dict[str, Any]:
        """These settings alone, by name: those of another strategy on the same rows."""
        return {each.name: getattr(self, each.name) for each in fields(BranchSettings)}


class AbstractBranching(BranchSettings, AbstractDecoding):
    """A strategy that decodes from the rows of FOCUS in one pass; it says how they are combined."""

    def plan(self, request: Request) -> BranchPlan:
        """Rows for one request: the reference, and a branch for each target unit."""
        targets = request.targets if self.targets == "named" else None
        return focus_plan(
            len(request.images),
            targets=targets or None,
            sharing=self.sharing,
            scale=self.noise.scale,
        )

    @abstractmethod
    def combine(self, logits: Tensor) -> Tensor:
        """Next-token logits ``[sequences, vocab]`` out of those of all rows, in their order.

        Args:
            logits: ``[rows, sequences, vocab]``, the reference first.
        """

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
