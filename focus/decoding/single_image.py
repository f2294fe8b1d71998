"""Only the target images are kept: the upper bound of what isolating images can gain.

Source: the single-image condition of the probe in arXiv 2508.13744 (v1, Figure 1), which asks about
one image of a pair shown alone. It is no method: unlike FOCUS, it must be told which images the
question is about. With target images T and noise Z, logits are those of one row:

    removed   l* = logits(I_k for k in T, x without the other placeholders, y_<t)
    noise     l* = logits(I_k where k in T, else Z_k, x, y_<t)

What is kept of the text. ``removed`` drops the placeholders of the other images and not a word
more: labels ("first image :") and ordinals ("in the second image") stay. Which words belong to an
image is known to the data set alone (the authors' probe words its single-image question anew: "for
the image", not "for the first image"), and to guess would change some questions and not others. A
model may stumble over words about an image that is not there; ``noise`` keeps every word true and
every position as in plain decoding. It is the on-target branch of FOCUS on its own (all targets in
one row), what an aggregation that always found that branch would give.

Cost: one row, one forward pass per token; |T| image encodings (``removed``) or N (``noise``).

Cannot apply where the targets are unknown, and says nothing where the question needs every image
(all of them are targets: plain decoding). Where an option IS an image, removing it empties the
option.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, final

from focus.branches import BranchPlan, Unit, clean_plan, focus_plan, target_units
from focus.checks import check_fields
from focus.decoding.base import Request
from focus.decoding.rows import AbstractPassDecoding, Pass, only_row
from focus.errors import InvalidValueError
from focus.images import IMAGE_PLACEHOLDER
from focus.models.loading import VisionLanguageModel
from focus.noise import NoiseConfig
from focus.prompts import place_images


@final
@dataclass(frozen=True)
class SingleImage(AbstractPassDecoding):
    """The target images alone; plain decoding where all images are targets.

    Args:
        others: what becomes of the other images: ``removed`` with their placeholders, or ``noise``
            in their place.
        noise: which noise; of no account where the others are removed. It is the draw that FOCUS
            with sharing scope ``sample`` makes.
    """

    others: Literal["removed", "noise"] = "removed"
    noise: NoiseConfig = field(default_factory=NoiseConfig)

    name: ClassVar[str] = "single_image"
    uses_targets: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_fields(self)

    def one_pass(self, vlm: VisionLanguageModel, request: Request) -> Pass:
        """The row for one request.

        Raises:
            InvalidValueError: several images, and the request does not say which are the targets.
        """
        kept = kept_images(request)
        if self.others == "removed":
            request = without_others(request, kept)
            # Rows are named by the places that the images have in the full prompt.
            plan = BranchPlan(clean_plan(len(kept)).rows, has_reference=False, units=(kept,))
        else:
            branch = focus_plan(len(request.images), targets=[kept], scale=self.noise.scale).rows[1]
            plan = BranchPlan((branch,), has_reference=False, units=(kept,))
        return Pass(request, plan, only_row, noise=self.noise)


def kept_images(request: Request) -> Unit:
    """Indices of the target images, ascending; a lone image is its own target.

    Raises:
        InvalidValueError: several images, and the request does not say which are the targets.
    """
    num_images = len(request.images)
    if request.targets:
        units = target_units(num_images, request.targets)
        return tuple(sorted(k for unit in units for k in unit))
    if num_images > 1:
        accepted = (
            f"image indices from 0 to {num_images - 1} for single_image: it keeps only the images "
            "that the question is about, and cannot find out by itself which they are"
        )
        raise InvalidValueError("targets", request.targets, accepted)
    return tuple(range(num_images))


def without_others(request: Request, kept: Unit) -> Request:
    """The request about the images in `kept` alone; nothing else of it changes."""
    question = place_images(request.question, len(request.images))
    dropped = set(range(len(request.images))) - set(kept)
    return replace(
        request,
        images=tuple(request.images[k] for k in kept),
        question=drop_placeholders(question, dropped),
        targets=None,
    )


def drop_placeholders(question: str, dropped: Collection[int]) -> str:
    """Question without the placeholders of some images, nor the gaps that these would leave.

    >>> drop_placeholders("first : <image> second : <image> which ?", {0})
    'first : second : <image> which ?'
    """
    text, *pieces = question.split(IMAGE_PLACEHOLDER)
    for index, piece in enumerate(pieces):
        if index not in dropped:
            text += IMAGE_PLACEHOLDER
        elif not text.strip():
            text, piece = "", piece.lstrip()
        elif piece[:1].isspace() or index == len(pieces) - 1:
            text = text.rstrip()
        text += piece
    return text
