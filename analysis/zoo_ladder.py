"""The ladder of recipes: points along both of its axes, and what is said of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.zoo import POINT, focus_points

#: From this rate on the prose speaks of leakage.
LEAKS = 0.05
NONE_YET = "No runs of the ladder are recorded yet."


def abstention_label(abstention: str, share: float) -> str:
    """Name of a step of the ladder's abstention axis."""
    if abstention == "none":
        return "none"
    place = "single noise image" if abstention == "single" else "noise among several"
    return f"{place} {share:.0%}"


def ladder_points(frame: pd.DataFrame) -> pd.DataFrame:
    """`focus_points` of the ladder, with ``abstains`` (`abstention_label`) and its ``step``."""
    points = focus_points(frame, POINT)
    if points.empty:
        return points
    pairs = list(zip(points["abstention"], points["abstain_share"], strict=True))
    order = {"none": 0, "single": 1, "multi": 2}
    steps = sorted(set(pairs), key=lambda pair: (order.get(pair[0], 3), pair[1]))
    points["abstains"] = [abstention_label(*pair) for pair in pairs]
    points["step"] = [steps.index(pair) for pair in pairs]
    return points


#: Axes of the ladder: name, column along the axis, column of what is held, both with labels.
AXES = {
    "several clean images": ("clean_multi", "abstains"),
    "abstention": ("abstains", "clean_multi"),
}


def ladder_lines(points: pd.DataFrame, axis: str) -> list[tuple[str, pd.DataFrame]]:
    """Runs along one axis of the ladder, by what was held fixed: at least three steps each."""
    along, fixed = AXES[axis]
    keys = ["family", "world", fixed]
    varied = [name for name in ("family", "world") if points[name].nunique() > 1]
    lines = []
    for values, part in points.groupby(keys, sort=False):
        if part[along].nunique() < 3:
            continue
        held = values[-1]
        label = f"{held:.0%} several clean" if fixed == "clean_multi" else f"abstention: {held}"
        where = "".join(f"{part[name].iloc[0]}, " for name in varied)
        ordered = part.sort_values([along if along == "clean_multi" else "step", "seed"])
        lines.append((where + label, ordered))
    return lines


def ladder_parts(runs: Sequence[Mapping[str, Any]], ladder: pd.DataFrame) -> list[str]:
    """The section of the page."""
    if not runs:
        return [NONE_YET]
    points = ladder_points(ladder)
    seeds = points.groupby(["family", "clean_multi", "abstains"])["seed"].nunique()
    worlds = ", ".join(dict.fromkeys(points["world"]))
    return [
        f"{len(runs)} runs of one recipe each, at {len(seeds)} places of two axes: share of "
        "questions about several clean images, and abstention. Seeds per place: "
        f"{' to '.join(map(str, sorted({seeds.min(), seeds.max()})))}. Measured on {worlds}; "
        "indexed questions with two images where nothing else is said.",
        "![Leakage and FOCUS minus plain along both axes](ladder.png)",
        *ladder_prose(points),
    ]


def ladder_prose(points: pd.DataFrame) -> list[str]:
    """Per line of the ladder: where plain decoding leaks, and where FOCUS gains and loses."""
    paragraphs = []
    for axis, (along, _) in AXES.items():
        sentences = []
        for label, line in ladder_lines(points, axis):
            places = list(dict.fromkeys(line[along]))
            names = [f"{place:.0%}" if along == "clean_multi" else place for place in places]
            parts = [line[line[along] == place] for place in places]
            leaks = ", ".join(
                f"{name}: {part['plain_leakage'].mean():.3f} ({len(part)})"
                for name, part in zip(names, parts, strict=True)
            )
            effects = ", ".join(
                f"{name}: {part['delta'].mean():+.3f}"
                for name, part in zip(names, parts, strict=True)
            )
            every = list(zip(names, parts, strict=True))
            sentences.append(
                f"- {label}. Plain leakage, mean over seeds (runs): {leaks}; "
                f"at least {LEAKS} in every seed at: "
                f"{_listed(n for n, p in every if (p['plain_leakage'] >= LEAKS).all())}; below "
                f"{LEAKS} in every seed at: "
                f"{_listed(n for n, p in every if (p['plain_leakage'] < LEAKS).all())}. "
                f"FOCUS minus plain, mean over seeds: {effects}; interval above zero in every seed "
                f"at: {_listed(n for n, p in every if (p['delta_low'] > 0).all())}; below zero in "
                f"every seed at: {_listed(n for n, p in every if (p['delta_high'] < 0).all())}."
            )
        if sentences:
            paragraphs += [f"Along {axis}, with what was held fixed:", "\n".join(sentences)]
    return paragraphs


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
