"""Reports what the embedded models can do, and where FOCUS helps and hurts them.

    python -m experiments.zoo_report                                        (make zoo-report)
    python -m experiments.zoo_report measure=all models=[internvl-abstaining]

Reads the record of every stored model and of the ladder, and writes tables, figures and the
document that shows them. Runs no model unless asked to measure.
"""

from __future__ import annotations

from experiments.config import check_command_line

check_command_line("zoo_report", __name__)  # before the seconds that the other imports take

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from omegaconf import DictConfig
from tqdm import tqdm

from analysis.figures import save_figure
from analysis.zoo import is_current, ladder_frame, models_frame, read_ladder, read_models
from analysis.zoo_figures import abstention_figure, by_number_figure, ladder_figure
from analysis.zoo_tables import focus_table, overview_table, report
from experiments.config import entry_point
from experiments.evaluation import make_console, set_threads
from focus.errors import InvalidValueError, UnknownNameError
from focus.zoo.card import RECORD, measure, record_folders, write

MODELS, LADDER, DOCUMENT = "models.csv", "ladder.csv", "README.md"
REPRODUCED = "reproduced.json"  # written by experiments.zoo_check


@entry_point("zoo_report")
def main(config: DictConfig) -> None:
    """Measures what is to be measured, then writes and prints the report."""
    if config.measure not in (False, True, "all"):
        raise InvalidValueError("measure", config.measure, "false, true or 'all'")
    set_threads(config.threads)
    console = make_console()
    weights, output = Path(config.weights), Path(config.output)
    if config.measure:
        for folder in to_measure(weights, config.models, again=config.measure == "all"):
            measure_again(folder, size=config.size)
    write_report(weights, Path(config.ladder), output)
    if records := read_models(weights):
        console.print(overview_table(records))
        console.print(focus_table(read_frame(output / MODELS)))
    console.print(f"report: {output / DOCUMENT}", soft_wrap=True)


def to_measure(weights: Path, names: Sequence[str] | None, *, again: bool) -> list[Path]:
    """Folders of the models to measure.

    Args:
        weights: folder of all models.
        names: of models; None for all.
        again: also those whose record already holds answers.
    """
    folders = record_folders(weights)
    chosen = list(folders) if names is None else list(names)
    for name in chosen:
        if name not in folders:
            raise UnknownNameError("model", name, folders)
    records = {name: json.loads((folders[name] / RECORD).read_text()) for name in chosen}
    return [folders[name] for name in chosen if again or not is_current(records[name])]


def measure_again(folder: Path, *, size: int) -> None:
    """Measures the stored weights, and renews their record and card."""
    record = json.loads((folder / RECORD).read_text())
    record["results"] = measure(folder, tuple(record["recipe"]["per_truth"]), size=size)
    write(record, folder)


def write_report(weights: Path, ladder: Path, output: Path) -> None:
    """Writes the tables as data, the figures, and the document."""
    mpl.use("Agg")
    records, runs = read_models(weights), read_ladder(ladder)
    output.mkdir(parents=True, exist_ok=True)
    frame = models_frame(tqdm(records, "models", leave=False, disable=None))
    points = ladder_frame(tqdm(runs, "ladder", leave=False, disable=None))
    frame.to_csv(output / MODELS, index=False)
    points.to_csv(output / LADDER, index=False)
    if records:
        for metric in ("accuracy", "leakage"):
            save_figure(by_number_figure(frame, records, metric), output / f"{metric}.png")
        save_figure(abstention_figure(frame, points), output / "abstention.png")
    if runs:
        save_figure(ladder_figure(points), output / "ladder.png")
    (output / DOCUMENT).write_text(document(weights, ladder, output), encoding="utf-8")


def document(weights: Path, ladder: Path, output: Path) -> str:
    """The document, from the records and from the tables that were written."""
    frame, points = (read_frame(output / name) for name in (MODELS, LADDER))
    reproduced = output / REPRODUCED
    again = json.loads(reproduced.read_text()) if reproduced.exists() else []
    return report(read_models(weights), frame, read_ladder(ladder), points, again)


def read_frame(path: Path) -> pd.DataFrame:
    """A table as it was written; empty labels stay empty text."""
    frame = pd.read_csv(path, keep_default_na=False, na_values=[""])
    return frame.fillna({"category": ""})


if __name__ == "__main__":
    main()
