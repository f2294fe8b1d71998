"""Tables and a figure of docs/mechanism.md, from the tables that `make leakage` writes."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from analysis.probes.account import KNOWN, LINES, PLAIN
from analysis.probes.behaviour import PUBLISHED
from analysis.probes.chance import KEYS
from focus.probes.behaviour import OPTIONS

#: Edges of the page, in its words.
EDGES = {
    "image to image": "image → image",
    "other images to text": "other image → text",
    "asked image to text": "asked image → text",
    "delimiters to text": "delimiters → text",
    "text to last token": "text → last token",
}
#: Conditions of the page, in its words; strategies are called as they are.
CONDITIONS = {
    "single": "asked image alone",
    "multi": "both images",
    "swapped": "both, swapped",
    "distractor": "irrelevant one beside it",
    "duplicate": "itself beside it",
    "blank": "grey one beside it",
}
#: Metrics of MVH-Bench, in the words of a page.
MVH = {
    "mc accuracy": "options",
    "mc pair accuracy": "pairs of them",
    "adversarial error rate": "adversarial errors",
    "binary accuracy": "yes or no",
    "binary pair accuracy": "pairs",
    "binary quad accuracy": "quads",
}
#: Parts of the page, in its words; in the order of its lines.
PARTS = {
    PLAIN: "plain decoding",
    **dict(
        zip(
            LINES,
            (
                "images see no other image",
                "text sees the asked one alone",
                "one branch each, pooled",
                "noise, not nothing",
                "contrast",
                "clean and noise see each other",
                "**FOCUS, in all**",
            ),
            strict=True,
        )
    ),
    KNOWN: "*asked image known, masked*",
}
#: Groups of tokens of the page.
TOKENS = ("other images", "question", "last token")
#: Conditions that the page leaves to the tables in docs/probes: they are as others are.
LEFT_OUT = {
    "behaviour": ("swapped", "composed_focus", "routed_focus"),
    "chance": ("composed_focus",),
}


def knockout_markdown(found: pd.DataFrame) -> str:
    """What changes when an edge is cut in all layers: leaked answers that move, and accuracy.

    Args:
        found: of `analysis.probes.knockout.table`.
    """
    own = found[(found["layers"] == "all") & found["edge"].isin(EDGES)]
    shown = {
        "leaked move": [interval(row, "leaked_moved", "{:.2f}") for row in own.to_dict("records")],
        "accuracy": [interval(row, "accuracy_change", "{:+.2f}") for row in own.to_dict("records")],
    }
    kinds = own["model"].str.rpartition("-")[2]
    columns = [own[["edge"]].assign(column=f"{name}, " + kinds, shown=values)
               for name, values in shown.items()]  # fmt: skip
    table = pd.concat(columns).pivot_table(
        index="edge", columns="column", values="shown", aggfunc="first", sort=False
    ).reindex(list(EDGES))  # fmt: skip
    table.index = pd.Index(EDGES.values(), name="edge that is cut")
    return table.reset_index().to_markdown(index=False, disable_numparse=True)


def patching_markdown(found: pd.DataFrame) -> str:
    """Where what the other image says is, by place in the residual stream: share recovered.

    Args:
        found: of `analysis.probes.patching.table`.
    """
    own = found[(found["changed"] == "other image") & found["tokens"].isin(TOKENS)]
    own = own.assign(shown=[interval(row, "recovery", "{:.2f}") for row in own.to_dict("records")])
    table = own.pivot_table(index=["model", "tokens"], columns="place", values="shown",
                            aggfunc="first", sort=False)  # fmt: skip
    table.columns = [f"into layer {place}" for place in table.columns[:-1]] + ["into the head"]
    return table.reset_index().to_markdown(index=False, disable_numparse=True)


def account_markdown(found: pd.DataFrame) -> str:
    """What every part of FOCUS adds to accuracy and to the share of leaked answers.

    Args:
        found: of `analysis.probes.account.table`.
    """
    found = found.assign(
        shown=[_around(row, "change", "{:.2f}" if row["part"] == PLAIN else "{:+.2f}")
               for row in found.to_dict("records")],
        column=found["measure"] + ", " + found["model"].str.rpartition("-")[2],
    )  # fmt: skip
    table = found.pivot_table(
        index="part", columns="column", values="shown", aggfunc="first", sort=False
    ).reindex(list(PARTS))
    table.index = pd.Index(PARTS.values(), name="part")
    return table.reset_index().to_markdown(index=False, disable_numparse=True)


def behaviour_markdown(found: pd.DataFrame) -> str:
    """What is said in every condition: share of each option, in the published orders.

    Args:
        found: of `analysis.probes.behaviour.table`.
    """
    found = found[(found["orders"] == PUBLISHED) & ~found["condition"].isin(LEFT_OUT["behaviour"])]
    shown = found.assign(
        shown=[_around(row, "share") for row in found.to_dict("records")],
        condition=[CONDITIONS.get(name, name) for name in found["condition"]],
    )
    table = shown.pivot_table(
        index=["model", "condition"], columns="option", values="shown", aggfunc="first", sort=False
    )[list(OPTIONS)]
    table.columns = ["right", "other image's", "merged"]
    return table.reset_index().to_markdown(index=False, disable_numparse=True)


def chance_markdown(two: pd.DataFrame, four: pd.DataFrame) -> str:
    """Leaked answers beyond chance, under plain decoding and every strategy.

    Args:
        two, four: of `analysis.probes.chance.table`, of questions with so many images.
    """
    several = four.set_index(list(KEYS))
    lines = [
        {
            "model": row["model"],
            "decoding": "plain" if row["condition"] == "together" else row["condition"],
            "leaked": f"{row['leaked']:.2f}",
            "by mistake": f"{row['expected']:.3f}",
            "beyond chance": _around(row, "excess", "{:+.2f}"),
            "of four images": _around(
                several.loc[tuple(row[key] for key in KEYS)].to_dict(), "excess", "{:+.2f}"
            ),
        }
        for row in two[two["by"] == "all"].to_dict("records")
        if row["condition"] not in LEFT_OUT["chance"]
    ]
    return pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True)


def mvh_markdown(cells: pd.DataFrame) -> str:
    """The metrics of MVH-Bench, by model and strategy.

    Args:
        cells: as `logger=csv` writes them.
    """
    own = cells[cells["metric"].isin(MVH)].drop_duplicates(["model", "decoding", "metric"])
    lines = []
    for (model, decoding), part in own.groupby(["model", "decoding"], sort=False):
        rows = {row["metric"]: row for row in part.to_dict("records")}
        lines.append({
            "model": model,
            "decoding": decoding,
            **{column: _around({"value": rows[m]["value"], "low": rows[m]["ci_low"],
                                "high": rows[m]["ci_high"]}, "value")
               for m, column in MVH.items()},
        })  # fmt: skip
    return pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True)


def _around(row: dict[str, float], name: str, form: str = "{:.2f}") -> str:
    """A value with the interval that the columns ``low`` and ``high`` hold."""
    return f"{form.format(row[name])} [{form.format(row['low'])}, {form.format(row['high'])}]"


def interval(row: Mapping[str, float], name: str, form: str) -> str:
    """A value with the interval that the columns ``<name>_low`` and ``<name>_high`` hold."""
    low, high = (form.format(row[f"{name}_{end}"]) for end in ("low", "high"))
    return f"{form.format(row[name])} [{low}, {high}]"
