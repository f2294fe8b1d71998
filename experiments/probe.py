"""Looks inside models with the probes of `focus.probes`, and shows what they found.

    python -m experiments.probe probe=knockout model=internvl_answering

One record per question, resumable; a table (CSV) and a figure for each probe.
"""

from __future__ import annotations

from experiments.config import check_command_line

check_command_line("probe", __name__)  # before the seconds that the other imports take

import glob
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import matplotlib as mpl
import pandas as pd
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import Progress
from transformers.utils.logging import disable_progress_bar

from analysis.figures import save_figure
from analysis.probes import VIEWS
from experiments.config import CONF, build, check_positive, entry_point, plain
from experiments.demo import model_configs
from experiments.evaluation import make_console, progress_bars, set_threads
from experiments.logging import Run, reported, samples
from focus.benchmarks import AbstractBenchmark
from focus.environment import session_facts
from focus.errors import InvalidValueError, UnknownNameError
from focus.evaluation import request_of
from focus.models import VisionLanguageModel
from focus.probes import PLANTED, AbstractProbe, Question, facts
from focus.reading import Reader
from focus.records import Record, RecordFile, digest, identity

#: Columns of tables that tell what was asked.
LABELS = ("benchmark", "num_images", "model", "step")


@entry_point("probe")
@reported
def main(config: DictConfig, run: Run) -> None:
    """Asks every model with every probe, and writes records, tables and figures."""
    mpl.use("Agg")
    disable_progress_bar()
    check_positive(config, "batch")
    set_threads(config.threads)
    if config.planted not in PLANTED:
        raise UnknownNameError("planted fault", config.planted, PLANTED)
    console = make_console()
    models = chosen_models(config)
    benchmark: AbstractBenchmark = build(config.benchmark)
    probes = {probe.name: (probe, node) for probe, node in chosen_probes(config.probe)}
    vlms = [build(node).load() for node in models.values()]
    everything = {vlm.name: questions(vlm, benchmark, config.limit) for vlm in vlms}
    for name, (probe, node) in probes.items():
        try:
            asked = {each: askable(probe, known) for each, known in everything.items()}
        except InvalidValueError as error:
            if len(probes) == 1:
                raise
            console.print(f"{name} is left out: {error}", markup=False, soft_wrap=True)
            continue
        started = time.perf_counter()
        determining = {
            "probe": {"name": name, **plain(node)},
            "benchmark": plain(config.benchmark),
            # More of a training may be asked of later, and go on with the same records.
            "models": {"kept in": str(Path(config.snapshots).parent)}
            if config.snapshots
            else {key: plain(model) for key, model in models.items()},
            "planted": config.planted,
            "limit": config.limit if probe.borrows else None,
        }
        folder = folder_of(config, benchmark, list(models), determining)
        with RecordFile(folder, determining) as file, progress_bars(console, run) as progress:
            for vlm in vlms:
                reader = Reader(vlm, batch=config.batch, around=PLANTED[config.planted])
                observe(probe, reader, asked[vlm.name], file, progress)
            wanted = {(v.name, q.example.id) for v in vlms for q in asked[v.name]}
            records = [r for r in file.records if (r["model"], r["id"]) in wanted]
            file.finish(session_facts(started))
        run.table(name, show(console, name, records, folder))
        if config.into:
            put_into(Path(config.into), folder / "table.csv")
        run.figures({name: folder / "figure.png"})
        run.records(folder)
    run.table("samples", samples([question.example for question in asked[vlms[0].name][:8]]))


def chosen_probes(node: DictConfig) -> list[tuple[AbstractProbe, DictConfig]]:
    """The probe of a configuration, or all of one that names several."""
    nodes = [node] if "_target_" in node else list(node.values())
    return [(build(each), each) for each in nodes]


def chosen_models(config: DictConfig) -> dict[str, DictConfig]:
    """Configurations of those kept along a training, of one model, or of several, by name.

    Raises:
        InvalidValueError: no kept model is there.
    """
    if config.snapshots:
        return kept_models(config.snapshots)
    one = config.get("model")
    return {one.get("name", "model"): one} if one else model_configs(config.models)


def kept_models(pattern: str) -> dict[str, DictConfig]:
    """Those that ``train_zoo snapshots=<folder>`` keeps: run by run, in the order of their steps.

    Raises:
        InvalidValueError: there are none.
    """
    # What is written last shows that a folder is complete.
    found = sorted(Path(path).parent for path in glob.glob(f"{pattern}/processor_config.json"))
    if not found:
        accepted = "folders of models, such as outputs/zoo/snapshots/*"
        raise InvalidValueError("snapshots", pattern, accepted)
    stored = OmegaConf.load(CONF / "model" / "internvl_guessing.yaml")  # loaded as that one is
    return {
        path.name: cast(
            DictConfig, OmegaConf.merge(stored, {"name": path.name, "source": str(path)})
        )
        for path in found
    }


def folder_of(
    config: DictConfig,
    benchmark: AbstractBenchmark,
    models: Sequence[str],
    determining: Mapping[str, Any],
) -> Path:
    """Where a probe of these models goes: a folder of its own for all settings that matter."""
    named = models[0] if len(models) == 1 else f"{len(models)}-models"
    named = "kept" if config.snapshots else named
    planted = "" if config.planted == "none" else f"-planted-{config.planted}"
    name = f"{determining['probe']['name']}-{benchmark.name}-{named}{planted}"
    return Path(config.results) / f"{name}-{digest(identity(determining))[:6]}"


def questions(
    vlm: VisionLanguageModel, benchmark: AbstractBenchmark, limit: int | None
) -> list[Question]:
    """The first questions that can be probed.

    Raises:
        InvalidValueError: there are none.
    """
    found: list[Question] = []
    for index, example in enumerate(benchmark):
        request = request_of(benchmark, example, budget=vlm.budget)
        question = Question.of(vlm, benchmark, index, example, request)
        if question is not None:
            found.append(question)
        if len(found) == limit:
            break
    if not found:
        accepted = "one with several images in a question, and choices that begin differently"
        raise InvalidValueError("benchmark", benchmark.name, accepted)
    return found


def askable(probe: AbstractProbe, known: Sequence[Question]) -> list[Question]:
    """The questions of which a probe's facts are known.

    Raises:
        InvalidValueError: there are none.
    """
    found = [question for question in known if probe.asks(question)]
    if not found:
        raise InvalidValueError("benchmark", known[0].benchmark.name, probe.needs)
    return found


def observe(
    probe: AbstractProbe,
    reader: Reader,
    asked: Sequence[Question],
    file: RecordFile,
    progress: Progress,
) -> None:
    """Appends the record of every question that has none yet."""
    if probe.one_per_cluster:
        asked = list({q.example.cluster or q.example.id: q for q in reversed(asked)}.values())[::-1]
    labels = {"model": reader.vlm.name, "decoding": probe.name}
    labels["benchmark"] = asked[0].benchmark.name
    task = progress.add_task(f"{probe.name} · {reader.vlm.name}", total=len(asked))
    missing = [i for i, q in enumerate(asked) if {**labels, "id": q.example.id} not in file]
    progress.advance(task, len(asked) - len(missing))
    for start in range(0, len(missing), reader.batch):
        chunk = missing[start : start + reader.batch]
        for i, seen in zip(chunk, probe.observe(reader, asked, chunk, file.folder), strict=True):
            file.append({**labels, **facts(asked[i]), "observed": seen})
        progress.advance(task, len(chunk))


def show(console: Console, name: str, records: Sequence[Record], folder: Path) -> pd.DataFrame:
    """Writes table and figure of a probe, prints what matters most, and returns the table."""
    view = VIEWS[name]
    with console.status(f"{name}: table and figure"):
        found = view.table(records, folder)
    found.to_csv(folder / "table.csv", index=False, float_format="%.5g")
    figure = view.figure(found)
    save_figure(figure, folder / "figure.png", folder / "figure.pdf")
    console.print(f"[bold]{name}[/bold], {len(records)} records")
    console.print(printed(view.headline(found)), markup=False, highlight=False, soft_wrap=True)
    console.print(f"table.csv, figure.png and figure.pdf: {folder}", soft_wrap=True)
    return found


def put_into(path: Path, table: Path) -> None:
    """Lines of a table into a CSV file, in place of those of the same models and questions."""
    new = pd.read_csv(table, dtype=str, keep_default_na=False)
    known = pd.read_csv(path, dtype=str, keep_default_na=False) if path.exists() else new[:0]
    old, renewed = (
        pd.MultiIndex.from_frame(lines[[name for name in LABELS if name in new]])
        for lines in (known, new)
    )
    pd.concat([known[~old.isin(renewed)], new]).to_csv(path, index=False)


def printed(table: pd.DataFrame) -> Any:
    """A table as text."""
    return table.to_markdown(index=False, floatfmt=".2f", missingval="-")


if __name__ == "__main__":
    main()
