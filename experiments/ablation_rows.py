"""Which rows of FOCUS an ablation runs: the axes that need new rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from focus.benchmarks.base import Example
from focus.benchmarks.embedded import asked_view, view_units
from focus.decoding import AbstractDecoding, ComposedFocus, Focus, MaskedFocus, Request
from focus.errors import InvalidValueError, UnknownNameError
from focus.noise import NoiseConfig
from focus.tinted import TINTS, Tint, Tinted

TARGETS = ("units", "all", "named", "pairs")
#: How a row's text is kept from the other images: by noise in a sequence of its own, by noise
#: beside shared keys and values of images (crossed, stand_in: noise behind the clean image has seen
#: clean ones, or photographs; isolated: no image sees another), or by attention alone. Which flow:
FLOWS: dict[str, Literal["kept", "crossed", "stand_in", "isolated"]] = {
    "composed": "kept", "crossed": "crossed", "stand_in": "stand_in", "isolated": "isolated",
}  # fmt: skip
SCHEMES = ("focus", *FLOWS, "masked")


@dataclass(frozen=True)
class Rows:
    """Which rows of FOCUS are run; the fields are columns of the records.

    Args:
        noise, scale, severity, seed: see `focus.noise.NoiseConfig`.
        sharing: see `focus.decoding.Focus`.
        targets: a branch for each view (``units``), for each image (``all``: a frame of a clip by
            itself), for the asked view alone (``named``) or for two views together (``pairs``).
        tint: see `focus.tinted`.
        scheme: one of `SCHEMES`.
    """

    noise: str = "imagenet+uniform"
    scale: float = 1.0
    severity: int = 3
    seed: int = 0
    sharing: str = "sample"
    targets: str = "units"
    tint: Tint = "none"
    scheme: str = "focus"

    def __post_init__(self) -> None:
        if self.targets not in TARGETS:
            raise InvalidValueError("targets", self.targets, f"one of {', '.join(TARGETS)}")
        if self.scheme not in SCHEMES:
            raise UnknownNameError("scheme", self.scheme, SCHEMES)
        if self.tint not in TINTS:
            raise UnknownNameError("tint", self.tint, TINTS)
        if self.tint != "none" and self.scheme != "focus":
            raise InvalidValueError("tint", self.tint, "none, unless the scheme is focus")

    @property
    def strategy(self) -> AbstractDecoding:
        """The strategy that runs these rows, with the targets that `request` names.

        With a single image there is a reference, too: what the contrast does there is a question.
        """
        common: dict[str, Any] = {"targets": "named", "single_image": "contrast"}
        if self.scheme == "masked":
            return MaskedFocus(**common)
        common["noise"] = NoiseConfig(self.noise, float(self.scale), self.severity, self.seed)
        common["sharing"] = self.sharing
        if self.scheme == "focus":
            focus = Focus(**common)
            return focus if self.tint == "none" else Tinted(focus, self.tint)
        return ComposedFocus(**common, flow=FLOWS[self.scheme])

    @property
    def columns(self) -> dict[str, Any]:
        """Settings as columns of the records; those of FOCUS have no scheme."""
        return {k: v for k, v in asdict(self).items() if (k, v) != ("scheme", "focus")}

    def units(self, example: Example) -> tuple[int | tuple[int, ...], ...]:
        """The target units of a question, one for each branch; that of the asked image is first
        where noise has its colour, see `focus.tinted`.

        Raises:
            InvalidValueError: a branch for the named image where none is named, or for its colour.
        """
        if not example.targets and (self.targets == "named" or self.tint == "target"):
            raise InvalidValueError("targets", "named", "another one: no image is named here")
        units: tuple[int | tuple[int, ...], ...] = view_units(example)
        if self.targets == "all":
            units = tuple(range(len(example.images)))
        elif self.targets == "pairs":
            units = tuple(sum(units[k : k + 2], ()) for k in range(0, len(units), 2))
        elif self.targets == "named":
            units = example.targets
        if self.tint != "target":
            return units
        asked = set(np.ravel(example.targets[0]))
        return tuple(sorted(units, key=lambda unit: not asked & set(np.ravel(unit))))

    def request(self, request: Request, example: Example) -> Request:
        """`request` with one target unit for each branch."""
        return replace(request, targets=self.units(example))

    def target_branch(self, example: Example) -> int | None:
        """Branch that shows the asked view, if one is asked about."""
        view = asked_view(example)
        if view is None or self.targets == "all":
            return None
        if self.tint == "target":
            return 0
        return {"units": view, "pairs": view // 2, "named": 0}[self.targets]
