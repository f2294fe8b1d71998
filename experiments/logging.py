"""Where a run reports to beside its records: nowhere, or Weights & Biases.

Records are the source of every published number; a logger is a dashboard and may fail without
taking the run with it.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import pandas as pd

from focus.errors import InvalidValueError

MODES = ("online", "offline", "disabled")


class AbstractLogger(ABC):
    """Receives the configuration and the summary of a finished run."""

    @abstractmethod
    def log(
        self,
        config: Mapping[str, Any],
        rows: Sequence[Mapping[str, Any]],
        figures: Sequence[str] = (),
    ) -> None:
        """Reports a finished run: its settings, summary rows, and paths of its figures."""


@final
@dataclass(frozen=True)
class NoLogger(AbstractLogger):
    """Reports nothing."""

    def log(
        self,
        config: Mapping[str, Any],
        rows: Sequence[Mapping[str, Any]],
        figures: Sequence[str] = (),
    ) -> None:
        return None


@final
@dataclass(frozen=True)
class WandbLogger(AbstractLogger):
    """One Weights & Biases run.

    Args:
        project: name of the project there.
        mode: ``online``, ``offline`` or ``disabled``; None: WANDB_MODE, else online where there is
            an API key and offline where there is none.
    """

    project: str = "focus"
    mode: str | None = None

    def __post_init__(self) -> None:
        if self.mode is not None and self.mode not in MODES:
            raise InvalidValueError("mode", self.mode, f"one of {', '.join(MODES)}, or null")

    def log(
        self,
        config: Mapping[str, Any],
        rows: Sequence[Mapping[str, Any]],
        figures: Sequence[str] = (),
    ) -> None:
        import wandb  # takes seconds to import, and only this logger needs it

        with wandb.init(project=self.project, mode=self._mode(), config=dict(config)) as run:
            for row in rows:
                key = "/".join(str(row[k]) for k in ("benchmark", "model", "decoding", "metric"))
                run.summary[key] = row["value"]
            run.log({"summary": wandb.Table(dataframe=pd.DataFrame(list(rows)).astype(object))})
            for path in figures:
                run.log({os.path.basename(path): wandb.Image(path)})

    def _mode(self) -> str:
        if self.mode or os.environ.get("WANDB_MODE"):
            return self.mode or os.environ["WANDB_MODE"]
        return "online" if os.environ.get("WANDB_API_KEY") else "offline"
