"""Renews the demo's table and figures in the documentation from its committed records.

    python -m experiments.report           (make report)

Runs no model. A test checks that what is committed is what this command writes.
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib as mpl
import pandas as pd

from analysis.figures import (
    accuracy_figure,
    behaviour_figure,
    contrast_weight_figure,
    save_figure,
)
from analysis.leakage import row_behaviour
from analysis.tables import bench_markdown, paired_markdown, summarise
from focus.records import read_records

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "docs" / "demo"
RECORDS = DEMO / "records.jsonl.gz"
BENCH = ROOT / "docs" / "bench" / "bench.json"


def main() -> None:
    """Writes docs/demo/*.png and the tables between the README's markers."""
    mpl.use("Agg")
    records = list(read_records(RECORDS))
    rows = summarise(records)
    readme = ROOT / "README.md"
    readme.write_text(with_tables(readme.read_text(encoding="utf-8")), encoding="utf-8")
    save_figure(accuracy_figure(rows, ["accuracy", "leakage rate"]), DEMO / "accuracy.png")
    save_figure(behaviour_figure(row_behaviour(records)), DEMO / "rows.png")
    sweep = pd.read_csv(DEMO / "contrast_weight_dev.csv")
    save_figure(contrast_weight_figure(sweep), DEMO / "contrast_weight.png")


def with_tables(text: str) -> str:
    """`text` with the tables of the committed records between their markers."""
    demo = paired_markdown(summarise(read_records(RECORDS)))
    bench = bench_markdown(json.loads(BENCH.read_text(encoding="utf-8"))["rows"])
    for name, table in (("demo table", demo), ("bench table", bench)):
        start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, _, rest = text.partition(start)
        text = f"{before}{start}\n{table}\n{end}{rest.partition(end)[2]}"
    return text


if __name__ == "__main__":
    main()
