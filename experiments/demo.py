"""The main job on the embedded models: plain decoding and FOCUS on the same multi-image questions.

    python -m experiments.demo

Writes records, the summary table as data, and a figure of one question, branch by branch. No
network, no GPU. Running it again shows the finished table at once; `lineup=all` asks every embedded
model instead of the three kinds of one architecture.
"""

from __future__ import annotations

from experiments.config import check_command_line

check_command_line("demo", __name__)  # before the seconds that the other imports take

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import matplotlib as mpl
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from analysis.figures import BranchView, Row, branch_figure, save_figure
from analysis.leakage import KINDS, kind_of_word
from analysis.summary import BASELINE
from analysis.tables import PAIRED_NOTE, paired_table
from experiments.cell_reports import report_cells
from experiments.config import CONF, build, entry_point, plain
from experiments.evaluation import (
    evaluate_cell,
    make_console,
    progress_bars,
    set_threads,
    write_summary,
)
from experiments.logging import Run, reported
from focus.benchmarks import AbstractBenchmark, Example
from focus.decoding import Focus, GenerationSettings, Plain
from focus.decoding.shown import render
from focus.engines import LocalEngine
from focus.environment import session_facts
from focus.errors import UnknownNameError
from focus.evaluation import Cell, request_of
from focus.images import IMAGE_PLACEHOLDER
from focus.models import VisionLanguageModel
from focus.records import Record, RecordFile


@entry_point("demo")
@reported
def main(config: DictConfig, run: Run) -> None:
    """Runs every model on every benchmark with every strategy, plain decoding first."""
    mpl.use("Agg")
    disable_progress_bar()  # of loading: these weights are there at once
    set_threads(config.threads)
    started = time.perf_counter()
    console, folder = make_console(), Path(config.results)
    settings, models = build(config.settings), model_configs(config.asked)
    decodings = [build(node) for node in config.decodings.values()]
    benchmarks = [build(node) for node in config.benchmarks.values()]
    engines = [LocalEngine(build(node).load()) for node in models.values()]
    cells = [
        Cell(engine, benchmark, decoding, settings, decoding.name)
        for benchmark in benchmarks
        for engine in engines
        for decoding in sorted(decodings, key=lambda d: d.name != BASELINE)
    ]
    determining = {
        "models": {name: plain(node) for name, node in models.items()},
        **{key: plain(config)[key] for key in ("benchmarks", "decodings", "settings")},
    }
    with RecordFile(folder, determining) as file, progress_bars(console, run) as progress:
        for cell in cells:
            evaluate_cell(cell, file, progress, limit=config.limit)
        file.finish(session_facts(started), asked={"limit": config.limit})
        records = file.records
    rows = write_summary(folder, records)
    console.print(paired_table(rows, title="Plain decoding → FOCUS on embedded models, in percent"))
    console.print(PAIRED_NOTE, soft_wrap=True)
    figure = folder / "figure.png"
    vlms = {engine.vlm.name: engine.vlm for engine in engines}
    draw_question([vlms[name] for name in config.shown], cells, records, figure)
    console.print(f"records, summary.json and figure.png: {folder}", soft_wrap=True)
    report_cells(run, cells, records, rows)
    run.figures({"one question": figure})
    run.records(folder)


def model_configs(asked: str | Sequence[str]) -> dict[str, DictConfig]:
    """Configurations of options of conf/model; "all" are those of embedded models.

    Raises:
        UnknownNameError: no such option.
    """
    known = {
        path.stem: cast(DictConfig, OmegaConf.load(path))
        for path in sorted((CONF / "model").glob("*.yaml"))
    }
    if asked == "all":
        asked = [
            name for name, node in known.items() if node.get("source", "").startswith("embedded:")
        ]
    for name in asked:
        if name not in known:
            raise UnknownNameError("model", name, [*known, "all"])
    return {name: known[name] for name in asked}


def draw_question(
    models: Sequence[VisionLanguageModel],
    cells: Sequence[Cell],
    records: Sequence[Record],
    path: Path,
) -> None:
    """Figure of one question of the first benchmark, row by row, as these models see it."""
    benchmark, settings = cells[0].benchmark, cells[0].settings
    focus = next(cell.decoding for cell in cells if isinstance(cell.decoding, Focus))
    example = telling_example(benchmark, records, [vlm.name for vlm in models])
    views = [view_branches(vlm, benchmark, example, focus, settings) for vlm in models]
    asked = example.question.rpartition(IMAGE_PLACEHOLDER)[2].strip()
    figure = branch_figure(
        f"“{asked}”", views,
        right=example.answer, leaks=example.distractors, choices=example.choices,
    )  # fmt: skip
    save_figure(figure, path)


def telling_example(
    benchmark: AbstractBenchmark, records: Sequence[Record], models: Sequence[str]
) -> Example:
    """The question to show: one that FOCUS puts right where it puts most right.

    Of the questions that plain decoding gets wrong and FOCUS right with the model of which there
    are most, the last of those in which plain decoding leaks with the most models and, of these,
    what FOCUS says differs most in kind (right, "unknown", another image's answer). Else the first
    of all. Chosen to show what can happen; the table says how often it does.
    """
    known = {
        (record["model"], record["decoding"], record["id"]): record
        for record in records
        if record["benchmark"] == benchmark.name
    }
    asked = [example for example in benchmark if (models[0], Plain.name, example.id) in known]

    def put_right(model: str) -> list[Example]:
        return [
            example
            for example in asked
            if not known[model, Plain.name, example.id]["correct"]
            and known[model, Focus.name, example.id]["correct"]
        ]

    def telling(example: Example) -> tuple[int, int]:
        leaks = [known[model, Plain.name, example.id]["leaked"] for model in models]
        said = {
            kind_of_word(known[model, Focus.name, example.id]["text"], example.answer,
                         example.distractors)
            for model in models
        }  # fmt: skip
        return sum(leaks), len(said & set(KINDS[:3]))

    best = max(map(put_right, models), key=len)
    return max(reversed(best), key=telling) if best else asked[0]


def view_branches(
    vlm: VisionLanguageModel,
    benchmark: AbstractBenchmark,
    example: Example,
    focus: Focus,
    settings: GenerationSettings,
) -> BranchView:
    """Runs one question and collects what each row was shown and would answer first."""
    request = request_of(benchmark, example)  # with the noise of its record
    plan = focus.plan(request)
    images = render(plan, request, focus.noise, per_run=focus.sharing == "run")
    decoded = focus.decode(vlm, request, settings, keep_logits="first")
    plain_decoded = Plain().decode(vlm, request, settings, keep_logits="first")
    branches = [
        Row(label, [images[content] for content in row], _said(vlm, logits))
        for label, row, logits in zip(
            plan.labels, plan.rows, decoded.branch_logits[0][:, 0], strict=True
        )
    ]
    return BranchView(
        model=vlm.name,
        rows=(
            Row("plain", request.images, _said(vlm, plain_decoded.branch_logits[0][0, 0])),
            *(*branches[1:], branches[0]),  # the reference last, as it is what is subtracted
            Row("FOCUS", (), _said(vlm, decoded.combined_logits[0][0])),
        ),
    )


def _said(vlm: VisionLanguageModel, logits: Tensor) -> Mapping[str, float]:
    """Probability of every first token by its text; of two with one text, that of the likelier."""
    values, tokens = torch.softmax(logits, dim=-1).sort()
    texts = [text.strip() for text in vlm.processor.batch_decode(tokens[:, None])]
    return dict(zip(texts, values.tolist(), strict=True))


if __name__ == "__main__":
    main()
