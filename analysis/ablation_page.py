"""The page of one ablation, with everything: every cell, every condition of every test, figures."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.ablation_tables import READ, cells_frame, markdown, seed_frame, tables_markdown
from analysis.ablation_views import VIEWS, pooled_frame
from analysis.ablations import Record, of_kind
from analysis.equivalence import sections
from analysis.figures import save_figure
from analysis.findings import (
    by_model_table,
    front_table,
    judged_sentence,
    judged_table,
    number_sentence,
    regimes_table,
    repeated_sentence,
)
from analysis.judging import rule_cells
from analysis.outcomes import outcome_table, sentence
from analysis.results import Found
from focus.marks import READINGS


def write_page(folder: Path, name: str, records: list[Record], found: Found) -> None:
    """Writes ``<name>.csv`` (every cell), ``<name>.md`` and its figures, as `VIEWS` has them.

    Args:
        folder: that receives them.
        name: of the experiment.
        records: of it.
        found: in them.
    """
    view = VIEWS[name]
    folder.mkdir(parents=True, exist_ok=True)
    cells_frame(records).to_csv(folder / f"{name}.csv", index=False, float_format="%.5f")
    pooled = pooled_frame(records, view)
    parts = [f"# {view.title}"]
    for each in found.outcomes:
        if each.words:
            parts += [f"**{sentence(each, found.kinds)}**", outcome_table(each, found.kinds)]
            parts += [each.reason]
    for figure, draw in view.figures.items():
        drawn = draw(records, pooled)
        if drawn is not None:
            save_figure(drawn, folder / f"{name}-{figure}.png")
            parts.append(f"![{view.title}: {figure}]({name}-{figure}.png)")
    parts += extras(name, records, pooled, found)
    parts += ["## Tables", TABLE_NOTE, tables_markdown(pooled, view.index)]
    text = "\n\n".join(part for part in parts if part) + "\n"
    (folder / f"{name}.md").write_text(text, encoding="utf-8")


def extras(name: str, records: list[Record], pooled: pd.DataFrame, found: Found) -> list[str]:
    """Tables that only some experiments have."""
    parts = []
    if name == "seeds":
        spread = seed_frame(pooled).to_markdown(index=False, floatfmt=".4f")
        parts += ["## Spread over seeds beside the interval over questions", spread]
    if name == "aggregation":
        parts += [
            "\n".join(chain(*(number_sentence(records, found.kinds, each) for each in READINGS)))
        ]
    if name == "rules":
        parts += rules_parts(records, found)
    if name == "schemes":
        parts += sections(records, found.kinds)
    if name == "strategies":
        fronts = {each: front_table(records, "indexed", 2, each) for each in READINGS}
        parts += ["## Accuracy and cost", FRONT_NOTE] if any(fronts.values()) else []
        for reading, front in fronts.items():
            parts += [f"Read {READ[reading]}:", front] if front else []
    costs = of_kind(records, "cost")
    if costs:
        columns = ["model", "num_images", "rule", "rows", "encoded", "prefill_tokens", "seconds",
                   "over_plain"]  # fmt: skip
        table = pd.DataFrame(costs)[columns].to_markdown(index=False, floatfmt=".4g")
        parts += ["## Cost per question, measured", table]
    choices = chosen_frame(records)
    if len(choices):
        parts += ["## Settings, chosen on dev", markdown(choices)]
    notes = sorted({f"- {r['model']}, {r['rule']}: {r['why']}" for r in of_kind(records, "note")})
    return parts + (["## What could not be run", "\n".join(notes)] if notes else [])


def rules_parts(records: list[Record], found: Found) -> list[str]:
    """Candidate rules against the sum on both splits, by model and by kind of model."""
    parts = []
    for reading, judged in found.judged.items():
        parts += [f"## Against the sum, read {READ[reading]}", judged_sentence(judged),
                  judged_table({reading: judged})]  # fmt: skip
    cells = {reading: rule_cells(records, reading=reading) for reading in found.judged}
    by_model = by_model_table(cells, "routed", found.kinds)
    parts += [BY_MODEL_NOTE, by_model] if by_model else []
    if found.regimes:
        parts += [regimes_table(found.regimes), repeated_sentence(records)]
    return parts


def chosen_frame(records: Sequence[Record]) -> pd.DataFrame:
    """What was chosen on dev: rule and reading down, models across."""
    choices: list[dict[str, Any]] = [
        {**record, "chosen": str(record["chosen"])} for record in of_kind(records, "choice")
    ]
    if not choices:
        return pd.DataFrame()
    table = pd.DataFrame(choices).pivot_table(
        index=["rule", "reading"], columns="model", values="chosen", aggfunc="first", sort=False
    )
    return table.fillna("-").reset_index()


TABLE_NOTE = (
    "Accuracy (of minimal pairs the image score), and in brackets its paired difference to plain "
    "decoding on the same questions with 95% interval over questions; worlds put together unless a "
    "column tells them apart (every cell by itself, with leakage and abstention, is in the CSV "
    "file beside this). n is the least number of questions, or pairs, of a line. Settings were "
    "chosen on dev."
)
BY_MODEL_NOTE = (
    "Cells (world, kind of questions, number of images) in which routed FOCUS is better than the "
    "sum, not told apart from it, and worse, after Holm's adjustment over the cells of all rules "
    "and models. The rule was made on dev questions to the models of InternVL3 and Qwen2.5-VL of "
    "seed 0; the other models had no part in it:"
)
FRONT_NOTE = (
    "Methods that no other one beats at the same or a lower cost, on indexed questions with two "
    "images; cost is the mean number of rows run. What knows the asked image is left out."
)
