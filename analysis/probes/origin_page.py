"""What docs/mechanism.md says of where leakage begins, from docs/probes/origin.csv."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import pandas as pd

from analysis.kinds import model_kinds
from analysis.probes.common import pointed
from analysis.probes.origin import WORLDS, along, recipes
from analysis.probes.pages import interval
from focus.worlds.questions import MAX_IMAGES

#: Fewer leaked answers tell no share.
LEAST = 10
#: Shares of a mixture that are questions about several images.
SEVERAL = ("clean_multi", "masked_multi", "abstain_multi", "guess_multi")
#: Columns of the table: in the words of the page, and how they are written.
COLUMNS = {
    "alone": ("asked image alone", "{:.2f}"),
    "plain": ("plain decoding", "{:.2f}"),
    "excess": ("leakage beyond chance", "{:.2f}"),
    "gain": ("FOCUS minus plain", "{:+.2f}"),
    "text_moved": ("leaks that move: text cut", "{:.2f}"),
    "images_moved": ("images cut", "{:.2f}"),
    "mixing": ("mixing", "{:.3f}"),
}


@dataclass(frozen=True)
class Stages:
    """The stages of a recipe.

    Args:
        ends: last step of each, by name, in order.
        single: last step before the first question about several images.
    """

    ends: Mapping[str, int]
    single: int

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Stages:
        """Of the record of a model that was trained in these stages."""
        stages = record["recipe"]["stages"]
        ends = dict(zip([s["name"] for s in stages], accumulate(s["steps"] for s in stages),
                        strict=True))  # fmt: skip
        several = [sum(v for k, v in s["mixture"].items() if k in SEVERAL) > 0 for s in stages]
        return cls(ends, [0, *ends.values()][several.index(True)])


def origin_markdown(found: pd.DataFrame, points: pd.DataFrame, stages: Stages) -> str:
    """A table of the first kept model, the last before several images and the last, and what
    follows.

    Args:
        found: of `analysis.probes.origin.table`.
        points: of `analysis.zoo_ladder.ladder_points`.
        stages: of the recipes of the trainings.
    """
    kept = _kept(found, stages)
    told = [*_sentences(kept), _ladder(points), _by_number(found)]
    return "\n\n".join([_table(kept), "\n".join(f"- {each}" for each in told)])


def _kept(found: pd.DataFrame, stages: Stages) -> pd.DataFrame:
    """Models of all trainings, once each: ``training``, its kind, or "all" where it was still the
    same, ``stage``, and ``before`` the first question about several images."""
    runs = along(found[found["num_images"] == 2])
    kinds = model_kinds(runs, {})
    lines = pd.concat([lines.assign(training=kinds[run]) for run, lines in runs.items()])
    lines = lines.groupby(["benchmark", "step", "model"], sort=False).agg(
        {name: "first" for name in lines if name not in ("benchmark", "step", "model", "training")}
        | {"training": lambda kinds: kinds.iloc[0] if len(kinds) == 1 else "all"}
    ).reset_index()  # fmt: skip
    lines["stage"] = [
        next(name for name, end in stages.ends.items() if step <= end) for step in lines["step"]
    ]
    return lines.assign(before=lines["step"] <= stages.single)


def _table(kept: pd.DataFrame) -> str:
    own = kept[kept["benchmark"] == f"{next(iter(WORLDS))}_indexed"].sort_values("step")
    before, after = own[own["before"]], own[~own["before"]]
    ends = after.groupby("training", sort=True).tail(1).sort_values("training")
    own = pd.concat([before.head(1), before.tail(1), ends])
    rows = [
        {
            "training": row["training"],
            "step": f"{row['step']} ({row['stage']})",
            **{title: interval(row, name, form) for name, (title, form) in COLUMNS.items()},
        }
        for row in own.to_dict("records")
    ]
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def _sentences(kept: pd.DataFrame) -> list[str]:
    before, after = kept[kept["before"]], kept[~kept["before"]]
    told = [
        f"*Before any question about several images* ({len(before)} models and worlds) answers "
        f"leak beyond chance in {_sure(before['excess_low'] > 0)} ({_range(before['excess'])} of "
        f"them), while {_range(before['alone'])} about the asked image alone are right. "
        f"{_focus(before)}",
    ]
    if after.empty:
        return told
    parts = {"before": before, "after": after}
    moved = {
        edge: ", ".join(
            f"{_range(part.loc[part['leaked_n'] >= LEAST, f'{edge}_moved'])} {name}"
            for name, part in parts.items()
        )
        for edge in ("text", "images")
    }
    mixing = ", ".join(f"{_range(part['mixing'], 3)} {name}" for name, part in parts.items())
    last = after.sort_values("step").groupby(["training", "benchmark"]).tail(1)
    last = last.sort_values("benchmark", ascending=False)  # scenes before digits
    ends = [
        f"{kind} {', '.join(map(pointed, own['excess']))} (FOCUS "
        f"{', '.join(pointed(gain, sign='+') for gain in own['gain'])})"
        for kind, own in last.groupby("training")
    ]
    return [
        *told,
        f"*Afterwards* ({len(after)}) in {_sure(after['excess_low'] > 0)} "
        f"({_range(after['excess'])}); at the last step, in {' and '.join(WORLDS)}: "
        f"{'; '.join(ends)}. {_focus(after)}",
        f"*The way, before and after.* Of leaked answers (where there are {LEAST}), cutting the "
        f"other image from the text moves {moved['text']}; cutting images from each other "
        f"{moved['images']}. Mixing: {mixing}.",
    ]


def _focus(lines: pd.DataFrame) -> str:
    return (
        f"FOCUS gains in {_sure(lines['gain_low'] > 0)} and loses in "
        f"{_sure(lines['gain_high'] < 0)} ({_range(lines['gain'], sign='+')})."
    )


def _by_number(found: pd.DataFrame) -> str:
    """Final models, all worlds."""
    final = found[found["step"].isna()]
    told = [
        f"{number}: {_range(own['excess'])} ({pointed(1 - 1 / number)}), FOCUS "
        f"{_range(own['gain'], sign='+')}"
        for number, own in final.groupby("num_images")
    ]
    return (
        "*By number of images* (the three stored models, both worlds; trained on 2 to "
        f"{MAX_IMAGES}, mostly 2), leakage beyond chance (in brackets what reading an image at "
        f"random would leak) and FOCUS minus plain: {'; '.join(told)}."
    )


def _ladder(points: pd.DataFrame) -> str:
    """Short recipes, means over seeds and worlds, at both ends."""
    told = [
        f"{level} {pointed(means['plain_leakage'].iloc[0])} to "
        f"{pointed(means['plain_leakage'].iloc[-1])}, FOCUS "
        f"{pointed(means['delta'].iloc[0], sign='+')} to "
        f"{pointed(means['delta'].iloc[-1], sign='+')}"
        for level, means in recipes(points)
    ]
    shares = points["clean_multi"]
    return (
        f"*By recipe* ([ladder](zoo/README.md)): from {shares.min():.0%} to {shares.max():.0%} of "
        f"questions about several clean images, leakage and FOCUS minus plain go, by what was "
        f"learned to abstain from: {'; '.join(told)}."
    )


def _sure(told: pd.Series) -> str:
    return f"{int(told.sum())} of {len(told)}"


def _range(values: pd.Series, digits: int = 2, sign: str = "") -> str:
    if values.empty:
        return "none"
    return f"{pointed(values.min(), digits, sign)} to {pointed(values.max(), digits, sign)}"
