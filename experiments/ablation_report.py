"""Tables and figures of the ablations from their committed records; runs no model.

    python -m experiments.ablation_report                    (make figures)

Reads ``docs/ablations/*.jsonl.gz`` and writes, for each experiment, ``<name>.csv`` (every cell),
``<name>.md`` (worlds put together) and its figures, and ``docs/results.md``: what became of each
claim of the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from omegaconf import DictConfig

from analysis.ablation_figures import (
    adaptive_figure,
    cost_figure,
    label_figure,
    rows_figure,
    settings_figure,
)
from analysis.ablation_tables import (
    adaptive_frame,
    label_frame,
    pivot_markdown,
    rows_frame,
    seed_frame,
)
from analysis.ablations import Record, answers_frame, of_kind, read_records
from analysis.answers import READINGS, VOCABULARY
from analysis.claims import results_document
from analysis.figures import save_figure
from experiments.config import entry_point
from experiments.evaluation import make_console

Draw = Callable[[list[Record], pd.DataFrame], Figure]
"""From the records of an experiment and its pooled frame to a figure."""
SUFFIX = ".jsonl.gz"


@dataclass(frozen=True)
class View:
    """How one experiment is shown.

    Args:
        title: of its table.
        index: columns that name a line of the table.
        figures: by file name, from the records and the pooled frame.
    """

    title: str
    index: Sequence[str]
    figures: Mapping[str, Draw]


def _spoken(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[(frame["reading"] == VOCABULARY) & frame["temperature"].isna()]


def _against(x: str, *, hue: str = "rule", row: str = "kind", value: str = "value",
             reading: str = VOCABULARY) -> Draw:  # fmt: skip
    def draw(records: list[Record], pooled: pd.DataFrame) -> Figure:
        frame = pooled[(pooled["reading"] == reading) & pooled["temperature"].isna()]
        frame = frame.assign(case=frame["kind"] + ", " + frame["num_images"].astype(str))
        return settings_figure(frame, x, hue=hue, row=row, value=value)

    return draw


def _said(x: str) -> Draw:
    def draw(records: list[Record], pooled: pd.DataFrame) -> Figure:
        return rows_figure(rows_frame(records), x)

    return draw


def _labelled(column: str, name: str) -> Draw:
    def draw(records: list[Record], pooled: pd.DataFrame) -> Figure:
        frame = label_frame(records, column)
        frame = frame.assign(kind=frame["kind"] + ", " + frame["num_images"].astype(str))
        return label_figure(frame, name)

    return draw


def _cost(records: list[Record], pooled: pd.DataFrame) -> Figure:
    """Accuracy on indexed questions, which every strategy was asked, against rows run."""
    asked = [r for r in records if r["record"] == "questions" or r.get("kind") == "indexed"]
    lines = pd.DataFrame([r for r in of_kind(asked, "answers") if "rows" in r])
    mean = lines.groupby(["model", "rule"], sort=False)["rows"].mean().rename("rows_run")
    apart = ["world", "kind", "num_images", "similarity", "setting", "alpha"]
    spoken = _spoken(answers_frame(asked, pooled=apart))
    return cost_figure(spoken.merge(mean.reset_index(), on=["model", "rule"]), cost="rows_run")


def _weights(reading: str) -> Draw:
    def draw(records: list[Record], pooled: pd.DataFrame) -> Figure:
        return settings_figure(_default_noise(pooled, reading), "alpha", row="case")

    return draw


VIEWS: dict[str, View] = {
    "strategies": View(
        "All strategies",
        ("kind", "num_images", "rule", "reading"),
        {
            "cost": _cost,
            "adaptive": lambda records, pooled: adaptive_figure(adaptive_frame(records)),
            "difference": _against("rule", hue="reading", row="case", value="delta"),
        },
    ),
    "noise": View(
        "Noise types and scales",
        ("kind", "noise", "scale", "reading"),
        {
            "types": lambda records, pooled: settings_figure(
                _spoken(pooled)[_spoken(pooled)["scale"].fillna(1.0) == 1.0], "noise"
            ),
            "scales": lambda records, pooled: settings_figure(
                _scaled(_spoken(pooled)), "scale", hue="noise"
            ),
        },
    ),
    "seeds": View("Noise seeds and sharing", ("kind", "sharing", "seed", "reading"),
                  {"seeds": _against("sharing", hue="seed")}),
    "aggregation": View(
        "Aggregations",
        ("kind", "num_images", "rule", "reading"),
        {reading: _against("num_images", reading=reading) for reading in READINGS},
    ),
    "rules": View(
        "Candidate rules, on dev",
        ("kind", "num_images", "rule", "reading"),
        {reading: _against("rule", hue="num_images", reading=reading) for reading in READINGS},
    ),
    "contrast": View(
        "Contrast weight, on dev",
        ("kind", "num_images", "rule", "noise", "alpha", "reading"),
        {
            **{reading: _weights(reading) for reading in READINGS},
            "noise": lambda records, pooled: settings_figure(
                _summed(pooled), "alpha", hue="noise"),
        },
    ),
    "images": View(
        "Number of images and place of the asked one",
        ("kind", "num_images", "rule", "reading"),
        {"number": _against("num_images"), "place": _labelled("target", "place")},
    ),
    "targets": View("Target images", ("kind", "num_images", "targets", "reading"),
                    {"targets": _against("targets", row="case")}),
    "domains": View("Domains", ("kind", "rule", "reading"),
                    {"domains": _labelled("domain", "domain")}),
    "similarity": View(
        "Similar images",
        ("kind", "num_images", "similarity", "rule", "reading"),
        {"accuracy": _against("similarity", row="case"), "rows": _said("similarity")},
    ),
    "correlated": View(
        "Noise that tells of the content",
        ("kind", "scale", "tint", "rule", "reading"),
        {
            "scale": lambda records, pooled: settings_figure(_scaled(_spoken(pooled)), "scale"),
            "rows": lambda records, pooled: rows_figure(_untinted(records), "scale"),
            "tint": lambda records, pooled: settings_figure(
                _spoken(pooled)[_spoken(pooled)["scale"].fillna(1.0) == 1.0], "tint"),
        },
    ),
    "collective": View(
        "Questions that need several images",
        ("kind", "num_images", "rule", "reading"),
        {"answers": _labelled("answer", "right answer"), "rows": _said("answer")},
    ),
    "sampling": View("Sampling and matched temperature",
                     ("kind", "num_images", "rule", "temperature", "reading"), {}),
}  # fmt: skip


def _scaled(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["tint"].fillna("none") == "none"]


def _untinted(records: list[Record]) -> pd.DataFrame:
    rows = rows_frame(records)
    return rows[rows["tint"] == "none"]


def _default_noise(pooled: pd.DataFrame, reading: str) -> pd.DataFrame:
    frame = pooled[
        (pooled["reading"] == reading) & pooled["noise"].isin(["imagenet+uniform", None])
    ]
    return frame.assign(case=frame["kind"] + ", " + frame["num_images"].astype(str))


def _summed(pooled: pd.DataFrame) -> pd.DataFrame:
    frame = _spoken(pooled)
    two = (frame["kind"] == "indexed") & (frame["num_images"] == 2)
    return frame[two & frame["rule"].isin(["plain", "sum"])]


@entry_point("ablation_report")
def main(config: DictConfig) -> None:
    """Writes tables and figures of every experiment that has records, and the results."""
    mpl.use("Agg")
    console = make_console()
    folder = Path(config.records)
    everything: dict[str, list[Record]] = {}
    for name, view in VIEWS.items():
        records = read_records(folder / f"{name}{SUFFIX}")
        if not records:
            continue
        everything[name] = records
        with console.status(f"{name}: tables and figures"):
            write_experiment(folder, name, view, records)
    document = results_document(everything)
    Path(config.document).write_text(document, encoding="utf-8")
    console.print(
        f"{len(everything)} of {len(VIEWS)} experiments have records in {folder}; "
        f"results: {config.document}",
        soft_wrap=True,
    )


def write_experiment(folder: Path, name: str, view: View, records: list[Record]) -> None:
    """Writes the tables and figures of one experiment."""
    answers_frame(records).to_csv(folder / f"{name}.csv", index=False, float_format="%.5f")
    # What was chosen on dev differs between models; it is no line of its own.
    chosen = () if "alpha" in view.index else ("alpha", "setting")
    free = [s for s in ("similarity", "size") if s not in view.index]
    pooled = answers_frame(records, pooled=["world", *free, *chosen])
    parts = [f"# {view.title}", TABLE_NOTE, pivot_markdown(pooled, view.index)]
    if name == "seeds":
        spread = seed_frame(pooled).to_markdown(index=False, floatfmt=".4f")
        parts += ["## Spread over seeds beside the interval over questions", spread]
    costs = of_kind(records, "cost")
    if costs:
        columns = ["model", "num_images", "rule", "rows", "encoded", "prefill_tokens", "seconds",
                   "over_plain"]  # fmt: skip
        table = pd.DataFrame(costs)[columns].to_markdown(index=False, floatfmt=".4g")
        parts += ["## Cost per question, measured", table]
    notes = sorted({f"- {r['model']}, {r['rule']}: {r['why']}" for r in of_kind(records, "note")})
    if notes:
        parts += ["## What could not be run", "\n".join(notes)]
    for figure, draw in view.figures.items():
        save_figure(draw(records, pooled), folder / f"{name}-{figure}.png")
        parts.append(f"![{view.title}: {figure}]({name}-{figure}.png)")
    (folder / f"{name}.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


TABLE_NOTE = (
    "Accuracy, and in brackets its paired difference to plain decoding on the same questions with "
    "95% interval over questions; worlds put together (each by itself in the CSV file beside "
    "this). n is the least number of questions of a cell. Settings were chosen on dev."
)


if __name__ == "__main__":
    main()
