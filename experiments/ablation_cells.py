"""What models answered, kept: records of every row that an ablation looks at.

They are the records of any evaluation (`focus.evaluation`), of one token, with every column of
every row. A cell has a folder that is named by all that determines it, the weights included: an
interrupted run goes on where it stopped, and experiments share what they have in common.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from cachetools import LRUCache
from torch import Tensor

from experiments.ablation_models import Model
from experiments.ablation_questions import AnyQuestions, Loaded
from experiments.ablation_rows import Rows
from focus.decoding import STRATEGIES, AbstractDecoding, GenerationSettings, Plain
from focus.errors import FocusError, UnknownNameError
from focus.evaluation import Cell, answered
from focus.evidence import Evidence, rows_of
from focus.records import RECORDS, RecordFile, digest, read_records

ONE_TOKEN = GenerationSettings(max_new_tokens=1)
#: Cells whose rows stay in memory: the sets that settings are chosen on, each rule anew.
IN_MEMORY = 32

FoundRows = list[dict[str, Tensor]]


class RowStore:
    """Rows of cells, by what determines them.

    Args:
        folder: created when first written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        #: How many cells had questions to ask, for tests and the closing line of a run.
        self.computed = 0
        self._known: LRUCache[Path, FoundRows] = LRUCache(maxsize=IN_MEMORY)

    def first(self, model: Model, questions: AnyQuestions, strategy: AbstractDecoding) -> Tensor:
        """The first row of a strategy, before anything is combined: ``[questions, columns]``.

        Raises:
            FocusError: a question that it cannot be asked.
        """
        found = self._rows(model, questions, strategy)
        return torch.stack([next(iter(rows.values())) for rows in found])

    def evidence(self, model: Model, questions: AnyQuestions, rows: Rows) -> Evidence:
        """Plain decoding and every row.

        Raises:
            FocusError: a question that cannot be asked.
        """
        found = self._rows(model, questions, rows.strategy, rows)
        target = model.load(questions).target(rows)
        return Evidence.of(self.first(model, questions, Plain()), found, target)

    def forget(self, model: Model, questions: AnyQuestions, rows: Rows) -> None:
        """Removes rows that one cell alone looks at, whose answers are kept: those of further noise
        would fill the disk."""
        if replace(rows, targets="units") != Rows():
            folder, _ = self._cell(model, questions, rows.strategy, rows)
            shutil.rmtree(folder, ignore_errors=True)
            self._known.pop(folder, None)

    def _rows(
        self,
        model: Model,
        questions: AnyQuestions,
        strategy: AbstractDecoding,
        rows: Rows | None = None,
    ) -> FoundRows:
        folder, settings = self._cell(model, questions, strategy, rows)
        if folder not in self._known:
            records = list(read_records(folder / RECORDS))
            if len(records) < len(model.load(questions).examples):
                # Another process may be at it: what it has asked is not asked again.
                with RecordFile(folder, settings, wait=True) as file:
                    self._ask(file, model, model.load(questions), strategy, rows)
                    records = file.records
            self._known[folder] = [rows_of(record) for record in records]
        return self._known[folder]

    def _ask(
        self,
        file: RecordFile,
        model: Model,
        loaded: Loaded,
        strategy: AbstractDecoding,
        rows: Rows | None,
    ) -> None:
        """Asks what has no record yet."""
        columns = model.columns(loaded)
        ask = functools.partial(loaded.request, rows=rows, budget=model.vlm.budget)
        cell = Cell(
            model.engine, loaded.benchmark, strategy, ONE_TOKEN, strategy.name,
            columns=columns, ask=ask,
        )  # fmt: skip
        left = range(len(file.records), len(loaded.examples))
        self.computed += bool(left)
        for start in left[:: cell.engine.batch]:
            places = range(start, min(start + cell.engine.batch, left.stop))
            examples = [loaded.whole(place) for place in places]
            answers = zip(places, examples, answered(cell, examples), strict=True)
            for place, example, answer in answers:
                if isinstance(answer, FocusError):
                    raise answer
                file.append({**cell.labels, "id": example.id, "index": place, **answer})

    def _cell(
        self,
        model: Model,
        questions: AnyQuestions,
        strategy: AbstractDecoding,
        rows: Rows | None,
    ) -> tuple[Path, dict[str, Any]]:
        """Folder of a cell, and its settings."""
        settings = {
            "model": model.fingerprint,
            "questions": asdict(questions),
            "decoding": {"name": strategy.name, **asdict(strategy)},  # type: ignore[call-overload]
            "targets": rows and rows.targets,
        }
        name = f"{questions.key}-{strategy.name}-{digest(settings)}"
        return self.folder / model.name / name, settings


def built(name: str, setting: Mapping[str, Any]) -> AbstractDecoding:
    """Strategy of a name with some settings.

    Raises:
        UnknownNameError: there is no such strategy.
    """
    if name not in STRATEGIES:
        raise UnknownNameError("strategy", name, STRATEGIES)
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in setting.items()}
    return STRATEGIES[name](**values)
