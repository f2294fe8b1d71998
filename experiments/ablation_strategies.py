"""Strategies that change the forward pass itself: decoded question by question, like any run.

They are asked the same questions as the rows of FOCUS, under the same keys, so their answers pair
with those. What every strategy costs is measured here too.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress

from experiments.ablation_blocks import Block, labels
from experiments.ablation_cells import Loaded, Model, Questions, Rows, load_questions
from experiments.ablation_choice import Chooser
from experiments.evaluation import Cell, evaluate_cell
from focus.decoding import STRATEGIES, AbstractDecoding, GenerationSettings, Vanilla
from focus.errors import PromptError, UnknownNameError
from focus.records import Record, RecordFile, digest
from focus.zoo.answers import CANDIDATES, MARKS, VOCABULARY
from focus.zoo.questions import UNKNOWN

#: The embedded models answer in one token.
ANSWER = GenerationSettings(max_new_tokens=1)


@dataclass(frozen=True)
class Decoder:
    """Decodes strategies and keeps their records.

    Args:
        folder: with one record file for each model and setting.
        chooser: of settings.
        tuning_size: dev questions of each set that a setting is chosen on; decoding is slow.
        progress: bars.
    """

    folder: Path
    chooser: Chooser
    tuning_size: int
    progress: Progress

    def answers(self, block: Block, model: Model, questions: Questions) -> list[dict[str, Any]]:
        """Lines of every strategy of a block, its setting chosen on dev; a note where it cannot."""
        lines = []
        for name, grid in block.strategies.items():
            loaded = load_questions(questions)
            common = {**labels(model, loaded), "rule": name}
            try:
                setting = self.chosen(model, name, grid)
                records = self.records(model, loaded, name, setting)
            except PromptError as error:  # such as prompts without the tokens that it acts on
                lines.append({**common, "record": "note", "why": str(error)})
                continue
            common["setting"] = shown(setting)
            rows = statistics.fmean(record["num_rows"] for record in records)
            for reading in block.readings:
                marks = "".join(mark(record, reading) for record in records)
                lines.append({**common, "reading": reading, "marks": marks, "rows": rows})
        return lines

    def chosen(self, model: Model, name: str, grid: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The setting of a strategy that is best on dev."""
        if len(grid) == 1:
            return dict(grid[0])

        def accuracy(setting: Mapping[str, Any]) -> float:
            means = []
            for questions in self.chooser.tuning:
                loaded = load_questions(questions)
                part = Loaded(loaded.settings, loaded.name, loaded.examples[: self.tuning_size])
                records = self.records(model, part, name, setting)
                means.append(statistics.fmean(float(record["correct"]) for record in records))
            return statistics.fmean(means)

        return dict(self.chooser.setting(model, name, grid, accuracy))

    def records(
        self, model: Model, loaded: Loaded, name: str, setting: Mapping[str, Any]
    ) -> list[Record]:
        """Records of a strategy on some questions, in their order; none is computed twice."""
        config = {"weights": model.fingerprint, "strategy": name, "settings": dict(setting)}
        folder = self.folder / model.name / f"{name}-{digest(config)[:8]}"
        benchmark = loaded.settings.benchmark()
        with RecordFile(folder, config) as file:
            by_id = {record["id"]: record for record in file.records}
            if not all(example.id in by_id for example in loaded.examples):
                cell = Cell(model.vlm, benchmark, built(name, setting), ANSWER, name)
                bars = set(self.progress.task_ids)
                try:
                    evaluate_cell(cell, file, self.progress, limit=len(loaded.examples))
                finally:  # hundreds of finished bars would hide the one that matters
                    for bar in set(self.progress.task_ids) - bars:
                        self.progress.remove_task(bar)
                by_id = {record["id"]: record for record in file.records}
        return [by_id[example.id] for example in loaded.examples]


def built(name: str, setting: Mapping[str, Any]) -> AbstractDecoding:
    """Strategy of a name with some settings.

    Raises:
        UnknownNameError: there is no such strategy.
    """
    if name not in STRATEGIES:
        raise UnknownNameError("strategy", name, STRATEGIES)
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in setting.items()}
    return STRATEGIES[name](**values)


def shown(setting: Mapping[str, Any]) -> str:
    """A setting as a label; longer texts are left out, they are the same for all models."""
    short = {k: v for k, v in setting.items() if not isinstance(v, str) or len(v) < 12}
    return " ".join(f"{name} {value}" for name, value in short.items())


def mark(record: Mapping[str, Any], reading: str) -> str:
    """Mark of a record, see `focus.zoo.answers`.

    >>> mark({"text": "red", "answer": "blue", "distractors": ["red"]}, "vocabulary")
    'x'
    """
    said = record["text"].strip() if reading == VOCABULARY else record["choice_answer"]
    if said == record["answer"]:
        return MARKS[1]
    if said in record["distractors"]:
        return MARKS[2]
    return MARKS[3] if said == UNKNOWN and reading != CANDIDATES else MARKS[0]


def cost_records(
    model: Model, questions: Questions, strategies: Mapping[str, Mapping[str, Any]], *, repeats: int
) -> list[dict[str, Any]]:
    """What every strategy costs, measured on the same questions, in turn, after a warm-up.

    Args:
        model: to decode.
        questions: so many of them as there are.
        strategies: settings by label; ``strategy`` names it where the label does not.
        repeats: measurements of each question.

    Returns:
        A record per strategy: means of rows, images encoded, prompt tokens and rows times prompt
        tokens per question, median seconds per question, and its ratio to plain decoding.
    """
    loaded = load_questions(questions)
    all_units = Rows()
    decodings: dict[str, AbstractDecoding] = {"plain": Vanilla()}
    for label, setting in strategies.items():
        values = dict(setting)
        decodings[label] = built(values.pop("strategy", label), values)
    requests = loaded.requests()
    with_units = loaded.requests(all_units)
    found: dict[str, list[Any]] = {label: [] for label in decodings}
    for label, decoding in list(decodings.items()):
        asked = requests if label == "single_image" else with_units
        try:
            decoding.decode(model.vlm, asked[0], ANSWER)
        except PromptError:  # it cannot act here; its answers carry a note that says why
            del decodings[label], found[label]
    for _ in range(repeats):
        for plain, units in zip(requests, with_units, strict=True):
            for label, decoding in decodings.items():
                asked_one = plain if label == "single_image" else units
                found[label].append(decoding.decode(model.vlm, asked_one, ANSWER))
    seconds = {label: statistics.median(d.seconds for d in found[label]) for label in found}
    return [
        {
            **labels(model, loaded),
            "record": "cost",
            "rule": label,
            "rows": statistics.fmean(d.num_rows for d in each),
            "encoded": statistics.fmean(d.num_encoded for d in each),
            "prefill_tokens": statistics.fmean(d.num_rows * d.prompt_tokens for d in each),
            "seconds": round(seconds[label], 5),
            "over_plain": round(seconds[label] / seconds["plain"], 3),
        }
        for label, each in found.items()
    ]
