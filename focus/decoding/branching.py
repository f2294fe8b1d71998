"""What all strategies that run the branches of FOCUS have in common: which rows, and how run."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from torch import Tensor

from focus.branches import (
    BranchPlan,
    SharingScope,
    clean_plan,
    focus_plan,
    target_units,
)
from focus.checks import Positive, check_fields
from focus.contrast import ContrastWeight
from focus.decoding.base import Request, Targets
from focus.decoding.rows import AbstractPassDecoding, Pass
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
        single_image: what is done where no image is masked in any branch (one image, or one unit
            that holds all): ``plain`` decoding, since there is nothing to focus on; ``contrast``
            with the reference all the same; or ``published``, as the published code has it for the
            benchmark, see `focus.decoding.base.Request.published_single`.
        targets: ``all`` images, or only the ``named`` ones of requests that name some.
        prefill: ``shared`` prefixes, or the ``naive`` full batch as published. The same result in
            float32; in bfloat16 either rounds in its own way, the one about as far from the exact
            logits as the other, so that close calls may fall differently.
        encode_batch: images per call of the vision tower.

    Raises:
        InvalidValueError: a value that is not accepted.
    """

    alpha: ContrastWeight = 0.3
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    sharing: SharingScope = "sample"
    single_image: Literal["plain", "contrast", "published"] = "plain"
    targets: Literal["all", "named"] = "all"
    prefill: Literal["shared", "naive"] = "shared"
    encode_batch: Positive = 8

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def branch_settings(self) -> dict[str, Any]:
        """These settings alone, by name: those of another strategy on the same rows."""
        return {each.name: getattr(self, each.name) for each in fields(BranchSettings)}


class AbstractBranching(BranchSettings, AbstractPassDecoding):
    """A strategy that decodes from the rows of FOCUS in one pass; it says how they are combined."""

    def plan(self, request: Request) -> BranchPlan:
        """Rows for one request: the reference, and a branch for each target unit.

        One clean row, and no reference, where that means plain decoding (see `single_image`).
        """
        targets = chosen_targets(request, self.targets)
        if means_plain(request, targets, self.single_image):
            return clean_plan(len(request.images))
        return focus_plan(
            len(request.images), targets=targets, sharing=self.sharing, scale=self.noise.scale
        )

    def combine(self, logits: Tensor) -> Tensor:
        """Next-token logits ``[sequences, vocab]`` out of those of all rows, in their order.

        Args:
            logits: ``[rows, sequences, vocab]``, the reference first; a lone row is plain decoding.
        """
        return logits[0] if len(logits) == 1 else self._combine(logits)

    @abstractmethod
    def _combine(self, logits: Tensor) -> Tensor:
        """The same for rows with a reference."""

    def one_pass(self, vlm: VisionLanguageModel, request: Request) -> Pass:
        return Pass(
            request,
            self.plan(request),
            self.combine,
            noise=self.noise,
            per_run=self.sharing == "run",
            prefill=self.prefill,
            encode_batch=self.encode_batch,
        )


def chosen_targets(request: Request, targets: Literal["all", "named"]) -> Targets | None:
    """The images to focus on; None for all."""
    return (request.targets if targets == "named" else None) or None


def means_plain(request: Request, targets: Targets | None, single_image: str) -> bool:
    """Whether no image would be masked in some branch, and that is to be plain decoding."""
    if single_image == "published":
        single_image = request.published_single
    number = len(request.images)
    return single_image == "plain" and any(len(u) == number for u in target_units(number, targets))
