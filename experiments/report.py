"""Renews the tables of README and docs and the demo's figures from committed records.

    python -m experiments.report           (make report)

Runs no model. A test checks that what is committed is what this command writes.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd

from analysis import ablations
from analysis.figures import behaviour_figure, contrast_weight_figure, save_figure
from analysis.findings import headline_table
from analysis.leakage import row_behaviour
from analysis.probes import behaviour
from analysis.probes.pages import (
    behaviour_markdown,
    chance_markdown,
    knockout_markdown,
    mvh_markdown,
    patching_markdown,
)
from analysis.tables import bench_markdown, paired_markdown, prefill_markdown, summarise
from experiments import ablation_report
from focus.records import Record, read_records

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "docs" / "demo"
RECORDS = DEMO / "records.jsonl.gz"
PAGES = (
    ROOT / "README.md",
    *(
        ROOT / "docs" / name
        for name in ("ablations.md", "benchmarks.md", "costs.md", "mechanism.md")
    ),
)
PROBES = ROOT / "docs" / "probes"
BENCH = ROOT / "docs" / "bench" / "bench.json"
ABLATIONS, WEIGHTS = ROOT / "docs" / "ablations", ROOT / "focus" / "zoo" / "weights"
RULES = "domains"  # the ablation with every rule of the README's table


def main() -> None:
    """Writes the figures of the demo and of the leakage probe, and the tables between the markers
    of every page."""
    mpl.use("Agg")
    for page in PAGES:
        page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
    save_figure(behaviour_figure(row_behaviour(demo_records())), DEMO / "rows.png")
    sweep = pd.read_csv(DEMO / "contrast_weight_dev.csv")
    save_figure(contrast_weight_figure(sweep), DEMO / "contrast_weight.png")
    found = pd.read_csv(PROBES / "behaviour.csv")
    save_figure(behaviour.figure(found), PROBES / "behaviour.png")


@functools.cache
def demo_records() -> list[Record]:
    """The demo's committed records."""
    return list(read_records(RECORDS))


@functools.cache
def demo_table() -> str:
    """Their table; bootstrapping its intervals takes most of the time of a report."""
    return paired_markdown(summarise(demo_records()))


@functools.cache
def ablation_records() -> tuple[list[Record], dict[str, str]]:
    """Records of the ablation over all worlds, and which of its models abstain."""
    records = ablations.read_records(ABLATIONS / f"{RULES}{ablation_report.SUFFIX}")
    names = ablation_report.names_of({RULES: records})
    return records, ablation_report.model_kinds(WEIGHTS, names)


def bench() -> dict[str, Any]:
    """The committed record of what things cost."""
    record: dict[str, Any] = json.loads(BENCH.read_text(encoding="utf-8"))
    return record


def with_tables(text: str) -> str:
    """`text` with the tables of the committed records between their markers."""
    tables: dict[str, Callable[[], str]] = {
        "demo table": demo_table,
        "rules table": lambda: headline_table(*ablation_records()),
        "bench table": lambda: bench_markdown(bench()["rows"]),
        "prefill table": lambda: prefill_markdown(bench()["prefill"]),
        "behaviour table": lambda: behaviour_markdown(pd.read_csv(PROBES / "behaviour.csv")),
        "chance table": lambda: chance_markdown(
            pd.read_csv(PROBES / "chance.csv"), pd.read_csv(PROBES / "chance-4.csv")
        ),
        "mvh table": lambda: mvh_markdown(pd.read_csv(PROBES / "mvh.csv")),
        "knockout table": lambda: knockout_markdown(pd.read_csv(PROBES / "knockout.csv")),
        "patching table": lambda: patching_markdown(pd.read_csv(PROBES / "patching.csv")),
    }
    for name, table in tables.items():
        start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        if start in text:
            before, _, rest = text.partition(start)
            text = f"{before}{start}\n{table()}\n{end}{rest.partition(end)[2]}"
    return text


if __name__ == "__main__":
    main()
