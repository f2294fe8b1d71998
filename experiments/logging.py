"""Where a cell reports to beside its records: nowhere, a CSV file, or Weights & Biases.

Records are the source of every published number. A logger is a dashboard: if it fails, the run is
told so and goes on.
"""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, final

import pandas as pd

from focus.benchmarks import Example
from focus.errors import InvalidValueError
from focus.parsing.optional import optional_module
from focus.records import Record

Mode = Literal["online", "offline", "disabled"]
MODES = ("online", "offline", "disabled")


@dataclass(frozen=True)
class CellReport:
    """A finished cell, as a logger is told of it.

    Args:
        labels: benchmark, model and decoding.
        experiment: what the cell is grouped under.
        config: resolved configuration.
        rows: summary rows of this cell.
        records: its records.
        overrides: what was chosen on the command line or by the experiment.
        samples: a few questions with their records.
        figures: paths of figures.
    """

    labels: Mapping[str, str]
    experiment: str
    config: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    records: Sequence[Record]
    overrides: str = ""
    samples: Sequence[tuple[Example, Record]] = ()
    figures: Sequence[str] = field(default=())

    @property
    def name(self) -> str:
        """Benchmark, model and strategy in one word."""
        return "-".join(self.labels.values())

    def by_category(self) -> pd.DataFrame:
        """Accuracy and number of questions per category."""
        frame = pd.DataFrame(list(self.records))
        table = frame.groupby("category")["correct"].agg(["mean", "size"]).reset_index()
        return table.rename(columns={"mean": "accuracy", "size": "n"})


class AbstractLogger(ABC):
    """Receives every finished cell."""

    def log(self, report: CellReport) -> None:
        """Reports a cell; a failure is a warning, since nothing depends on the report."""
        try:
            self._log(report)
        except Exception as error:
            message = f"{type(self).__name__} failed ({type(error).__name__}: {error}); "
            warnings.warn(message + "the records are complete without it", stacklevel=2)

    @abstractmethod
    def _log(self, report: CellReport) -> None:
        """Reports a cell."""


@final
@dataclass(frozen=True)
class NoLogger(AbstractLogger):
    """Reports nothing."""

    def _log(self, report: CellReport) -> None:
        return None


@final
@dataclass(frozen=True)
class CsvLogger(AbstractLogger):
    """Appends the summary rows of every cell to one CSV file.

    Args:
        path: the file; created with its folders.
    """

    path: str = "results/cells.csv"

    def _log(self, report: CellReport) -> None:
        path = Path(self.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        columns = (*report.labels, "metric", "value", "ci_low", "ci_high", "n")
        frame = pd.DataFrame([{key: row.get(key) for key in columns} for row in report.rows])
        frame.insert(0, "overrides", report.overrides)
        frame.insert(0, "experiment", report.experiment)
        frame.to_csv(path, mode="a", header=not path.exists(), index=False)


@final
@dataclass(frozen=True)
class WandbLogger(AbstractLogger):
    """One Weights & Biases run per cell, grouped by experiment.

    Args:
        project: name of the project there.
        mode: ``online``, ``offline`` or ``disabled``; None: WANDB_MODE, else online where there is
            an API key and offline where there is none (`wandb sync` uploads such a run later).
    """

    project: str = "focus"
    mode: str | None = None

    def __post_init__(self) -> None:
        if self.mode is not None and self.mode not in MODES:
            raise InvalidValueError("mode", self.mode, f"one of {', '.join(MODES)}, or null")

    def _log(self, report: CellReport) -> None:
        wandb = _wandb()
        run = wandb.init(
            project=self.project,
            group=report.experiment,
            name=report.name,
            mode=cast(Mode, self._mode()),
            config={**report.config, **report.labels},
        )
        with run:
            for row in report.rows:
                for key in ("value", "ci_low", "ci_high", "delta", "p_value"):
                    if row.get(key) is not None:
                        suffix = "" if key == "value" else f"/{key}"
                        run.summary[f"{row['metric']}{suffix}"] = row[key]
            run.log({"by category": wandb.Table(dataframe=report.by_category())})
            if report.samples:
                run.log({"samples": self._samples(report)})
            for path in report.figures:
                run.log({Path(path).stem: wandb.Image(path)})

    def _samples(self, report: CellReport) -> Any:
        wandb = _wandb()
        width = max(len(example.images) for example, _ in report.samples)
        columns: list[str | int] = [
            *(f"image {k + 1}" for k in range(width)),
            "question",
            "text",
            "answer",
            "correct",
        ]
        table = wandb.Table(columns=columns)
        for example, record in report.samples:
            images = [wandb.Image(image) for image in example.images]
            padding = [None] * (width - len(images))
            fields = (record[key] for key in ("text", "answer", "correct"))
            table.add_data(*images, *padding, example.question, *fields)
        return table

    def _mode(self) -> str:
        if self.mode or os.environ.get("WANDB_MODE"):
            return self.mode or os.environ["WANDB_MODE"]
        return "online" if os.environ.get("WANDB_API_KEY") else "offline"


def _wandb() -> Any:
    return optional_module("wandb", extra="wandb", purpose="log to Weights & Biases")
