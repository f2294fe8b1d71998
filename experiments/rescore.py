"""Scores the answers of a finished run again, with any parser, without running a model.

    python -m experiments.rescore folder=results/evaluate/scenes_indexed-... parsers=[words]

The texts are all that a score needs, so two protocols can be compared on one log: what differs is
how answers are read, and nothing else.
"""

from __future__ import annotations

from experiments.config import check_command_line

check_command_line("rescore", __name__)  # before the seconds that the other imports take

import json
from pathlib import Path

import pandas as pd
from omegaconf import DictConfig, OmegaConf

from analysis.summary import summarise
from analysis.tables import summary_table
from experiments.config import entry_point
from experiments.evaluation import make_console
from experiments.logging import Run, reported
from focus.benchmarks.registry import parsers_of
from focus.errors import InvalidValueError, UnknownNameError
from focus.evaluation import score_fields
from focus.records import Record, read_records
from focus.scoring import Reference, Scorer


@entry_point("rescore")
@reported
def main(config: DictConfig, run: Run) -> None:
    """Prints one table per parser and writes the rescored records beside the old ones."""
    if OmegaConf.is_missing(config, "folder"):
        raise InvalidValueError("folder", "", "the folder of a run: folder=results/evaluate/...")
    folder = Path(config.folder)
    scorers = scorers_of(folder)
    chosen = config.parsers or list(scorers)
    names = [chosen] if isinstance(chosen, str) else [str(name) for name in chosen]
    unknown = [name for name in names if name not in scorers]
    if unknown:
        raise UnknownNameError("parser", unknown[0], scorers)
    console = make_console()
    records = list(read_records(folder / "records.jsonl"))
    for name in names:
        rescored = rescore(records, scorers[name])
        path = folder / f"rescored-{name}.jsonl"
        lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in rescored)
        path.write_text("".join(lines), encoding="utf-8")
        rows = summarise(rescored)
        console.print(summary_table(rows, title=f"parser: {name}"))
        console.print(f"records: {path}", soft_wrap=True)
        run.table(name, pd.DataFrame(rows))
        run.records(path)


def scorers_of(folder: Path) -> dict[str, Scorer]:
    """Parsers of the benchmark that a folder holds records of.

    Raises:
        InvalidValueError: the folder holds no run.
    """
    run = folder / "run.json"
    if not run.is_file():
        raise InvalidValueError("folder", str(folder), "a folder with run.json and records.jsonl")
    first = next(read_records(folder / "records.jsonl"), None)
    if first is None:
        raise InvalidValueError("folder", str(folder), "a folder whose run has answered something")
    return dict(parsers_of(first["benchmark"]))


def rescore(records: list[Record], scorer: Scorer) -> list[Record]:
    """The records with the score fields that `scorer` gives their texts."""
    return [
        {**record, **score_fields(scorer(record["text"], Reference.from_record(record)))}
        for record in records
    ]


if __name__ == "__main__":
    main()
