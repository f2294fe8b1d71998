"""From sweeps to lines of records: every condition of a cell, computed once."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from analysis.ablations import PLAIN
from analysis.rules import RULES, TAKES_OVER, apply_rule, rows_taken
from experiments.ablation_cells import RowStore, built
from experiments.ablation_choice import Chooser
from experiments.ablation_lines import labels, likeness, row_records, sampled, shown
from experiments.ablation_models import Model
from experiments.ablation_others import OTHERS, STRATEGIES, At
from experiments.ablation_questions import AnyQuestions, Loaded
from experiments.ablation_rows import Rows
from experiments.ablation_sweeps import CHOSEN, Sweep
from focus.decoding import CaptionThenAnswer, Plain
from focus.errors import FocusError, PromptError, UnknownNameError
from focus.marks import read
from focus.records import digest

#: Part of every key: raise it when a cell's answers would come out otherwise.
VERSION = 3


@dataclass(frozen=True)
class Bench:
    """What cells are computed with.

    Args:
        store: of rows.
        chooser: of settings.
        folder: of finished cells.
        strategies: settings to choose from, of strategies that change the prompt or the forward
            pass.
    """

    store: RowStore
    chooser: Chooser
    folder: Path
    strategies: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)

    def lines(self, sweep: Sweep, model: Model, questions: AnyQuestions) -> list[dict[str, Any]]:
        """Records of a model's answers to some questions under every condition of a sweep."""
        cells = (self.cell(sweep, model, questions, rows) for rows in sweep.rows)
        return [
            *self.plain(sweep, model, questions),
            *itertools.chain.from_iterable(cells),
            *self.intervening(sweep, model, questions),
        ]

    def plain(self, sweep: Sweep, model: Model, questions: AnyQuestions) -> list[dict[str, Any]]:
        """Lines of plain decoding."""
        logits = self.store.first(model, questions, Plain())
        loaded = model.load(questions)
        key = model.key(loaded)
        lines = []
        for reading in self._readings(sweep, model, loaded):
            line = {**labels(model, loaded), "rule": PLAIN, "reading": reading}
            lines.append({**line, "marks": read(logits, key, reading), "rows": 1})
            lines += [{**line, **sampled(logits, key, reading, t)} for t in sweep.temperatures]
        return lines

    def cell(
        self, sweep: Sweep, model: Model, questions: AnyQuestions, rows: Rows
    ) -> list[dict[str, Any]]:
        """Lines of one cell, computed once; a note where these rows cannot be run."""
        loaded = model.load(questions)
        try:
            loaded.requests_fit(rows)
        except FocusError as error:  # such as rows for the named image where none is named
            line = {**labels(model, loaded), "record": "note", "rule": "focus", "why": str(error)}
            return [{**line, **rows.columns}]
        readings = self._readings(sweep, model, loaded)
        weights = self._weights(sweep, model, loaded, readings)
        others = sweep.of_kind(OTHERS)
        determined = [
            *(VERSION, model.fingerprint, asdict(questions), asdict(rows)),
            *([[*key, *value] for key, value in weights.items()], sweep.betas),
            *(readings, sweep.temperatures, others),
            [self._other_setting(model, name, r) for name in others for r in readings],
        ]
        path = self.folder / model.name / f"{questions.key}-{digest(determined)}.json"
        if path.exists():
            found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
            return found
        records = list(self._computed(sweep, model, loaded, rows, weights))
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
        partial.replace(path)
        self.store.forget(model, questions, rows)
        return records

    def intervening(
        self, sweep: Sweep, model: Model, questions: AnyQuestions
    ) -> list[dict[str, Any]]:
        """Lines of every strategy of a sweep that changes the prompt or the forward pass; a note
        where it cannot."""
        loaded = model.load(questions)
        lines, readings = [], self._readings(sweep, model, loaded)
        for name, reading in itertools.product(sweep.of_kind(STRATEGIES), readings):
            if name not in self.strategies:
                raise UnknownNameError("strategy with settings", name, self.strategies)
            line = {**labels(model, loaded), "rule": name}
            try:
                setting = self.chooser.setting(model, name, self.strategies[name], reading)
                logits = self.store.first(model, questions, built(name, setting))
            except PromptError as error:  # such as prompts without the tokens that it acts on
                lines.append({**line, "record": "note", "why": str(error)})
                continue
            images = np.mean([len(example.images) for example in loaded.examples])
            rows = 1 + (images if name == CaptionThenAnswer.name else 0)
            marks = read(logits, model.key(loaded), reading)
            lines.append(
                {**line, "reading": reading, "setting": shown(setting), "marks": marks}
                | {"rows": rows}
            )
        return lines

    def _readings(self, sweep: Sweep, model: Model, loaded: Loaded) -> list[str]:
        """Those of a sweep's readings that the kept columns allow."""
        return [each for each in sweep.readings if each in model.columns(loaded).readings]

    def _weights(
        self, sweep: Sweep, model: Model, loaded: Loaded, readings: Sequence[str]
    ) -> dict[tuple[str, str], tuple[float, ...]]:
        """Contrast weights of each rule and reading; on rows of any scheme those of FOCUS."""
        named = loaded.target(Rows()) is not None
        rules = [name for name in sweep.of_kind(RULES) if named or name != "oracle"]
        return {
            (rule, reading): tuple(
                self.chooser.alpha(model, rule, reading) if alpha == CHOSEN else float(alpha)
                for alpha in sweep.alphas
            )
            for rule, reading in itertools.product(rules, readings)
        }

    def _other_setting(self, model: Model, name: str, reading: str) -> float | None:
        if name == "vcd":
            return self.chooser.vcd(model, reading).alpha
        if name in TAKES_OVER:
            return self.chooser.threshold(model, TAKES_OVER[name], reading)
        return None

    def _computed(
        self,
        sweep: Sweep,
        model: Model,
        loaded: Loaded,
        rows: Rows,
        weights: Mapping[tuple[str, str], tuple[float, ...]],
    ) -> Iterator[dict[str, Any]]:
        evidence = self.store.evidence(model, loaded.settings, rows)
        focus = rows.scheme == "focus"
        exact = evidence if focus else self.store.evidence(model, loaded.settings, Rows())
        key, number = model.key(loaded), evidence.mean_branches
        common = {**labels(model, loaded), **rows.columns}
        for (rule, reading), alphas in weights.items():
            if rule == "oracle" and evidence.target is None:
                continue  # these rows show no view alone
            for alpha, beta in itertools.product(alphas, sweep.betas):
                combined = functools.partial(apply_rule, rule, alpha=alpha, beta=beta)
                logits = combined(evidence)
                line = {**common, "rule": rule, "alpha": alpha, "reading": reading}
                line |= {"beta": beta} if beta else {}
                marked = {"marks": read(logits, key, reading), "rows": rows_taken(rule, number)}
                if exact is not evidence:
                    marked |= likeness(logits, combined(exact), key, reading)
                yield {**line, **marked}
                for temperature in sweep.temperatures:
                    yield {**line, **sampled(logits, key, reading, temperature)}
                    if rule == "sum" and alpha < 1 and not beta:
                        matched = temperature / (number * (1 - alpha))
                        yield {
                            **labels(model, loaded),
                            **{"rule": "plain_matched", "alpha": alpha, "reading": reading},
                            **sampled(evidence.plain, key, reading, matched),
                            "temperature": temperature,
                        }
        if rows == Rows(scheme=rows.scheme):
            readings = self._readings(sweep, model, loaded)
            for name, reading in itertools.product(sweep.of_kind(OTHERS), readings):
                at = At(self.store, self.chooser, model, loaded, name, reading, rows.scheme)
                answers = OTHERS[name](at)
                if answers is not None:
                    yield {**labels(model, loaded), "rule": name, "reading": reading, **answers}
        yield from row_records(common, loaded, rows, evidence, key, model.columns(loaded).words)
