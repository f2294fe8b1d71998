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

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from focus.checks import Share
from focus.contrast import check_aggregation, combine
from focus.decoding.base import GenerationSettings
from focus.decoding.branching import AbstractBranching
from focus.noise import NoiseConfig


@final
@dataclass(frozen=True)
class Focus(AbstractBranching):
    """FOCUS (arXiv 2508.13744).

    Cost: |T| + 1 rows per token; N(|T| + 1) image encodings with sharing scope ``branch``, 2N with
    ``sample``, N with ``run`` (after the first sample).

    Args:
        alpha, noise, sharing, single_image, targets, prefill, encode_batch: see
            `focus.decoding.branching.BranchSettings`; the published noise is
            ``imagenet+uniform``, drawn per ``branch``.
        beta: plausibility cut-off in [0, 1], 0 for none (not in the paper; VCD's rule).
        aggregation: how branches are pooled, see `focus.aggregation`; ``sum`` is published.

    Raises:
        InvalidValueError: a value that is not accepted.
        UnknownNameError: there is no such aggregation.
    """

    beta: Share = 0.0
    aggregation: str = "sum"

    name: ClassVar[str] = "focus"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_aggregation(self.aggregation)

    @classmethod
    def official(cls, alpha: float = 0.1) -> Focus:
        """The published protocol without its bugs: fresh noise in every row, full batch.

        Pair it with `official_settings`. The paper fixes no alpha; 0.1 is the example value of the
        authors' README.
        """
        return cls(
            alpha=alpha,
            sharing="branch",
            single_image="published",
            prefill="naive",
            noise=NoiseConfig(seed=42, drawn_at="image"),
        )

    def _combine(self, logits: Tensor) -> Tensor:
        return combine(
            logits[1:],
            logits[0],
            alpha=self.alpha,
            beta=self.beta,
            aggregation=self.aggregation,
        )


def official_settings(max_new_tokens: int = 512, seed: int = 42) -> GenerationSettings:
    """Generation settings of the published protocol: temperature 0.2, else the checkpoint's own."""
    return GenerationSettings(
        max_new_tokens=max_new_tokens,
        temperature=0.2,
        top_p=None,
        top_k=None,
        seed=seed,
        checkpoint_defaults=True,
    )
