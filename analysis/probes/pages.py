"""Tables of docs/mechanism.md, from the tables that `make leakage` writes."""

from __future__ import annotations

import pandas as pd

#: Edges of the page, in its words.
EDGES = {
    "image to image": "image → image",
    "other images to text": "other image → text",
    "asked image to text": "asked image → text",
    "delimiters to text": "delimiters → text",
    "text to last token": "text → last token",
}
#: Groups of tokens of the page.
TOKENS = ("other images", "asked image", "question", "last token")


def knockout_markdown(found: pd.DataFrame) -> str:
    """What moves when an edge is cut in all layers: leaked answers, right ones, accuracy.

    Args:
        found: of `analysis.probes.knockout.table`.
    """
    lines = []
    for edge, name in EDGES.items():
        own = found[(found["layers"] == "all") & (found["edge"] == edge)]
        for row in own.to_dict("records"):
            lines.append({
                "edge that is cut": name,
                "model": row["model"],
                "leaked answers that move": _interval(row, "leaked_moved", "{:.2f}"),
                "right answers that move": _interval(row, "right_moved", "{:.2f}"),
                "accuracy": _interval(row, "accuracy_change", "{:+.2f}"),
            })  # fmt: skip
    return pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True)


def patching_markdown(found: pd.DataFrame) -> str:
    """Where what the other image says is, by place in the residual stream: share recovered.

    Args:
        found: of `analysis.probes.patching.table`.
    """
    own = found[(found["changed"] == "other image") & found["tokens"].isin(TOKENS)]
    own = own.assign(shown=[_interval(row, "recovery", "{:.2f}") for row in own.to_dict("records")])
    table = own.pivot_table(index=["model", "tokens"], columns="place", values="shown",
                            aggfunc="first", sort=False)  # fmt: skip
    table.columns = [f"into layer {place}" for place in table.columns[:-1]] + ["into the head"]
    return table.reset_index().to_markdown(index=False, disable_numparse=True)


def _interval(row: dict[str, float], name: str, form: str) -> str:
    low, high = (form.format(row[f"{name}_{end}"]) for end in ("low", "high"))
    return f"{form.format(row[name])} [{low}, {high}]"
