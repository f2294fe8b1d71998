"""What one experiment of `experiments.ablate` computes: blocks of questions, rows and rules."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from analysis.ablations import PLAIN
from analysis.rules import (
    RULES,
    TAKES_OVER,
    apply_rule,
    rows_of,
)
from experiments.ablation_cells import RowStore, built
from experiments.ablation_choice import Chooser, adaptive_parts, vcd_answer
from experiments.ablation_lines import labels, likeness, row_records, sampled, shown
from experiments.ablation_models import Model
from experiments.ablation_questions import (
    AnyQuestions,
    Loaded,
    questions_grid,
    questions_of,
)
from experiments.ablation_rows import Rows
from focus.decoding import CaptionThenAnswer, Plain, SingleImage
from focus.errors import FocusError, InvalidValueError, PromptError, UnknownNameError
from focus.marks import (
    READINGS,
    AnswerKey,
    read,
)
from focus.records import digest

CHOSEN = "chosen"
EXTRAS = ("vcd", "single_image", "plain_isolated", *TAKES_OVER)
#: Part of every key: raise it when a cell's answers would come out otherwise.
VERSION = 1


@dataclass(frozen=True)
class Block:
    """A grid of cells; every combination is computed for every model and world.

    Args:
        questions: grids of `Questions`.
        rows: grids of `Rows`; empty for the default rows.
        rules: keys of `analysis.rules.RULES`.
        alphas: contrast weights, or ``chosen`` on dev for each model, rule and reading.
        readings: how answers are read.
        temperatures: besides greedy decoding; the score is then the probability of being right.
        extras: other strategies that can be read off first tokens, see `EXTRAS`.
        strategies: strategies that change the prompt or the forward pass: settings to choose from.
        split: of the questions.
    """

    questions: tuple[Mapping[str, Any], ...]
    rows: tuple[Mapping[str, Any], ...] = ()
    rules: tuple[str, ...] = ("sum",)
    alphas: str | tuple[float, ...] = CHOSEN
    readings: tuple[str, ...] = READINGS
    temperatures: tuple[float, ...] = ()
    extras: tuple[str, ...] = ()
    strategies: Mapping[str, Any] = field(default_factory=dict)
    split: str = "test"

    def __post_init__(self) -> None:
        for what, names, known in (
            ("rule", self.rules, RULES),
            ("reading", self.readings, READINGS),
            ("extra", self.extras, EXTRAS),
        ):
            for name in names:
                if name not in known:
                    raise UnknownNameError(what, name, known)
        if isinstance(self.alphas, str) and self.alphas != CHOSEN:
            raise InvalidValueError("alphas", self.alphas, f"{CHOSEN!r} or a list of numbers")

    @classmethod
    def of(cls, node: Mapping[str, Any]) -> Block:
        """Block of a configuration, lists as tuples.

        Raises:
            UnknownNameError: a setting that a block does not have.
        """
        known = cls.__dataclass_fields__
        for name in node:
            if name not in known:
                raise UnknownNameError("setting of a block", name, known)
        values: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in node.items()
        }
        return cls(**values)

    def question_sets(
        self, worlds: Sequence[str], size: int, benchmark: Mapping[str, Any] | None = None
    ) -> list[AnyQuestions]:
        """Every set of questions once.

        Args:
            worlds: to ask about.
            size: number of questions of a set.
            benchmark: an entry of ``conf/benchmark``, whose questions are asked instead.
        """
        if benchmark is not None:
            return [questions_of(benchmark, split=self.split, size=size)]
        grids = (questions_grid(g, worlds, split=self.split, size=size) for g in self.questions)
        return list(dict.fromkeys(itertools.chain.from_iterable(grids)))


@dataclass(frozen=True)
class Bench:
    """What cells are computed with.

    Args:
        store: of logits.
        chooser: of settings.
        folder: of finished cells.
    """

    store: RowStore
    chooser: Chooser
    folder: Path

    def cell(
        self, block: Block, model: Model, questions: AnyQuestions, rows: Rows
    ) -> list[dict[str, Any]]:
        """Records of one cell, computed once; a note where these rows cannot be run."""
        loaded = model.load(questions)
        try:
            loaded.requests_fit(rows)
        except FocusError as error:  # such as rows for the named image where none is named
            line = {**labels(model, loaded), "record": "note", "rule": "focus", "why": str(error)}
            return [{**line, **rows.columns}]
        readings = self.readings(block, model, loaded)
        named = loaded.target(Rows()) is not None
        weights = {
            (rule, reading): self.weights(block, model, rule, reading)
            for rule in block.rules
            for reading in readings
            if named or rule != "oracle"
        }
        extras = [self._extra_setting(model, name, r) for name in block.extras for r in readings]
        determined = [
            *(VERSION, model.fingerprint, asdict(questions), asdict(rows)),
            *([[*key, *value] for key, value in weights.items()], extras),
            *(readings, block.temperatures, block.extras),
        ]
        path = self.folder / model.name / f"{questions.key}-{digest(determined)}.json"
        if path.exists():
            found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
            return found
        records = list(self._computed(block, model, loaded, rows, weights))
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        partial.write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
        partial.replace(path)
        self.store.forget(model, questions, rows)
        return records

    def readings(self, block: Block, model: Model, loaded: Loaded) -> list[str]:
        """Those of a block's readings that the kept columns allow."""
        return [each for each in block.readings if each in model.columns(loaded).readings]

    def weights(self, block: Block, model: Model, rule: str, reading: str) -> tuple[float, ...]:
        """Contrast weights of a rule in a block; on rows of any scheme those chosen for FOCUS."""
        if isinstance(block.alphas, str):
            return (self.chooser.alpha(model, rule, reading),)
        return tuple(float(alpha) for alpha in block.alphas)

    def _extra_setting(self, model: Model, name: str, reading: str) -> float | None:
        if name == "vcd":
            return self.chooser.vcd(model, reading).alpha
        if name in TAKES_OVER:
            return self.chooser.threshold(model, TAKES_OVER[name], reading)
        return None

    def _computed(
        self,
        block: Block,
        model: Model,
        loaded: Loaded,
        rows: Rows,
        weights: Mapping[tuple[str, str], tuple[float, ...]],
    ) -> Iterator[dict[str, Any]]:
        questions = loaded.settings
        evidence = self.store.evidence(model, questions, rows)
        key = model.key(loaded)
        common = {**labels(model, loaded), **rows.columns}
        number = evidence.mean_branches
        exact = (
            evidence if rows.scheme == "focus" else self.store.evidence(model, questions, Rows())
        )
        for (rule, reading), alphas in weights.items():
            if rule == "oracle" and evidence.target is None:
                continue  # these rows show no view alone
            for alpha in alphas:
                logits = apply_rule(rule, evidence, alpha)
                line = {**common, "rule": rule, "alpha": alpha, "reading": reading}
                marked = {"marks": read(logits, key, reading), "rows": rows_of(rule, number)}
                if exact is not evidence:
                    marked |= likeness(logits, apply_rule(rule, exact, alpha), key, reading)
                yield {**line, **marked}
                for temperature in block.temperatures:
                    yield {**line, **sampled(logits, key, reading, temperature)}
                    if rule == "sum" and alpha < 1:
                        matched = temperature / (number * (1 - alpha))
                        yield {
                            **labels(model, loaded),
                            **{"rule": "plain_matched", "alpha": alpha, "reading": reading},
                            **sampled(evidence.plain, key, reading, matched),
                            "temperature": temperature,
                        }
        if rows == Rows(scheme=rows.scheme):
            yield from self._extras(block, model, loaded, key, rows.scheme)
        yield from row_records(common, loaded, rows, evidence, key, model.columns(loaded).words)

    def plain(self, block: Block, model: Model, questions: AnyQuestions) -> list[dict[str, Any]]:
        """Lines of plain decoding."""
        logits = self.store.first(model, questions, Plain())
        loaded = model.load(questions)
        key = model.key(loaded)
        common = {**labels(model, loaded), "rule": PLAIN}
        lines = []
        for reading in self.readings(block, model, loaded):
            line = {**common, "reading": reading}
            lines.append({**line, "marks": read(logits, key, reading), "rows": 1})
            lines += [{**line, **sampled(logits, key, reading, t)} for t in block.temperatures]
        return lines

    def _extras(
        self, block: Block, model: Model, loaded: Loaded, key: AnswerKey, scheme: str
    ) -> Iterator[dict[str, Any]]:
        common, questions = labels(model, loaded), loaded.settings
        readings = self.readings(block, model, loaded)
        for name, reading in itertools.product(block.extras, readings):
            line = {**common, "rule": name, "reading": reading}
            if name in TAKES_OVER:
                rule = TAKES_OVER[name]
                adaptive = self._adaptive(model, questions, key, reading, rule, scheme)
                yield {**line, **({} if scheme == "focus" else {"scheme": scheme}), **adaptive}
            elif scheme != "focus":
                continue  # the others have no rows
            elif name == "vcd":
                vcd = self.chooser.vcd(model, reading)
                marks = read(vcd_answer(self.store, model, questions, vcd), key, reading)
                yield {**line, "alpha": vcd.alpha, "marks": marks, "rows": 2 if vcd.alpha else 1}
            elif name == "plain_isolated":
                plain_logits = self.store.first(model, questions, Plain())
                isolated = self.store.first(model, questions, Plain(flow="isolated"))
                marks = read(isolated, key, reading)
                alike = likeness(isolated, plain_logits, key, reading)
                yield {**line, "marks": marks, "rows": 1, **alike}
            elif name == "single_image" and loaded.target(Rows()) is not None:
                marks = read(self.store.first(model, questions, SingleImage()), key, reading)
                yield {**line, "marks": marks, "rows": 1}

    def strategies(
        self, block: Block, model: Model, questions: AnyQuestions
    ) -> list[dict[str, Any]]:
        """Lines of every strategy of a block, its setting chosen on dev; a note where it cannot."""
        loaded = model.load(questions)
        lines, readings = [], self.readings(block, model, loaded)
        for (name, grid), reading in itertools.product(block.strategies.items(), readings):
            line = {**labels(model, loaded), "rule": name}
            try:
                setting = self.chooser.setting(model, name, grid, reading)
                logits = self.store.first(model, questions, built(name, setting))
            except PromptError as error:  # such as prompts without the tokens that it acts on
                lines.append({**line, "record": "note", "why": str(error)})
                continue
            marks = read(logits, model.key(loaded), reading)
            images = np.mean([len(example.images) for example in loaded.examples])
            captions = images if name == CaptionThenAnswer.name else 0
            lines.append(
                {**line, "reading": reading, "setting": shown(setting), "marks": marks}
                | {"rows": 1 + captions}
            )
        return lines

    def _adaptive(
        self,
        model: Model,
        questions: AnyQuestions,
        key: AnswerKey,
        reading: str,
        rule: str,
        scheme: str,
    ) -> dict[str, Any]:
        alpha = self.chooser.alpha(model, rule, reading)
        threshold = self.chooser.threshold(model, rule, reading)
        evidence = self.store.evidence(model, questions, Rows(scheme=scheme))
        margins, _, _ = adaptive_parts(self.store, model, questions, rule, alpha, reading)
        both = [read(logits, key, reading)
                for logits in (evidence.plain, apply_rule(rule, evidence, alpha))]  # fmt: skip
        unsure = margins < threshold
        marks = "".join(np.where(unsure, list(both[1]), list(both[0])))
        branched = rows_of(rule, evidence.mean_branches)
        always = threshold == float("inf")
        return {
            "alpha": alpha,
            "setting": f"threshold {threshold:g}",
            "marks": marks,
            "rows": float(branched if always else 1 + unsure.mean() * branched),
            "margins": [round(float(m), 4) for m in margins],
        }
