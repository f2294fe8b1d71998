"""Tables and figures of the ablations from their committed records; runs no model.

    python -m experiments.ablation_report                    (make figures)

Reads ``docs/ablations/*.jsonl.gz`` and writes, for each experiment, ``<name>.csv`` (every cell),
``<name>.md`` (worlds put together) and its figures, and ``docs/results.md``: what became of each
claim of the paper.
"""

from __future__ import annotations

from experiments.config import check_command_line

check_command_line("ablation_report", __name__)  # before the seconds that the other imports take

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from omegaconf import DictConfig

from analysis.ablation_figures import abstention_figure, verdict_figure
from analysis.ablation_tables import READ, cells_frame, markdown, seed_frame, tables_markdown
from analysis.ablation_views import VIEWS, pooled_frame
from analysis.ablations import Record, of_kind, read_records
from analysis.claims import CLAIMS, outcome, sentence
from analysis.equivalence import sections
from analysis.figures import save_figure
from analysis.findings import (
    BEYOND,
    FAILURES,
    abstention_points,
    judged_sentence,
    judged_table,
)
from analysis.judging import judge
from analysis.results import ABSTENTION_FIGURE, VERDICTS_FIGURE, results_document
from analysis.verdicts import claim_outcomes, verdict_frame
from analysis.zoo import kind_of, read_models
from experiments.config import entry_point
from experiments.evaluation import make_console, progress_bars
from focus.zoo.answers import READINGS

SUFFIX = ".jsonl.gz"
ABSTAINING, ANSWERING, GUESSING = KINDS = ("abstaining", "answering", "guessing")


@entry_point("ablation_report")
def main(config: DictConfig) -> None:
    """Writes tables and figures of every experiment that has records, and the results."""
    mpl.use("Agg")
    console = make_console()
    folder, document = Path(config.records), Path(config.document)
    records = read_experiments(folder)
    kinds = model_kinds(Path(config.weights), names_of(records))
    records = {name: ordered(each, kinds) for name, each in records.items()}
    # Experiments have nothing in common here, and their intervals take minutes.
    with (
        ProcessPoolExecutor(config.workers, initializer=mpl.use, initargs=("Agg",)) as pool,
        progress_bars(console) as progress,
    ):
        pages = [
            pool.submit(write_experiment, folder, name, each, kinds)
            for name, each in sorted(records.items(), key=lambda item: -len(item[1]))
        ]
        for page in progress.track(as_completed(pages), len(pages), description="pages"):
            page.result()
    with console.status("results"):
        outcomes = claim_outcomes(records)
        frame = verdict_frame(outcomes, kinds)
        if len(frame):
            save_figure(verdict_figure(frame), folder / f"{VERDICTS_FIGURE}.png")
        document.parent.mkdir(parents=True, exist_ok=True)
        document.write_text(results_document(records, kinds, outcomes), encoding="utf-8")
    missing = ", ".join(name for name in VIEWS if name not in records)
    console.print(
        f"{len(records)} of {len(VIEWS)} experiments have records in {folder}"
        f"{f' (not yet: {missing})' if missing else ''}; results: {document}",
        soft_wrap=True,
    )


def read_experiments(folder: Path) -> dict[str, list[Record]]:
    """Records of every experiment that has some."""
    found = {name: read_records(folder / f"{name}{SUFFIX}") for name in VIEWS}
    return {name: records for name, records in found.items() if records}


def names_of(records: Mapping[str, Sequence[Record]]) -> list[str]:
    """Models of all experiments."""
    lines = (line for each in records.values() for line in of_kind(each, "answers"))
    return sorted({line["model"] for line in lines})


def model_kinds(weights: Path, names: Iterable[str]) -> dict[str, str]:
    """What each model learned to do where the asked image of several is noise: one of `KINDS`.

    Its record in `weights` says so; of a model without one, the end of its name.
    """
    cards = {str(record["name"]): kind_of(record) for record in read_models(weights)}

    def kind(name: str) -> str:
        if name not in cards:
            return next((kind for kind in KINDS if name.endswith(kind)), ANSWERING)
        if "among several" in cards[name]:
            return ABSTAINING
        return GUESSING if cards[name] == "guesses" else ANSWERING

    return {name: kind(name) for name in names}


def ordered(records: Iterable[Record], kinds: Mapping[str, str]) -> list[Record]:
    """Records with those of one kind of models together, as they stand in tables and figures."""

    def place(record: Record) -> tuple[str, str]:
        model = record.get("model", "")
        return kinds.get(model, ""), model

    return sorted(records, key=place)


def write_experiment(
    folder: Path, name: str, records: list[Record], kinds: Mapping[str, str]
) -> None:
    """Writes the tables and figures of one experiment, as `VIEWS` has them."""
    view = VIEWS[name]
    cells_frame(records).to_csv(folder / f"{name}.csv", index=False, float_format="%.5f")
    pooled = pooled_frame(records, view)
    judged = judgements(records) if name == "rules" else {}
    parts = [f"# {view.title}", *summary(name, records, kinds, judged), TABLE_NOTE]
    for figure, draw in view.figures.items():
        drawn = draw(records, pooled)
        if drawn is not None:
            save_figure(drawn, folder / f"{name}-{figure}.png")
            parts.append(f"![{view.title}: {figure}]({name}-{figure}.png)")
    parts += [
        *extras(name, records, pooled, judged, kinds),
        "## Tables",
        tables_markdown(pooled, view.index),
    ]
    if name == "images" and len(points := abstention_points(records)):
        save_figure(abstention_figure(points), folder / f"{ABSTENTION_FIGURE}.png")
    (folder / f"{name}.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def judgements(records: list[Record]) -> dict[str, pd.DataFrame]:
    """Candidate rules against the sum, by reading; readings without records are left out."""
    found = {reading: judge(records, reading=reading) for reading in READINGS}
    return {reading: judged for reading, judged in found.items() if len(judged)}


def summary(
    name: str,
    records: list[Record],
    kinds: Mapping[str, str],
    judged: Mapping[str, pd.DataFrame],
) -> list[str]:
    """One line for each comparison that the results make of this experiment."""
    claimed = (test for claim in CLAIMS for test in claim.tests)
    failing = (test for failure in FAILURES for test in failure.tests)
    tests = [test for test in (*claimed, *failing, *BEYOND) if test.experiment == name]
    lines = [f"- {sentence(outcome(test, records), kinds)}" for test in tests]
    lines += [f"- Read {READ[each]}. {judged_sentence(frame)}" for each, frame in judged.items()]
    return ["\n".join(lines), DETAILS] if lines else []


def extras(
    name: str,
    records: list[Record],
    pooled: pd.DataFrame,
    judged: Mapping[str, pd.DataFrame],
    kinds: Mapping[str, str],
) -> list[str]:
    """Tables that only some experiments have."""
    parts = []
    if name == "seeds":
        spread = seed_frame(pooled).to_markdown(index=False, floatfmt=".4f")
        parts += ["## Spread over seeds beside the interval over questions", spread]
    for reading, frame in judged.items():
        parts += [f"## Against the sum, read {READ[reading]}", judged_table(frame)]
    if name == "schemes":
        parts += sections(records, kinds)
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


def chosen_frame(records: Iterable[Record]) -> pd.DataFrame:
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


DETAILS = "What these words mean, and the tables behind them: [results](../results.md)."
TABLE_NOTE = (
    "In the tables below: accuracy (of minimal pairs the image score), and in brackets its paired "
    "difference to plain decoding on the same questions with 95% interval over questions; worlds "
    "put together unless a column tells them apart (every cell by itself, with leakage and "
    "abstention, is in the CSV file beside this). n is the least number of questions, or pairs, of "
    "a line. Settings were chosen on dev."
)


if __name__ == "__main__":
    main()
