"""The contrast weight of a model on a benchmark: chosen on dev by a sweep, read by the tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock
from omegaconf import DictConfig

from analysis.summary import SCORES

Choice = dict[str, Any]


def to_dev(benchmark: DictConfig) -> None:
    """Turns a benchmark's configuration to the part that is for tuning."""
    benchmark["part" if "part" in benchmark else "split"] = "dev"


def choice_path(folder: str, model: str, benchmark: str, protocol: str) -> Path:
    """Where the choice of a model on a benchmark, under a protocol of prompts, is kept."""
    return Path(folder) / f"{benchmark}-{protocol}-{model}.json"


def read_choice(path: Path) -> Choice | None:
    """The choice, or None where the sweep was not run."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def note(
    path: Path,
    alpha: float,
    decoding: str,
    rows: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Any],
) -> Choice:
    """Adds one weight to the curve of a sweep, and chooses anew.

    The choice is the weight with the highest value; of several the smallest, which changes least.

    Args:
        path: see `choice_path`.
        alpha: the weight.
        decoding: name of the strategy, as rows have it.
        rows: of the summary of its run on dev.
        facts: what else to keep (seed, commit).
    """
    own = {row["metric"]: row for row in rows if row["decoding"] == decoding}
    metric = next(name for name in SCORES if name in own)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        known = read_choice(path) or {"curve": {}}
        point = {key: own[metric][key] for key in ("value", "ci_low", "ci_high", "n")}
        curve = {**known["curve"], str(alpha): point}
        curve = dict(sorted(curve.items(), key=lambda item: float(item[0])))
        best = max(curve, key=lambda key: (curve[key]["value"], -float(key)))
        choice = {"alpha": float(best), "metric": metric, **facts, "curve": curve}
        text = json.dumps(choice, indent=2, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")
    return choice
