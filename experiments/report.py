"""Renews the demo's table and figures in the documentation from its committed records.

    python -m experiments.report           (make report)

Runs no model. A test checks that what is committed is what this command writes.
"""

from __future__ import annotations

import re
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
from analysis.tables import markdown_table, summarise
from focus.records import read_records

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "docs" / "demo"
MARKERS = ("<!-- demo table -->", "<!-- end of demo table -->")


def main() -> None:
    """Writes docs/demo/*.png and the table between the README's markers."""
    mpl.use("Agg")
    records = list(read_records(DEMO / "records.jsonl"))
    rows = summarise(records)
    readme = ROOT / "README.md"
    readme.write_text(with_table(readme.read_text(encoding="utf-8"), rows), encoding="utf-8")
    save_figure(accuracy_figure(rows, ["accuracy", "leakage rate"]), DEMO / "accuracy.png")
    save_figure(behaviour_figure(row_behaviour(records)), DEMO / "rows.png")
    sweep = pd.read_csv(DEMO / "contrast_weight_dev.csv")
    save_figure(contrast_weight_figure(sweep), DEMO / "contrast_weight.png")


def with_table(text: str, rows: list[dict]) -> str:
    """`text` with the table of `rows` between its markers."""
    start, end = (re.escape(marker) for marker in MARKERS)
    table = f"{MARKERS[0]}\n{markdown_table(rows)}\n{MARKERS[1]}"
    return re.sub(f"{start}.*?{end}", lambda _: table, text, flags=re.DOTALL)


if __name__ == "__main__":
    main()
