"""Makes one HTML file out of a finished run, to look at its questions one by one.

    python -m experiments.viewer folder=results/evaluate/scenes_indexed-...

No server and no network: images, records and what every layer would say are inside the file. The
benchmark is read again for its images, and the models for the lens; records stay as they are.
"""

from __future__ import annotations

from experiments.config import check_command_line

check_command_line("viewer", __name__)  # before the seconds that the other imports take

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from transformers.utils.logging import disable_progress_bar

from analysis.summary import BASELINE
from analysis.viewer import chosen, page, page_data
from experiments.config import build, check_positive, entry_point
from experiments.evaluation import make_console, set_threads
from experiments.logging import Run, reported
from focus.benchmarks import AbstractBenchmark, Example
from focus.errors import CheckpointUnavailableError, InvalidValueError, RecordsConflictError
from focus.evaluation import request_of
from focus.probes import Lens, Observation, Question
from focus.reading import Reader
from focus.records import Record, read_run

#: Of a question, by (model, benchmark, id).
Key = tuple[str, str, str]


@entry_point("viewer")
@reported
def main(config: DictConfig, run: Run) -> None:
    """Writes the page of a run and says where it is."""
    disable_progress_bar()
    check_positive(config, "thumbnail", "batch")
    set_threads(config.threads)
    console, folder = make_console(), Path(config.folder)
    settings, records = answered_run(folder)
    benchmarks = {made.name: made for made in map(build, nodes(settings, "benchmark"))}
    questions = [
        (example_of(benchmarks, records_of_one[0]), records_of_one)
        for records_of_one in chosen(records, config.limit)
    ]
    lenses: dict[Key, list[Observation]] = {}
    if config.lens:
        for node in nodes(settings, "model"):
            lenses |= lens_of(node, benchmarks, questions, config.batch, console)
    title = f"{len(questions)} questions of {folder.resolve().name}"
    data = page_data(questions, title=title, lenses=lenses, thumbnail=config.thumbnail)
    path = Path(config.results) / f"{folder.resolve().name}.html"
    path.write_text(page(data), encoding="utf-8")
    console.print(f"{title}: {path}, {path.stat().st_size / 2**20:.1f} MB", soft_wrap=True)
    answers = [answer for question in data["questions"] for answer in question["answers"]]
    found = pd.DataFrame(
        [(a["model"], tag) for a in answers for tag in a["tags"]], columns=["model", "tag"]
    )
    run.table("answers", found.value_counts(sort=False).reset_index())
    run.records(path)


def answered_run(folder: Path) -> tuple[dict[str, Any], list[Record]]:
    """Settings and records of a run.

    Raises:
        InvalidValueError: the folder holds no run, or plain decoding has not answered anything.
    """
    settings, records = read_run(folder)
    if not any(record["decoding"] == BASELINE for record in records):
        raise InvalidValueError("folder", str(folder), "a run that plain decoding has answered too")
    return settings, records


def nodes(settings: dict[str, Any], name: str) -> list[DictConfig]:
    """Configurations of the one or the several models, or benchmarks, of a run."""
    found = [settings[name]] if name in settings else settings.get(f"{name}s", {}).values()
    return [OmegaConf.create(node) for node in found]


def example_of(benchmarks: dict[str, AbstractBenchmark], record: Record) -> Example:
    """The question of a record.

    Raises:
        RecordsConflictError: the benchmark has another one in its place by now.
    """
    example = benchmarks[record["benchmark"]][record["index"]]
    if example.id != record["id"]:
        raise RecordsConflictError(
            f"question {record['index']} of {record['benchmark']} is {example.id}, not "
            f"{record['id']} as in the records: the benchmark has changed since"
        )
    return example


def lens_of(
    node: DictConfig,
    benchmarks: dict[str, AbstractBenchmark],
    questions: Iterable[tuple[Example, Sequence[Record]]],
    batch: int,
    console: Console,
) -> dict[Key, list[Observation]]:
    """What one model would say out of each layer at the last token; nothing if it is not here."""
    try:
        vlm = build(node).load()
    except CheckpointUnavailableError as error:
        console.print(f"no lens of {node.name}: {error}", markup=False, soft_wrap=True)
        return {}
    asked: list[Question] = []
    for example, records in questions:
        benchmark = benchmarks[records[0]["benchmark"]]
        request = request_of(benchmark, example, budget=vlm.budget)
        question = Question.of(vlm, benchmark, records[0]["index"], example, request)
        asked += [question] if question else []
    reader, found = Reader(vlm, batch=batch), {}
    for start in range(0, len(asked), batch):
        part = range(start, min(start + batch, len(asked)))
        for i, seen in zip(part, Lens().observe(reader, asked, part, Path()), strict=True):
            key = (vlm.name, asked[i].benchmark.name, asked[i].example.id)
            found[key] = [each for each in seen if each["tokens"] == "last token"]
    return found


if __name__ == "__main__":
    main()
