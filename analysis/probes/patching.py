"""What moves when states of another run are put in, see `focus.probes.patching`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis.probes.common import grouped, heat_maps, observed, rate, ratio
from focus.hooks import GROUPS
from focus.probes.patching import EVERYTHING, NOTHING

KEYS = ("model", "changed", "tokens", "place")


def table(records: Sequence[Mapping[str, Any]], folder: Path) -> pd.DataFrame:
    """One line for every model, changed image, group of tokens and place in the stream.

    Returns:
        ``recovery`` with its interval, and divided by the tokens of the group
        (``recovery_per_token``); of the answers that leak (or are right) and that the other run
        changes, their number ``leaked_n`` (``right_n``) and the share that follows it,
        ``leaked_follow`` (``right_follow``) with its interval.
    """
    return grouped(observed(records), KEYS, _line)


def _line(part: pd.DataFrame) -> dict[str, Any]:
    found = ratio(part["toward"], part["distance"], part["cluster"], name="recovery")
    line: dict[str, Any] = {
        "n": found["n"],
        "recovery": found["recovery"],
        "recovery_low": found["low"],
        "recovery_high": found["high"],
        "recovery_per_token": found["recovery"] / max(part["count"].mean(), 1),
    }
    for kind in ("leaked", "right"):
        of = part[(part["before"] == kind) & part["follows"].notna()]
        follow = rate(of["follows"], of["cluster"])
        line |= {f"{kind}_n": follow["n"], f"{kind}_follow": follow["share"]}
        line |= {f"{kind}_follow_{end}": follow[end] for end in ("low", "high")}
    return line


def headline(found: pd.DataFrame) -> pd.DataFrame:
    """Recovery by place, without its intervals."""
    wide = found.pivot_table(
        index=["model", "changed", "tokens"], columns="place", values="recovery", sort=False
    )
    return wide.reset_index()


def figure(found: pd.DataFrame) -> Figure:
    """Recovery by group and place: another image changed, and the asked one."""
    shown = found[~found["tokens"].isin([EVERYTHING, NOTHING])].copy()
    order = {name: k for k, name in enumerate(GROUPS)}
    shown = shown.sort_values(["model", "tokens", "place"], key=_by(order), kind="stable")
    shown["changed"] = shown["changed"] + " changed"
    return heat_maps(
        shown, rows="tokens", columns="place", value="recovery", across="changed",
        label="place in the residual stream (0: embeddings): recovery of the other run",
    )  # fmt: skip


def _by(order: Mapping[str, int]) -> Any:
    return lambda column: column.map(order) if column.name == "tokens" else column
