"""Scores the answers of a finished run again, with any parser, without running a model.

    python -m experiments.rescore folder=results/evaluate/scenes_indexed-... parsers=[words]

    python -m experiments.rescore folder=docs/demo rules=[sum,max] alphas=[0.3,0.6] betas=[0.0,0.1]

The texts are all that a score needs, so two protocols can be compared on one log: what differs is
how answers are read, and nothing else. The rows of a log are all that a rule, a contrast weight or
a cut-off needs (`analysis.recombining`).
"""

from __future__ import annotations

from experiments.config import check_command_line

check_command_line("rescore", __name__)  # before the seconds that the other imports take

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig, ListConfig, OmegaConf

from analysis.recombining import Combination, recombined
from analysis.summary import summarise
from analysis.tables import summary_table
from experiments.config import entry_point
from experiments.evaluation import make_console
from experiments.logging import Run, reported
from focus.benchmarks.registry import parsers_of
from focus.errors import InvalidValueError, UnknownNameError
from focus.evaluation import score_fields
from focus.records import Record, read_run, write_records
from focus.scoring import Reference, Scorer


@entry_point("rescore")
@reported
def main(config: DictConfig, run: Run) -> None:
    """Prints one table per parser and writes the rescored records beside the old ones; or prints
    one of all rules."""
    if OmegaConf.is_missing(config, "folder"):
        raise InvalidValueError("folder", "", "the folder of a run: folder=results/evaluate/...")
    folder, console = Path(config.folder), make_console()
    records = records_of(folder)
    if config.rules:
        asked = itertools.product(*map(several, (config.rules, config.alphas, config.betas)))
        combinations = [Combination(*each) for each in asked]
        few = [r for r in records if config.limit is None or r["index"] < config.limit]
        told = recombined(few, combinations)
        rows = summarise([{**record, **score_fields(score)} for record, score in told])
        console.print(summary_table(rows, title="combined anew, read as a ranking of the choices"))
        run.table("recombined", pd.DataFrame(rows))
        return
    scorers = scorers_of(records)
    names = several(config.parsers or list(scorers))
    unknown = [name for name in names if name not in scorers]
    if unknown:
        raise UnknownNameError("parser", unknown[0], scorers)
    for name in names:
        rescored = rescore(records, scorers[name])
        path = folder / f"rescored-{name}.jsonl"
        write_records(path, rescored)
        rows = summarise(rescored)
        console.print(summary_table(rows, title=f"parser: {name}"))
        console.print(f"records: {path}", soft_wrap=True)
        run.table(name, pd.DataFrame(rows))
        run.records(path)


def several(value: Any) -> list[Any]:
    """One value or a list of them as a list."""
    return list(value) if isinstance(value, list | ListConfig) else [value]


def records_of(folder: Path) -> list[Record]:
    """Records of a run.

    Raises:
        InvalidValueError: the folder holds no run, or one without an answer.
    """
    _, records = read_run(folder)
    if not records:
        raise InvalidValueError("folder", str(folder), "a folder whose run has answered something")
    return records


def scorers_of(records: Sequence[Record]) -> dict[str, Scorer]:
    """Parsers of the benchmark that records are about."""
    return dict(parsers_of(records[0]["benchmark"]))


def rescore(records: list[Record], scorer: Scorer) -> list[Record]:
    """The records with the score fields that `scorer` gives their texts."""
    return [
        {**record, **score_fields(scorer(record["text"], Reference.from_record(record)))}
        for record in records
    ]


if __name__ == "__main__":
    main()
