"""Does a model that was trained again match its card? No model is run: both were measured.

    python -m experiments.train_zoo output=outputs/models checkpoints=outputs/again
    python -m experiments.zoo_check folder=outputs/models/internvl-abstaining

With ``record=docs/zoo/reproduced.json`` the outcome becomes part of the report of the models. On a
CPU with the same versions and one thread the weights come out equal to the bit; elsewhere
rates should stay within the intervals that the card states. Ends with status 1 if they do not.
"""

from __future__ import annotations

from experiments.config import check_command_line

check_command_line("zoo_check", __name__)  # before the seconds that the other imports take

import json
import sys
from pathlib import Path

import pandas as pd
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from analysis.zoo_reproduction import reproduced_sentence, reproduction
from experiments.config import entry_point
from experiments.evaluation import make_console
from focus.errors import UnknownNameError
from focus.zoo.card import RECORD, record_folders

MOST_LINES = 20


@entry_point("zoo_check")
def main(config: DictConfig) -> None:
    """Compares every rate of the two records."""
    kept = None if config.record is None else Path(config.record)
    if not matches(Path(config.folder), Path(config.weights), config.share, make_console(), kept):
        sys.exit(1)


def matches(
    again: Path, weights: Path, share: float, console: Console, kept: Path | None = None
) -> bool:
    """Whether a model matches the card of the stored one, and says so.

    Args:
        again: folder of the model that was trained again.
        weights: folder of all stored models.
        share: of the rates that must lie in their intervals, in [0, 1].
        console: to print the outcome on.
        kept: file for the outcome, one entry a model, which `make report` reads; None for none.

    Raises:
        UnknownNameError: no stored model has this name.
        InvalidValueError: the two records cannot be compared.
    """
    known = record_folders(weights)
    if again.name not in known:
        raise UnknownNameError("model", again.name, known)
    folders = (known[again.name], again)
    stored, other = (json.loads((folder / RECORD).read_text()) for folder in folders)
    frame = reproduction(stored, other)
    first, second = ((folder / "model.safetensors").read_bytes() for folder in folders)
    outside = frame[~frame["inside"]]
    if len(outside):
        console.print(outside_table(outside))
    inside = float(frame["inside"].mean())
    entry = {
        "model": again.name,
        "rates": len(frame),
        "inside": int(frame["inside"].sum()),
        "largest_difference": round(float((frame["again"] - frame["value"]).abs().max()), 5),
        "equal_weights": first == second,
        **{name: other[name] for name in ("recipe_key", "minutes", "hardware", "software")},
    }
    console.print(reproduced_sentence(entry), soft_wrap=True)
    if kept is not None:
        others = json.loads(kept.read_text()) if kept.exists() else []
        entries = [*(each for each in others if each["model"] != again.name), entry]
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(entries, indent=1) + "\n")
    if inside < share:
        console.print(f"not reproduced: {share:.0%} must lie within", soft_wrap=True)
    return inside >= share


def outside_table(outside: pd.DataFrame) -> Table:
    """Rates that left their interval, those furthest away first."""
    distance = (outside["again"] - outside["value"]).abs()
    ordered = outside.assign(distance=distance).sort_values("distance", ascending=False)
    table = Table(title=f"Outside the interval: {len(outside)}, the furthest first",
                  title_justify="left", header_style="bold")  # fmt: skip
    for column in ("world", "questions", "N", "decoding", "metric", "card", "again"):
        table.add_column(column)
    for row in ordered.head(MOST_LINES).to_dict("records"):
        kind = " ".join(filter(None, (row["kind"], row["category"])))
        table.add_row(
            *(row["world"], kind, str(row["num_images"]), f"{row['decoding']}, {row['reading']}"),
            *(row["metric"], f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"),
            f"{row['again']:.3f}",
        )
    return table


if __name__ == "__main__":
    main()
