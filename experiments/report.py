"""Renews every table, page, figure and notebook of the documentation from committed records.

    python -m experiments.report                       (make report)
    python -m experiments.report 'parts=[tables,zoo]'
    python -m experiments.report details=results/report       (make report DETAILS=1)

What pages show goes to ``docs``, the same figures and those of notebooks as PDF to ``figures``, and
every cell, condition, model and run to the folder for details. Notebooks are executed last in line.
On what is committed it changes nothing, which tests check.
"""

from __future__ import annotations

from experiments.config import check_command_line

check_command_line("report", __name__)  # before the seconds that the other imports take

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, TypeVar

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from omegaconf import DictConfig

from analysis import equivalence, forecast_page, probes
from analysis.ablation_page import write_page
from analysis.ablation_views import VIEWS
from analysis.figures import bench_figures, save_figure
from analysis.findings import headline_table
from analysis.forecast import read_cells
from analysis.kinds import card_kinds, model_kinds, names_of, ordered
from analysis.probes.origin_page import Stages, origin_markdown
from analysis.probes.pages import (
    account_markdown,
    behaviour_markdown,
    chance_markdown,
    knockout_markdown,
    mvh_markdown,
    patching_markdown,
)
from analysis.results import FOLDER, Found, Page
from analysis.summary import summarise
from analysis.tables import (
    bench_markdown,
    paired_markdown,
    prefill_markdown,
    throughput_markdown,
)
from analysis.zoo import ladder_frame, models_frame, read_ladder, read_models
from analysis.zoo_figures import abstention_figure, by_number_figure, ladder_figure
from analysis.zoo_ladder import ladder_points
from analysis.zoo_page import zoo_page
from analysis.zoo_tables import details as zoo_details
from experiments.config import CONF, check_positive, entry_point
from experiments.evaluation import make_console, progress_bars
from experiments.notebooks import notebooks_of, renew_notebook
from focus.errors import UnknownNameError
from focus.records import Record, read_records
from focus.zoo.card import RECORD, card, record_folders

T = TypeVar("T")
ROOT = CONF.parent
WEIGHTS = Path("focus", "zoo", "weights")
PARTS = ("tables", "figures", "cards", "zoo", "results", "notebooks")
SUFFIX = ".jsonl.gz"
NOTEBOOKS = ("chance", "entanglement", "linear", "lens")  # probes that no page has a figure of
RULES = "domains"  # the ablation with every rule of the table in docs/ablations.md


@entry_point("report")
def main(config: DictConfig) -> None:
    """Writes the parts that are asked for."""
    check_positive(config, "workers")
    mpl.use("Agg")
    console = make_console()
    parts = PARTS if config.parts is None else tuple(config.parts)
    for part in parts:
        if part not in PARTS:
            raise UnknownNameError("part", part, PARTS)
    root, details = Path(config.root), None if config.details is None else Path(config.details)
    single: dict[str, Callable[[], None]] = {
        "tables": functools.partial(renew_tables, root),
        "figures": functools.partial(renew_figures, root),
        "cards": functools.partial(renew_cards, root),
        "zoo": functools.partial(renew_zoo, root, details),
    }
    names = experiments_of(root) if "results" in parts else []
    with (
        ProcessPoolExecutor(config.workers, initializer=mpl.use, initargs=("Agg",)) as pool,
        progress_bars(console) as progress,
    ):
        # The largest first, so that none is left alone at the end.
        found = {name: pool.submit(fresh, experiment, root, name, details) for name in names}
        jobs: list[Future[Any]] = [*found.values()]
        jobs += [pool.submit(fresh, job) for part, job in single.items() if part in parts]
        if "notebooks" in parts:
            jobs += [pool.submit(renew_notebook, path) for path in notebooks_of(root)]
        task = progress.add_task("report", total=len(jobs) + ("results" in parts))
        for job in as_completed(jobs):
            job.result()
            progress.advance(task)
        if "results" in parts:
            write_results(root, {name: found[name].result() for name in VIEWS if name in found})
            progress.advance(task)
    missing = [name for name in VIEWS if name not in names] if "results" in parts else []
    console.print(
        f"renewed: {', '.join(parts)} of {root / 'docs'}"
        + (f"; no records yet of {', '.join(missing)}" if missing else "")
        + (f"; details: {details}" if details else ""),
        soft_wrap=True,
    )


def fresh(job: Callable[..., T], *arguments: Any) -> T:
    """The job, whose figures look alike whatever its process has drawn before."""
    mpl.rcdefaults()
    return job(*arguments)


def save(figure: Figure, root: Path, name: str, *, shown: bool = True) -> None:
    """``docs/<name>.png``, which pages show, or else beside ``figures/<name>.pdf``, to print."""
    pdf = root / "figures" / f"{name}.pdf"
    png = root / "docs" / f"{name}.png" if shown else pdf.with_suffix(".png")
    for path in (png, pdf):
        path.parent.mkdir(parents=True, exist_ok=True)
    save_figure(figure, png, pdf)


def write(path: Path, text: str) -> None:
    """Writes a page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


# -- The ablations --------------------------------------------------------------------------------


def experiments_of(root: Path) -> list[str]:
    """Ablations that have records, those with the most first."""
    paths = {name: root / "docs" / "ablations" / f"{name}{SUFFIX}" for name in VIEWS}
    sizes = {name: path.stat().st_size for name, path in paths.items() if path.exists()}
    return sorted(sizes, key=lambda name: -sizes[name])


def read_experiment(root: Path, name: str) -> tuple[list[Record], dict[str, str]]:
    """Records of an ablation, in the order of tables, and the kind of each of its models."""
    records = list(read_records(root / "docs" / "ablations" / f"{name}{SUFFIX}"))
    kinds = model_kinds(names_of(records), card_kinds(root / WEIGHTS))
    return ordered(records, kinds), kinds


def experiment(root: Path, name: str, details: Path | None = None) -> Found:
    """What docs/results.md says of an ablation; writes its own page where details are wanted."""
    records, kinds = read_experiment(root, name)
    found = Found.of(name, records, kinds)
    if details is not None:
        write_page(details / "ablations", name, records, found)
    return found


def write_results(root: Path, found: Mapping[str, Found]) -> None:
    """docs/results.md and its figures."""
    page = Page(found)
    write(root / "docs" / "results.md", page.text())
    for name, figure in page.figures():
        save(figure, root, f"{FOLDER}/{name}")


# -- The embedded models --------------------------------------------------------------------------


def renew_cards(root: Path) -> None:
    """The card of every stored model, from its record."""
    for folder in record_folders(root / WEIGHTS).values():
        write(folder / "README.md", card(json.loads((folder / RECORD).read_text())))


def renew_zoo(root: Path, details: Path | None = None) -> None:
    """docs/zoo: page and figures; every rate where details are wanted."""
    folder = root / "docs" / "zoo"
    models, runs = read_models(root / WEIGHTS), read_ladder(folder / f"ladder{SUFFIX}")
    frame, points = models_frame(models), ladder_frame(runs)
    reproduced = folder / "reproduced.json"  # written by experiments.zoo_check
    again = json.loads(reproduced.read_text()) if reproduced.exists() else []
    write(folder / "README.md", zoo_page(models, frame, runs, points, again))
    if models:
        for metric in ("accuracy", "leakage"):
            save(by_number_figure(frame, models, metric), root, f"zoo/{metric}")
        save(abstention_figure(frame, points), root, "zoo/abstention")
    if runs:
        save(ladder_figure(points), root, "zoo/ladder")
    if details is not None:
        write(details / "zoo" / "README.md", zoo_details(frame, runs, points))
        frame.to_csv(details / "zoo" / "models.csv", index=False)
        points.to_csv(details / "zoo" / "ladder.csv", index=False)


# -- Figures of pages that other commands measure -------------------------------------------------


def renew_figures(root: Path) -> None:
    """Costs, probes, and the pages of composed FOCUS and of the forecast."""
    for name, figure in figures_of(root / "docs"):
        save(figure, root, name)
    for name, figure in probe_figures(root / "docs", NOTEBOOKS):
        save(figure, root, name, shown=False)
    if "schemes" in experiments_of(root):
        text, figure = equivalence.page(*read_experiment(root, "schemes"))
        write(root / "docs" / "composed" / "README.md", text)
        save(figure, root, "composed/equivalence")
    forecast = root / "docs" / "forecast"
    if (forecast / "judged.json").exists():
        judged = json.loads((forecast / "judged.json").read_text(encoding="utf-8"))
        fitted = json.loads((root / "focus" / "forecast.json").read_text(encoding="utf-8"))
        write(forecast / "README.md", forecast_page.page(judged, fitted))
        cells = read_cells(forecast / "cells.csv")
        save(forecast_page.calibration_figure(cells, judged), root, "forecast/calibration")


def figures_of(docs: Path) -> Iterator[tuple[str, Figure]]:
    """Figures that pages show of what is there, each with its name."""
    if (docs / "bench" / "bench.json").exists():
        for name, figure in bench_figures(bench(docs)):
            yield f"bench/{name}", figure
    yield from probe_figures(docs, ("behaviour", "knockout", "patching", "account"))
    if (docs / "probes" / "origin.csv").exists():
        found, points, stages = origin(docs.parent)
        ends = list(stages.ends.values())[:-1]
        yield "probes/origin", probes.origin.figure(found, points, ends)


def probe_figures(docs: Path, names: Sequence[str]) -> Iterator[tuple[str, Figure]]:
    """Of probes whose tables are there."""
    for name in names:
        table = docs / "probes" / f"{name}.csv"
        if table.exists():
            yield f"probes/{name}", probes.VIEWS[name].figure(pd.read_csv(table))


# -- Tables between the markers of pages that are written by hand ---------------------------------


def renew_tables(root: Path) -> None:
    """The README and every page of docs that has markers."""
    for page in (root / "README.md", *sorted((root / "docs").glob("*.md"))):
        if page.exists():
            write(page, with_tables(page.read_text(encoding="utf-8"), root))


@functools.cache
def demo_table(root: Path) -> str:
    """Of the demo's records; bootstrapping its intervals takes seconds."""
    return paired_markdown(summarise(read_records(root / "docs" / "demo" / f"records{SUFFIX}")))


@functools.cache
def origin(root: Path) -> tuple[pd.DataFrame, pd.DataFrame, Stages]:
    """Where leakage begins: the probe's table, the ladder, and the stages of their recipes."""
    found = pd.read_csv(root / "docs" / "probes" / "origin.csv", dtype={"step": "Int64"})
    runs = read_ladder(root / "docs" / "zoo" / f"ladder{SUFFIX}")
    record = json.loads((root / WEIGHTS / "internvl-guessing" / RECORD).read_text(encoding="utf-8"))
    return found, ladder_points(ladder_frame(runs)), Stages.of(record)


def bench(docs: Path) -> dict[str, Any]:
    """The committed record of what things cost."""
    record: dict[str, Any] = json.loads((docs / "bench" / "bench.json").read_text(encoding="utf-8"))
    return record


def with_tables(text: str, root: Path = ROOT) -> str:
    """`text` with the tables of the committed records between their markers."""
    docs = root / "docs"
    tables: dict[str, Callable[[], str]] = {
        "demo table": lambda: demo_table(root),
        "rules table": lambda: headline_table(*read_experiment(root, RULES)),
        "bench table": lambda: bench_markdown(bench(docs)["rows"]),
        "throughput table": lambda: throughput_markdown(bench(docs)["throughput"]),
        "prefill table": lambda: prefill_markdown(bench(docs)["prefill"]),
        "knockout table": lambda: knockout_markdown(pd.read_csv(docs / "probes/knockout.csv")),
        "patching table": lambda: patching_markdown(pd.read_csv(docs / "probes/patching.csv")),
        "account table": lambda: account_markdown(pd.read_csv(docs / "probes/account.csv")),
        "behaviour table": lambda: behaviour_markdown(pd.read_csv(docs / "probes/behaviour.csv")),
        "chance table": lambda: chance_markdown(
            pd.read_csv(docs / "probes/chance.csv"), pd.read_csv(docs / "probes/chance-4.csv")
        ),
        "origin": lambda: origin_markdown(*origin(root)),
        "mvh table": lambda: mvh_markdown(pd.read_csv(docs / "probes/mvh.csv")),
    }
    for name, table in tables.items():
        start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        if start in text:
            before, _, rest = text.partition(start)
            text = f"{before}{start}\n{table()}\n{end}{rest.partition(end)[2]}"
    return text


if __name__ == "__main__":
    main()
