"""Where two strategies are the same: paired answers, two one-sided tests, and what parts them.

Two strategies are *equivalent* on some questions where the 90% interval of the paired difference of
their accuracies lies within a margin, which is two one-sided tests at 5% (Schuirmann 1987). They
*part* where the 95% interval lies beyond zero. Everything else is undecided, which with few
questions most cells are; all questions of a kind of model together decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from tqdm import tqdm

from analysis.statistics import paired_difference

#: What an embedded model learned to do where the asked image is noise; part of its name.
KINDS = ("abstaining", "guessing", "answering")
#: What is compared with what; in the order of the tables.
PAIRS = {
    "composed": "focus",
    "composed_isolated": "focus",
    "masked": "focus",
    "masked_isolated": "focus",
    "plain_isolated": "plain",
}
NAMES = {
    "composed": "composed, flow kept",
    "composed_isolated": "composed, images isolated",
    "masked": "masked, flow kept",
    "masked_isolated": "masked, images isolated",
    "plain_isolated": "plain, images isolated",
}
EQUIVALENT, HIGHER, LOWER, UNDECIDED = "equivalent", "higher", "lower", "undecided"
READINGS = {"candidates": "candidate_right", "text": "text_right"}
CELL = ["split", "model", "questions", "num_images"]


def cells(answers: pd.DataFrame, *, margin: float) -> pd.DataFrame:
    """Every pair of strategies in every cell and reading.

    Args:
        answers: of `experiments.equivalence`: a line per question, strategy and model.
        margin: accuracies that differ by less are the same, in [0, 1].

    Returns:
        One line each: `CELL`, ``ours``, ``reading`` and what `compared` finds.
    """
    found = []
    each_cell = answers.groupby(CELL, sort=False)
    for labels, part in tqdm(each_cell, "comparing", leave=False, disable=None):
        for ours, exact in PAIRS.items():
            for reading in READINGS:
                result = compared(part, ours, exact, reading, margin=margin)
                if result is not None:
                    cell = dict(zip(CELL, labels, strict=True))
                    found.append({**cell, "ours": ours, "reading": reading, **result})
    return with_kinds(pd.DataFrame(found))


def pooled(answers: pd.DataFrame, by: Sequence[str], *, margin: float, reading: str = "candidates",
           ) -> pd.DataFrame:  # fmt: skip
    """The same over all questions of a group, such as of one kind of model; every cell counts by
    its questions."""
    found = []
    for labels, part in with_kinds(answers).groupby(list(by), sort=False):
        # Questions of different models about the same images depend on each other.
        part = part.assign(cluster=part["questions"] + part["cluster"].astype(str))
        for ours, exact in PAIRS.items():
            result = compared(part, ours, exact, reading, margin=margin)
            if result is not None:
                found.append({**dict(zip(by, labels, strict=True)), "ours": ours, **result})
    return pd.DataFrame(found)


def compared(
    part: pd.DataFrame, ours: str, exact: str, reading: str, *, margin: float
) -> dict[str, Any] | None:
    """One pair of strategies on some questions; None where that reading is not there.

    ``accuracy`` of ours, of the ``exact`` one and of ``plain``; ``difference`` of the first two
    with its 95% interval and ``low90``, ``high90``; ``agree``, the share of equal answers;
    ``divergence`` of the first token's distribution in nats, mean; ``verdict``.
    """
    key = ["model", "questions", "split", "id"]
    column, answer = READINGS[reading], "candidate" if reading == "candidates" else "text"
    sides = [part[part["strategy"] == name].set_index(key) for name in (ours, exact, "plain")]
    if any(side.empty or side[column].isna().any() for side in sides):
        return None
    a, b, plain = (side.loc[sides[0].index] for side in sides)
    arguments = (a[column].astype(float), b[column].astype(float), list(a["cluster"]))
    wide, narrow = (paired_difference(*arguments, level=level, resamples=2000)
                    for level in (0.95, 0.90))  # fmt: skip
    return {
        "n": len(a),
        "accuracy": float(a[column].mean()),
        "exact": float(b[column].mean()),
        "plain": float(plain[column].mean()),
        "difference": wide.delta,
        "low": wide.low,
        "high": wide.high,
        "low90": narrow.low,
        "high90": narrow.high,
        "agree": float((a[answer] == b[answer]).mean()),
        "divergence": float(a["divergence"].mean()),
        "verdict": verdict(wide, narrow, margin),
    }


def with_kinds(frame: pd.DataFrame) -> pd.DataFrame:
    """Adds the kind of every embedded model; any other model is a kind of its own.

    >>> with_kinds(pd.DataFrame({"model": ["internvl-guessing-seed1", "other"]}))["kind"].tolist()
    ['guessing', 'other']
    """

    def kind(model: str) -> str:
        return next((kind for kind in KINDS if kind in model.split("-")), model)

    return frame.assign(kind=frame["model"].map(kind))


def verdict(wide: Any, narrow: Any, margin: float) -> str:
    """What intervals of 95% and 90% say."""
    if -margin < narrow.low and narrow.high < margin:
        return EQUIVALENT
    if wide.low > 0:
        return HIGHER
    return LOWER if wide.high < 0 else UNDECIDED


def equivalence_figure(compared: pd.DataFrame, *, margin: float) -> Figure:
    """Accuracy of each strategy against that of the exact one, a point for every cell of test."""
    sns.set_theme(style="whitegrid", context="paper")
    shown = compared[compared["split"] == "test"]
    read = [reading for reading in READINGS if (shown["reading"] == reading).any()]
    shown = shown[shown["reading"] == read[0]]
    shown = shown.assign(strategy=shown["ours"].map(NAMES))
    grid = sns.relplot(
        shown, x="exact", y="accuracy", col="strategy", col_order=list(NAMES.values()),
        hue="kind", style="num_images", height=2.4, aspect=0.95, s=28, alpha=0.8,
        facet_kws={"xlim": (0, 1.02), "ylim": (0, 1.02)},
    )  # fmt: skip
    for axes in grid.axes.flat:
        axes.plot([0, 1], [0, 1], color="0.6", lw=0.8, zorder=0)
        axes.fill_between(
            [0, 1], [-margin, 1 - margin], [margin, 1 + margin], color="0.85", zorder=0
        )
    grid.set_titles("{col_name}")
    grid.set_axis_labels("FOCUS (right: plain), accuracy", "accuracy")
    return grid.figure


def page(answers: pd.DataFrame, compared: pd.DataFrame, *, margin: float, origin: str) -> str:
    """The document: conclusion, table, figure, where they part, and why."""
    test = answers[answers["split"] == "test"]
    # Where choices cannot be told apart by their tokens there is only text.
    first, *others = [reading for reading in READINGS if (compared["reading"] == reading).any()]
    told = compared[(compared["split"] == "test") & (compared["reading"] == first)]
    kinds = pooled(test, ["kind"], margin=margin, reading=first)
    what = "likeliest among the candidates" if first == "candidates" else "the generated text"
    parts = [
        "# Composed FOCUS: what FOCUS needs, and what it does not",
        f"Generated by {origin}; do not edit. Test split, the answer that is {what}; differences "
        f"with 95% intervals over questions; equivalent: within {margin:g} by two one-sided tests "
        "at 5%. "
        "Models: " + ", ".join(sorted(answers["model"].unique())) + ".",
        conclusion(kinds),
        kinds_table(kinds, told).to_markdown(index=False, disable_numparse=True),
        "![Accuracy of each strategy against the exact one](equivalence.png)",
        "## The number of images",
        number_table(told).to_markdown(index=False, disable_numparse=True),
        "## Where they part most",
        parting_table(told).to_markdown(index=False, disable_numparse=True),
        rows_sentence(answers),
    ]  # fmt: skip
    for reading in others:
        own = compared[(compared["split"] == "test") & (compared["reading"] == reading)]
        table = kinds_table(pooled(test, ["kind"], margin=margin, reading=reading), own)
        parts += ["## Generated text", table.to_markdown(index=False, disable_numparse=True)]
    parts.append(
        "Dev decided nothing but which flow is the default: " + dev_sentence(compared, first)
    )
    return "\n\n".join(parts) + "\n"


def conclusion(kinds: pd.DataFrame) -> str:
    """One sentence for every strategy."""
    lines = []
    for ours, name in NAMES.items():
        own = kinds[kinds["ours"] == ours]
        words = [f"{row['kind']} {row['verdict']} ({_interval(row)})"
                 for row in own.to_dict("records")]  # fmt: skip
        against = "plain decoding" if PAIRS[ours] == "plain" else "FOCUS"
        lines.append(f"- **{name}** against {against}, all questions of a kind of model together: "
                     + "; ".join(words) + ".")  # fmt: skip
    return "\n".join(lines)


def kinds_table(kinds: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """A line for every kind of model and strategy."""
    lines = []
    for row in kinds.sort_values(["kind", "ours"], kind="stable").to_dict("records"):
        own = cells[(cells["kind"] == row["kind"]) & (cells["ours"] == row["ours"])]
        counts = own["verdict"].value_counts()
        lines.append({
            "kind": row["kind"],
            "strategy": NAMES[row["ours"]],
            "n": row["n"],
            "plain": f"{row['plain']:.3f}",
            "exact": f"{row['exact']:.3f}",
            "ours": f"{row['accuracy']:.3f}",
            "difference": _interval(row),
            "same answer": f"{row['agree']:.3f}",
            "KL, nats": f"{row['divergence']:.2f}",
            "cells: equivalent / undecided / lower / higher": " / ".join(
                str(counts.get(word, 0)) for word in (EQUIVALENT, UNDECIDED, LOWER, HIGHER)),
        })  # fmt: skip
    return pd.DataFrame(lines)


def number_table(cells: pd.DataFrame) -> pd.DataFrame:
    """Mean difference over cells by number of images, a column for each strategy."""
    means = cells.pivot_table(index=["kind", "num_images"], columns="ours", values="difference")
    means = means.reindex(columns=[ours for ours in NAMES if ours in means]).rename(columns=NAMES)
    return means.map(lambda value: f"{value:+.3f}").reset_index()


def parting_table(cells: pd.DataFrame, most: int = 3) -> pd.DataFrame:
    """The cells of every strategy with the largest differences."""
    lines = []
    for ours, name in NAMES.items():
        own = cells[cells["ours"] == ours]
        order = own["difference"].abs().sort_values(ascending=False, kind="stable").index
        for row in own.loc[order[:most]].to_dict("records"):
            line = {"strategy": name, "model": row["model"], "questions": row["questions"]}
            means = {key: f"{row[key]:.2f}" for key in ("plain", "exact", "accuracy")}
            lines.append({**line, **means, "difference": _interval(row)})
    return pd.DataFrame(lines)


def rows_sentence(answers: pd.DataFrame) -> str:
    """What the rows say: is it the branch of the asked image, or are the others less silent?"""
    test = with_kinds(answers[(answers["split"] == "test") & answers["on_target_right"].notna()])
    if test.empty:
        return "No question names the image that it asks about, so rows cannot be told apart."
    means = test.groupby(["kind", "strategy"])[["on_target_right", "off_target_commits"]].mean()
    words = []
    for kind in dict.fromkeys(test["kind"]):
        own = [
            f"{NAMES.get(str(name), 'FOCUS')} {row.on_target_right:.2f} / "
            f"{row.off_target_commits:.2f}"
            for name, row in means.loc[kind].iterrows()
        ]
        words.append(f"- {kind}: " + ", ".join(own))
    return (
        "Why, from the rows of questions that name one image: share of right answers of the branch "
        "in which the asked image is clean / probability that the other branches give their "
        "likeliest wrong candidate.\n\n" + "\n".join(words)
    )


def dev_sentence(cells: pd.DataFrame, reading: str) -> str:
    """Mean difference of both flows on dev."""
    dev = cells[(cells["split"] == "dev") & (cells["reading"] == reading)]
    means: Mapping[Any, float] = dev.groupby("ours")["difference"].mean().to_dict()
    return ", ".join(f"{NAMES[ours]} {means[ours]:+.3f}" for ours in NAMES if ours in means) + "."


def _interval(row: Mapping[str, Any]) -> str:
    return f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
