"""Which image is clean in which row: the branch plan of a prompt.

FOCUS (arXiv 2508.13744) runs one prompt several times, each time with other images in the same
slots. A *row* is one such run: the noise-only *reference*, or a *branch* in which the images of
one target unit are clean. This module says what stands in each slot of each row; it knows nothing
of pixels, tokens or logits. Two slots with equal `Content` hold the same image, which is what the
prefill shares.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from focus.errors import InvalidValueError

SharingScope = Literal["branch", "sample", "run"]
SHARING_SCOPES: tuple[str, ...] = get_args(SharingScope)
Kind = Literal["clean", "noise", "blend", "hidden", "stand-in"]
Unit = tuple[int, ...]

#: Row index used in the random key of the reference when every row draws noise of its own.
REFERENCE_ROW = -1


@dataclass(frozen=True)
class Content:
    """What stands in one image slot of one row.

    Args:
        slot: index of the image in the prompt, from 0.
        kind: ``clean`` image, pure ``noise``, ``blend`` of both (noise scale below 1), the clean
            image ``hidden`` from the text of the row, or a ``stand-in`` for it, which no row shows:
            noise alone may have seen it (`focus.composed`).
        row: index of the branch that the noise was drawn for (`REFERENCE_ROW` for the reference),
            or None when all rows share one draw.
    """

    slot: int
    kind: Kind
    row: int | None = None


Row = tuple[Content, ...]


@dataclass(frozen=True)
class BranchPlan:
    """Rows to run for one prompt.

    Args:
        rows: the reference first (where there is one), then one row per branch.
        has_reference: whether row 0 is the noise-only reference.
        units: the images that are clean in each branch.
    """

    rows: tuple[Row, ...]
    has_reference: bool
    units: tuple[Unit, ...]

    @property
    def contents(self) -> tuple[Content, ...]:
        """Every distinct content, in order of first use: the images to encode."""
        return tuple(dict.fromkeys(content for row in self.rows for content in row))

    @property
    def labels(self) -> tuple[str, ...]:
        """A name for each row, images counted from 1."""
        names = tuple(map(unit_label, self.units))
        return (("reference", *names)) if self.has_reference else names


def unit_label(unit: Iterable[int]) -> str:
    """Name of the row in which these images are clean.

    >>> unit_label([0, 2])
    'image 1+3'
    """
    return "image " + "+".join(str(k + 1) for k in unit)


def clean_plan(num_images: int) -> BranchPlan:
    """One row in which every image is clean: ordinary decoding.

    >>> len(clean_plan(3).rows)
    1
    """
    row = tuple(Content(slot, "clean") for slot in range(num_images))
    return BranchPlan(rows=(row,), has_reference=False, units=(tuple(range(num_images)),))


def target_units(
    num_images: int, targets: Sequence[int | Sequence[int]] | None
) -> tuple[Unit, ...]:
    """Target units of a prompt: None means that every image is a unit of its own.

    Args:
        num_images: images in the prompt.
        targets: image indices from 0; a nested sequence (all frames of one clip) is one unit whose
            images stay clean together.

    Raises:
        InvalidValueError: an index out of range, an empty unit, or an image in two units.

    >>> target_units(4, [0, (2, 3)])
    ((0,), (2, 3))
    """
    if targets is None:
        return tuple((k,) for k in range(num_images))
    accepted = f"distinct image indices from 0 to {num_images - 1}, in non-empty units"
    if not isinstance(targets, Sequence):
        raise InvalidValueError("targets", targets, f"a list of {accepted}")
    units = tuple(tuple(t) if isinstance(t, Sequence) else (t,) for t in targets)
    used = [k for unit in units for k in unit]
    valid = all(type(k) is int and 0 <= k < num_images for k in used)
    if not units or not all(units) or not valid or len(set(used)) != len(used):
        raise InvalidValueError("targets", targets, accepted)
    return units


def focus_plan(
    num_images: int,
    *,
    targets: Sequence[int | Sequence[int]] | None = None,
    sharing: SharingScope = "sample",
    scale: float = 1.0,
) -> BranchPlan:
    """Reference and branches of FOCUS (arXiv 2508.13744, definition of the method).

    Args:
        num_images: images in the prompt, at least 1.
        targets: images to focus on, see `target_units`; None for all.
        sharing: ``branch`` draws noise for every row anew, as published; ``sample`` and ``run``
            share one noise image per slot between all rows.
        scale: noise scale of the masked images of the branches, in [0, 1]; below 1 they are blends
            of image and noise. The reference always uses pure noise, as published.

    Raises:
        InvalidValueError: no images, unknown sharing scope, or invalid targets.
    """
    if num_images < 1:
        raise InvalidValueError("num_images", num_images, "at least 1")
    if sharing not in SHARING_SCOPES:
        raise InvalidValueError("sharing", sharing, f"one of {', '.join(SHARING_SCOPES)}")
    units = target_units(num_images, targets)
    masked: Kind = "noise" if scale == 1 else "blend"

    def draw(row: int) -> int | None:
        return row if sharing == "branch" else None

    reference = tuple(Content(j, "noise", draw(REFERENCE_ROW)) for j in range(num_images))
    branches = tuple(
        tuple(
            Content(j, "clean") if j in unit else Content(j, masked, draw(row))
            for j in range(num_images)
        )
        for row, unit in enumerate(units)
    )
    return BranchPlan(rows=(reference, *branches), has_reference=True, units=units)


def hidden_plan(
    num_images: int, *, targets: Sequence[int | Sequence[int]] | None = None
) -> BranchPlan:
    """The rows of FOCUS where images are hidden from the text rather than masked by noise.

    Args:
        num_images, targets: see `focus_plan`.

    Raises:
        InvalidValueError: no images, or invalid targets.
    """
    plan = focus_plan(num_images, targets=targets)
    rows = tuple(
        tuple(Content(c.slot, "clean" if c.kind == "clean" else "hidden") for c in row)
        for row in plan.rows
    )
    return replace(plan, rows=rows)


def with_plain_row(plan: BranchPlan) -> BranchPlan:
    """The same rows, and last the one with all images clean; a plan without reference is that."""
    if not plan.has_reference:
        return plan
    plain = clean_plan(len(plan.rows[0]))
    return replace(plan, rows=(*plan.rows, *plain.rows), units=(*plan.units, *plain.units))
