"""Where a command reports to beside its records: nowhere, CSV files, or Weights & Biases.

The same for every command (``logger=none``, ``csv`` or ``wandb``): `reported` gives it a `Run`.
Records are the source of every published number. A logger is a dashboard: if it fails, the command
is told so and goes on.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
import os
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import pandas as pd
from filelock import FileLock
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from rich.progress import Progress, ProgressColumn, TaskID

from experiments.config import build
from focus.benchmarks import Example
from focus.environment import environment
from focus.errors import InvalidValueError
from focus.parsing.optional import optional_module
from focus.records import Record

MODES = ("online", "offline", "disabled")
#: Settings of where things go, which are no part of a run's name.
PLACES = ("results", "output", "checkpoints", "folder", "logger", "hydra")
#: Files of records, among others in their folders.
KEPT = (".json", ".jsonl", ".csv", ".parquet")


@dataclass(frozen=True)
class About:
    """What a logger is told of a command before it starts.

    Args:
        command: its name.
        group: the experiment, else the sweep, else the command.
        overrides: settings on the command line.
        config: all settings, resolved.
    """

    command: str
    group: str
    overrides: Sequence[str]
    config: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Command and settings in a line."""
        told = [o for o in self.overrides if re.split(r"[=./]", o)[0] not in PLACES]
        return " ".join([self.command, *told])[:128]


class Run:
    """A command while it runs: what it reports goes nowhere, unless a subclass takes it."""

    def numbers(self, values: Mapping[str, float], *, step: int | None = None) -> None:
        """Numbers that change while the command runs."""

    def table(self, name: str, table: pd.DataFrame | Callable[[], pd.DataFrame]) -> None:
        """A table, whose cells may be images; or what makes it, where that takes time: it is asked
        only where tables go somewhere."""

    def figures(self, paths: Mapping[str, Path]) -> None:
        """Figures that were written, by name."""

    def records(self, *paths: Path) -> None:
        """Files of records, or folders that hold them."""

    def close(self, *, failed: bool) -> None:
        """The command has ended."""


def attempted(report: Callable[..., None]) -> Callable[..., None]:
    """A method of a run whose failure is a warning, since nothing depends on the report."""

    @functools.wraps(report)
    def attempt(self: Run, *arguments: Any, **settings: Any) -> None:
        try:
            report(self, *arguments, **settings)
        except Exception as error:
            warn(self, error)

    return attempt


def warn(reporter: object, error: Exception) -> None:
    """Tells of a report that failed."""
    message = f"{type(reporter).__name__} failed ({type(error).__name__}: {error}); "
    warnings.warn(message + "the records are complete without it", stacklevel=3)


class AbstractLogger(ABC):
    """Makes the run of a command."""

    @abstractmethod
    def run(self, about: About) -> Run:
        """The run, started."""


@final
@dataclass(frozen=True)
class NoLogger(AbstractLogger):
    """Reports nothing."""

    def run(self, about: About) -> Run:
        return Run()


@final
@dataclass(frozen=True)
class CsvLogger(AbstractLogger):
    """Appends every table to a CSV file of its own, ``<command>-<table>.csv``.

    Args:
        folder: of the files; made if missing.
    """

    folder: str = "results/tables"

    def run(self, about: About) -> Run:
        return CsvRun(Path(self.folder), about)


@final
@dataclass(frozen=True)
class CsvRun(Run):
    """See `CsvLogger`; images are left out."""

    folder: Path
    about: About

    @attempted
    def table(self, name: str, table: pd.DataFrame | Callable[[], pd.DataFrame]) -> None:
        table = table() if callable(table) else table
        path = self.folder / f"{self.about.command}-{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        shown = [c for c in table if not table[c].map(lambda v: isinstance(v, Image.Image)).any()]
        told = {"experiment": self.about.group, "overrides": " ".join(self.about.overrides)}
        new = pd.concat(
            [pd.DataFrame([told] * len(table), index=table.index), table[shown]], axis=1
        )
        with FileLock(f"{path}.lock"):  # jobs of a sweep may run side by side
            known = [pd.read_csv(path)] if path.exists() else []
            pd.concat([*known, new]).to_csv(path, index=False)


@final
@dataclass(frozen=True)
class WandbLogger(AbstractLogger):
    """A Weights & Biases run for each command (for each job of a sweep).

    Args:
        project: name of the project there.
        mode: ``online``, ``offline`` or ``disabled``; None: WANDB_MODE, else online where there is
            an API key and offline where there is none (`wandb sync` uploads such a run later).
        folder: what is kept on disk goes to ``<folder>/wandb``; None: WANDB_DIR, else here.
    """

    project: str = "focus"
    mode: str | None = None
    folder: str | None = None

    def __post_init__(self) -> None:
        if self.mode is not None and self.mode not in MODES:
            raise InvalidValueError("mode", self.mode, f"one of {', '.join(MODES)}, or null")

    def run(self, about: About) -> Run:
        wandb = optional_module("wandb", extra="wandb", purpose="log to Weights & Biases")
        key = os.environ.get("WANDB_API_KEY")
        mode = self.mode or os.environ.get("WANDB_MODE") or ("online" if key else "offline")
        if self.folder is not None:
            Path(self.folder).mkdir(parents=True, exist_ok=True)
        try:
            started = wandb.init(
                project=self.project, group=about.group, job_type=about.command, name=about.name,
                config={**about.config, "environment": environment()}, mode=mode, dir=self.folder,
            )  # fmt: skip
        except wandb.Error as error:
            warn(self, error)
            return Run()
        return WandbRun(wandb, started, about)


@final
@dataclass(frozen=True)
class WandbRun(Run):
    """See `WandbLogger`."""

    wandb: Any
    run: Any
    about: About

    @attempted
    def numbers(self, values: Mapping[str, float], *, step: int | None = None) -> None:
        self.run.log(dict(values), step=step)

    @attempted
    def table(self, name: str, table: pd.DataFrame | Callable[[], pd.DataFrame]) -> None:
        table = table() if callable(table) else table
        columns = {str(column): self._column(table[column]) for column in table}
        rows = [list(row) for row in zip(*columns.values(), strict=True)]
        self.run.log({name: self.wandb.Table(columns=list(columns), data=rows)})

    @attempted
    def figures(self, paths: Mapping[str, Path]) -> None:
        self.run.log({name: self.wandb.Image(str(path)) for name, path in paths.items()})

    @attempted
    def records(self, *paths: Path) -> None:
        name = re.sub(r"[^\w.-]+", "-", f"{self.about.command}-{self.about.group}")
        artifact = self.wandb.Artifact(name, type="records")
        for path in paths:
            inside = f"{path.name}/" if path.is_dir() else ""
            for file in sorted(path.iterdir()) if path.is_dir() else [path]:
                if file.suffix in KEPT:
                    artifact.add_file(str(file), name=inside + file.name)
        self.run.log_artifact(artifact)

    @attempted
    def close(self, *, failed: bool) -> None:
        self.run.finish(exit_code=int(failed))

    def _column(self, values: pd.Series) -> list[Any]:
        cells = [self._cell(value) for value in values]
        kinds = {type(cell) for cell in cells if cell is not None}
        if len(kinds) > 1 and not kinds <= {int, float}:  # a column there has one type
            return [None if cell is None else str(cell) for cell in cells]
        return cells

    def _cell(self, value: Any) -> Any:
        if isinstance(value, Image.Image):
            return self.wandb.Image(value)
        if isinstance(value, list | tuple | dict):
            return json.dumps(value, ensure_ascii=False, default=str)
        return None if pd.isna(value) else value.item() if hasattr(value, "item") else value


@contextmanager
def reporting(config: DictConfig, command: str) -> Iterator[Run]:
    """The run of a command that Hydra has started, as ``config.logger`` has it.

    Raises:
        MissingExtraError: the logger's package is not installed.
    """
    hydra = HydraConfig.get()
    sweep = "/".join(Path(hydra.sweep.dir).parts[-2:]) if hydra.mode == RunMode.MULTIRUN else ""
    group = hydra.runtime.choices.get("experiment") or f"{command} {sweep}".strip()
    settings = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    assert isinstance(settings, dict)
    overrides = list(hydra.overrides.task)
    about = About(command, group, overrides, {str(key): value for key, value in settings.items()})
    logger: AbstractLogger = build(config.logger)
    run, failed = logger.run(about), True
    try:
        yield run
        failed = False
    finally:
        run.close(failed=failed)


def reported(task: Callable[[DictConfig, Run], None]) -> Callable[[DictConfig], None]:
    """A command that is given the run to report to, beside its settings."""

    @functools.wraps(task)
    def command(config: DictConfig) -> None:
        with reporting(config, Path(inspect.getfile(task)).stem) as run:
            task(config, run)

    return command


class ReportedProgress(Progress):
    """Bars whose progress and throughput are also reported to a run, every few seconds."""

    def __init__(self, run: Run, *columns: ProgressColumn, seconds: float = 5.0, **kwargs: Any):
        super().__init__(*columns, **kwargs)
        self._run, self._seconds, self._told = run, seconds, -math.inf

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        task, now = self._tasks[task_id], self.get_time()
        if task.finished or now - self._told >= self._seconds:
            self._told = now
            name, mean = task.description, task.completed / max(task.elapsed or 0.0, 1e-3)
            told = {f"done/{name}": task.completed, f"per second/{name}": task.speed or mean}
            self._run.numbers(told)


def samples(
    examples: Sequence[Example], records: Sequence[Record] | None = None, shown: Sequence[str] = ()
) -> pd.DataFrame:
    """Questions with their images and what was made of them: a line for each record.

    Args:
        examples: a few questions.
        records: of these and other questions, which are left out; None for questions alone.
        shown: fields to show. What each row says first (``row_tops``) has a column for each row.
    """
    known = {example.id: example for example in examples}
    lines = []
    for record in [Record(id=key) for key in known] if records is None else records:
        if example := known.get(record["id"]):
            pictures = {f"image {k + 1}": image for k, image in enumerate(example.images)}
            told = {"question": example.question, "answer": example.answer}
            tops: Mapping[str, str] = record.get("row_tops") or {}
            rows = {f"says: {row}": top for row, top in tops.items()}
            lines.append({**pictures, **told, **{key: record.get(key) for key in shown}, **rows})
    return pd.DataFrame(lines)
