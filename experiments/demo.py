"""The main job on the embedded models: plain decoding and FOCUS on the same multi-image questions.

    python -m experiments.demo

Writes records, the summary table as data, and a figure of one question, branch by branch. No
network, no GPU. Running it again shows the finished table at once.
"""

from __future__ import annotations

from experiments.config import check_command_line

check_command_line("demo", __name__)  # before the seconds that the other imports take

import time
from pathlib import Path

import matplotlib as mpl
import torch
from omegaconf import DictConfig
from transformers.utils.logging import disable_progress_bar

from analysis.figures import BranchView, branch_figure, save_figure
from analysis.tables import BASELINE, power_note, summary_table
from experiments.config import build, entry_point, plain
from experiments.evaluation import (
    Cell,
    evaluate_cell,
    make_console,
    progress_bars,
    report_cells,
    set_threads,
    write_summary,
)
from focus.benchmarks import AbstractBenchmark, Example
from focus.decoding import Focus, GenerationSettings, Request, Vanilla
from focus.decoding.shown import render
from focus.environment import peak_memory
from focus.images import IMAGE_PLACEHOLDER
from focus.models import VisionLanguageModel
from focus.records import Record, RecordFile
from focus.scoring import first_tokens


@entry_point("demo")
def main(config: DictConfig) -> None:
    """Runs every model on every benchmark with every strategy, plain decoding first."""
    mpl.use("Agg")
    disable_progress_bar()  # of loading: these weights are there at once
    set_threads(config.threads)
    started = time.perf_counter()
    settings, logger = build(config.settings), build(config.logger)
    decodings = {name: build(node) for name, node in config.decodings.items()}
    benchmarks = [build(node) for node in config.benchmarks.values()]
    models = [build(node).load() for node in config.models.values()]
    console = make_console()
    cells = [
        Cell(vlm, benchmark, decoding, settings, decoding.name)
        for benchmark in benchmarks
        for vlm in models
        for decoding in sorted(decodings.values(), key=lambda d: d.name != BASELINE)
    ]
    determining = {
        key: plain(config)[key] for key in ("models", "benchmarks", "decodings", "settings")
    }
    with RecordFile(config.results, determining) as records:
        with progress_bars(console) as progress:
            for cell in cells:
                evaluate_cell(cell, records, progress, limit=config.limit)
        rows = write_summary(records.folder, records.records)
        seconds = round(time.perf_counter() - started, 1)
        records.finish({"seconds": seconds, **peak_memory()})
    console.print(summary_table(rows, title="Plain decoding and FOCUS on the embedded models"))
    console.print(_explanation(), soft_wrap=True)
    console.print(power_note(rows), soft_wrap=True)
    shown = [next(vlm for vlm in models if vlm.name == name) for name in config.shown]
    example = telling_example(benchmarks[0], records.records, shown[0].name)
    focus = next(d for d in decodings.values() if isinstance(d, Focus))
    views = [view_branches(vlm, example, focus, settings) for vlm in shown]
    path = Path(config.results) / "figure.png"
    asked = example.question.rpartition(IMAGE_PLACEHOLDER)[2].strip()
    save_figure(branch_figure(f"“{asked}”", views), path)
    console.print(f"records, summary.json and figure.png: {records.folder}", soft_wrap=True)
    report_cells(
        logger,
        cells,
        records.records,
        rows,
        experiment="demo",
        config=plain(config),
        figures=[str(path)],
    )


def telling_example(benchmark: AbstractBenchmark, records: list[Record], model: str) -> Example:
    """The first question that plain decoding gets wrong and FOCUS right, else the first of all.

    Chosen to show how the method works where it works; the table says how often that is.
    """
    correct = {
        (record["decoding"], record["id"]): record["correct"]
        for record in records
        if record["benchmark"] == benchmark.name and record["model"] == model
    }
    for example in benchmark:
        if not correct.get((Vanilla.name, example.id), True) and correct[Focus.name, example.id]:
            return example
    return benchmark[0]


def view_branches(
    vlm: VisionLanguageModel, example: Example, focus: Focus, settings: GenerationSettings
) -> BranchView:
    """Runs one question and collects what each row was shown and would answer first."""
    request = Request(example.images, example.question, f"demo/{example.id}")
    plan = focus.plan(request)
    images = render(plan, request, focus.noise, per_run=focus.sharing == "run")
    decoded = focus.decode(vlm, request, settings, keep_logits="first")
    plain_decoded = Vanilla().decode(vlm, request, settings, keep_logits="first")
    logits = {
        "plain": plain_decoded.branch_logits[0][0, 0],
        **dict(zip(decoded.row_labels, decoded.branch_logits[0][:, 0], strict=True)),
        "FOCUS": decoded.combined_logits[0][0],
    }
    tokens = first_tokens(vlm.processor.tokenizer, example.choices)
    favourites = [int(row.argmax()) for row in logits.values()]
    tokens += [token for token in dict.fromkeys(favourites) if token not in tokens]
    answers = [vlm.processor.tokenizer.decode([token]).strip() for token in tokens]
    shown = {
        "plain": request.images,
        **{
            label: [images[content] for content in row]
            for label, row in zip(plan.labels, plan.rows, strict=True)
        },
        "FOCUS": (),
    }
    return BranchView(
        model=vlm.name,
        rows=[(label, row) for label, row in shown.items()],
        probabilities={
            label: torch.softmax(row, dim=-1)[tokens].tolist() for label, row in logits.items()
        },
        answers=answers,
        right=example.answer,
    )


def _explanation() -> str:
    return (
        "accuracy - plain: paired difference on the same questions. leakage: answers that are true "
        "of another image. There are two kinds of models: abstaining ones were taught to say "
        '"unknown" when the image they are asked about is noise, answering ones were not; nothing '
        "else tells the two of one architecture apart.\n"
        "FOCUS adds up branches of which all but one do not see the asked image: it can help where "
        "those branches abstain, and not where they answer from the image they do see. Abstentions "
        'are votes as well: where "unknown" wins the sum the answer is unparsed, while choice '
        "accuracy, which ranks the candidates alone, still gains."
    )


if __name__ == "__main__":
    main()
