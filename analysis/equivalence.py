"""Where two strategies are the same: paired answers, two one-sided tests, and what parts them.

Two strategies are *equivalent* on some questions where the 90% interval of the paired difference of
their accuracies lies within a margin, which is two one-sided tests at 5% (Schuirmann 1987). They
*part* where the 95% interval lies beyond zero. Everything else is undecided, which with few
questions most cells are; all questions of a kind of model together decide.

Reads the records of ``experiment=ablation_schemes``: the published sum on rows of every scheme, at
the weight chosen for FOCUS, and plain decoding with isolated images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from analysis.ablations import PLAIN, Record, of_kind, unit_values
from analysis.statistics import paired_difference
from focus.marks import CANDIDATES, TEXT

#: Accuracies that differ by less are the same.
MARGIN = 0.02
#: What is compared with FOCUS or, the last, with plain decoding; in the order of the tables.
NAMES = {
    "composed": "composed, flow kept",
    "crossed": "composed, noise crossed",
    "stand_in": "composed, stand-in",
    "isolated": "composed, images isolated",
    "masked": "masked",
    "plain_isolated": "plain, images isolated",
}
EQUIVALENT, HIGHER, LOWER, UNDECIDED = "equivalent", "higher", "lower", "undecided"
CELL = ["model", "questions", "num_images", "reading"]


def pairs(records: Iterable[Record], kinds: Mapping[str, str]) -> pd.DataFrame:
    """Every line that stands for another one, beside it and plain decoding.

    Args:
        records: of one run.
        kinds: of the models.

    Returns:
        `CELL`, ``kind``, ``ours`` (key of `NAMES`), ``same``, ``divergence`` and, a value per
        question in [0, 1], ``a`` (ours), ``b`` (the exact one), ``plain`` and their ``clusters``.
    """
    records = list(records)
    questions = {line["questions"]: line for line in of_kind(records, "questions")}
    lines = [line for line in of_kind(records, "answers") if "marks" in line]
    found = {(*_cell(line), line["rule"], line.get("scheme")): line for line in lines}
    rows = []
    for line in lines:
        ours = line.get("scheme") if line["rule"] == "sum" else line["rule"]
        if ours not in NAMES:
            continue
        exact = PLAIN if ours == "plain_isolated" else "sum"
        asked = questions[line["questions"]]
        a, labels = unit_values(line, asked, "accuracy")
        b, plain = (
            unit_values(found[(*_cell(line), rule, None)], asked, "accuracy")[0]
            for rule in (exact, PLAIN)
        )
        cell = dict(zip(CELL, _cell(line), strict=True))
        rows.append({**cell, "kind": kinds.get(line["model"], line["model"]), "ours": ours,
                     "same": line["same"], "divergence": line["divergence"],
                     "a": a, "b": b, "plain": plain, "clusters": labels})  # fmt: skip
    return pd.DataFrame(rows)


def _cell(line: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(line[name] for name in CELL)


def compared(paired: pd.DataFrame, by: Sequence[str], margin: float = MARGIN) -> pd.DataFrame:
    """What a test says of each group of lines, all their questions together.

    Args:
        paired: of `pairs`.
        by: columns that groups are apart by; `CELL` with kind and ours for every cell alone.
        margin: accuracies that differ by less are the same, in (0, 1).

    Returns:
        `by`, ``n``, ``accuracy`` (ours), ``exact``, ``plain``, ``difference`` of the first two with
        its 95% interval ``low`` and ``high``, ``same`` (share of equal answers), ``divergence``
        (nats, mean) and ``verdict``.
    """
    rows = []
    for key, part in paired.groupby(list(by), sort=False):
        a, b, plain = (np.concatenate(part[name].tolist()) for name in ("a", "b", "plain"))
        clusters = [label for labels in part["clusters"] for label in labels]
        wide, narrow = (
            paired_difference(a, b, clusters, level=level, resamples=2000) for level in (0.95, 0.90)
        )
        weights = part["a"].map(len)
        rows.append({
            **dict(zip(by, key, strict=True)), "n": len(a),
            "accuracy": a.mean(), "exact": b.mean(), "plain": plain.mean(),
            "difference": wide.delta, "low": wide.low, "high": wide.high,
            **{name: np.average(part[name], weights=weights) for name in ("same", "divergence")},
            "verdict": verdict(wide, narrow, margin),
        })  # fmt: skip
    return pd.DataFrame(rows)


def verdict(wide: Any, narrow: Any, margin: float) -> str:
    """What intervals of 95% and 90% say."""
    if -margin < narrow.low and narrow.high < margin:
        return EQUIVALENT
    if wide.low > 0:
        return HIGHER
    return LOWER if wide.high < 0 else UNDECIDED


def equivalence_figure(cells: pd.DataFrame, margin: float = MARGIN) -> Figure:
    """Accuracy of each strategy against that of the exact one, a point for every cell.

    Args:
        cells: of `compared`, by `CELL`, kind and ours; of one reading.
        margin: within it they are the same: the grey band.
    """
    sns.set_theme(style="whitegrid", context="paper", font_scale=0.9)
    grid = sns.relplot(
        cells.assign(strategy=cells["ours"].map(NAMES)), x="exact", y="accuracy",
        col="strategy", col_order=list(NAMES.values()), col_wrap=2, hue="kind", style="num_images",
        height=2.2, s=22, alpha=0.8, facet_kws={"xlim": (0, 1.02), "ylim": (0, 1.02)},
    )  # fmt: skip
    for axes in grid.axes.flat:
        axes.plot([0, 1], [0, 1], color="0.6", lw=0.8, zorder=0)
        axes.fill_between(
            [0, 1], [-margin, 1 - margin], [margin, 1 + margin], color="0.85", zorder=0
        )
    grid.set_titles("{col_name}")
    grid.set_axis_labels("accuracy of FOCUS (last: plain)", "accuracy")
    return grid.figure


def sections(records: Iterable[Record], kinds: Mapping[str, str]) -> list[str]:
    """Conclusion, tables, where they part, and why; nothing where there are no such lines."""
    records = list(records)
    paired = pairs(records, kinds)
    if paired.empty:
        return []
    told = CANDIDATES if (paired["reading"] == CANDIDATES).any() else TEXT
    cells = compared(paired, (*CELL, "kind", "ours"))
    groups = compared(paired, ("reading", "kind", "ours"))
    ranked = groups[groups["reading"] == told]
    parts = [
        f"## Is it the same as FOCUS?\n\nEquivalent: within {MARGIN:g} of accuracy by two "
        "one-sided tests at 5%, all questions of a kind of model together; by the ranking of the "
        "candidates, at the weight chosen for FOCUS. What keys and values of images have seen: "
        "images of their kind (*flow kept*); the same, but noise behind the clean image the clean "
        "ones before it (*crossed*), or a photograph in the place of each, the same for all "
        "questions (*stand-in*); no other image (*isolated*). *Masked*: other images are hidden "
        "from the text by attention, without noise.",
        conclusion(ranked),
        kinds_table(ranked, cells).to_markdown(index=False, disable_numparse=True),
        "### Every model",
        models_table(compared(paired[paired["reading"] == told], ("model", "ours")))
        .to_markdown(index=False, disable_numparse=True),
        "### Where they part most",
        parting_table(cells[cells["reading"] == told])
        .to_markdown(index=False, disable_numparse=True),
        rows_sentence(records, kinds),
    ]  # fmt: skip
    if told != TEXT and (groups["reading"] == TEXT).any():
        table = kinds_table(groups[groups["reading"] == TEXT], cells)
        markdown = table.to_markdown(index=False, disable_numparse=True)
        parts += ["### As generated text", markdown]
    return [part for part in parts if part]


def page(records: Sequence[Record], kinds: Mapping[str, str]) -> tuple[str, Figure]:
    """docs/composed: what FOCUS needs and what it does not, and the figure that it shows."""
    paired = pairs(records, kinds)
    cells = compared(paired[paired["reading"] == CANDIDATES], (*CELL, "kind", "ours"))
    asked = of_kind(records, "questions")
    sizes = sorted({len(line["answer"]) for line in asked})
    parts = [
        "# Composed FOCUS: what FOCUS needs, and what it does not",
        "Made by `make report` from the records of `make ablation-schemes`, which asks any model "
        'and benchmark (`ARGS="model=... benchmark=..."`). Here: test split, worlds '
        f"{', '.join(sorted({line['world'] for line in asked}))}, two to eight images, "
        f"{' or '.join(map(str, sizes))} questions a cell, one training run of each model.",
        *sections(records, kinds),
        "![Accuracy of each strategy against the exact one](equivalence.png)",
    ]
    return "\n\n".join(parts) + "\n", equivalence_figure(cells)


def conclusion(groups: pd.DataFrame) -> str:
    """One sentence for every strategy."""
    lines = []
    for ours, name in NAMES.items():
        own = groups[groups["ours"] == ours]
        words = [f"{row['kind']} {row['verdict']} ({_interval(row)})"
                 for row in own.to_dict("records")]  # fmt: skip
        against = "plain decoding" if ours == "plain_isolated" else "FOCUS"
        if words:
            lines.append(f"- **{name}** against {against}: " + "; ".join(words) + ".")
    return "\n".join(lines)


def kinds_table(groups: pd.DataFrame, cells: pd.DataFrame) -> pd.DataFrame:
    """A line for every kind of model and strategy."""
    lines = []
    for row in groups.sort_values("kind", kind="stable").to_dict("records"):
        own = cells[(cells["kind"] == row["kind"]) & (cells["ours"] == row["ours"])
                    & (cells["reading"] == row["reading"])]  # fmt: skip
        counts = own["verdict"].value_counts()
        lines.append({
            "kind": row["kind"],
            "strategy": NAMES[row["ours"]],
            "n": row["n"],
            **{name: f"{row[name]:.3f}" for name in ("plain", "exact")},
            "ours": f"{row['accuracy']:.3f}",
            "difference": _interval(row),
            "same answer": f"{row['same']:.3f}",
            "KL, nats": f"{row['divergence']:.2f}",
            "cells: equivalent / undecided / lower / higher": " / ".join(
                str(counts.get(word, 0)) for word in (EQUIVALENT, UNDECIDED, LOWER, HIGHER)),
        })  # fmt: skip
    return pd.DataFrame(lines)


def models_table(groups: pd.DataFrame) -> pd.DataFrame:
    """Models down, the difference of each strategy across; equivalent ones are bold."""
    cells = [
        f"**{_interval(row)}**" if row["verdict"] == EQUIVALENT else _interval(row)
        for row in groups.to_dict("records")
    ]
    table = groups.assign(cell=cells).pivot(index="model", columns="ours", values="cell")
    order = [ours for ours in NAMES if ours in table]
    table.insert(0, "n", groups.groupby("model")["n"].min().astype(str))
    return table[["n", *order]].rename(columns=NAMES).reset_index()


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


def rows_sentence(records: Iterable[Record], kinds: Mapping[str, str]) -> str:
    """What the rows say: is it the branch of the asked image, or do the others commit themselves
    more?"""
    rows = pd.DataFrame(of_kind(records, "rows"))
    rows = rows[rows["role"].isin(("on target", "off target"))] if len(rows) else rows
    if rows.empty:
        return "No question names the image that it asks about, so rows cannot be told apart."
    rows["kind"] = [kinds.get(model, model) for model in rows["model"]]
    rows["scheme"] = rows["scheme"].fillna("FOCUS") if "scheme" in rows else "FOCUS"
    sums = rows.groupby(["kind", "scheme", "role"])[["right", "own", "total"]].sum()
    words = []
    for kind in dict.fromkeys(rows["kind"]):
        own = []
        for scheme in dict.fromkeys(rows["scheme"]):
            on, off = (sums.loc[(kind, scheme, role)] for role in ("on target", "off target"))
            name = NAMES.get(str(scheme), scheme)
            right, committed = on["right"] / on["total"], off["own"] / off["total"]
            own.append(f"{name} {right:.2f} / {committed:.2f}")
        words.append(f"- {kind}: " + ", ".join(own))
    return (
        "Why, from the rows of questions that name one image, over the whole vocabulary: how often "
        "the branch of the asked image is right / the others name what their own image shows."
        "\n\n" + "\n".join(words)
    )


def _interval(row: Mapping[str, Any]) -> str:
    return f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"
