"""Tables of the embedded models: those of the page, and every rate for `make report DETAILS=1`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.zoo import CHOICE, LEVEL, overview, select, verdicts
from analysis.zoo_ladder import ladder_points
from focus.marks import CANDIDATES, TEXT
from focus.zoo.card import BAR
from focus.zoo.evaluation import FOCUS, PLAIN

READING = {CANDIDATES: "as a ranking of the candidates", TEXT: "as generated text"}


def details(frame: pd.DataFrame, runs: Sequence[Mapping[str, Any]], ladder: pd.DataFrame) -> str:
    """Every rate of every model and run, as text.

    Args:
        frame: from `analysis.zoo.models_frame`.
        runs: of the ladder.
        ladder: from `analysis.zoo.ladder_frame` of these.
    """
    parts = ["# Every rate of the embedded models", "See `docs/zoo/README.md` for how to read it."]
    if len(frame):
        parts += [*_single(frame), *_by_number(frame), *_pairs(frame), *_choice(frame)]
        parts += [*_by_reading(frame), *_losses(frame)]
    if runs:
        parts += ["## The ladder, run by run", markdown(_ladder_lines(runs, ladder_points(ladder)))]
    return "\n\n".join(parts) + "\n"


def overview_lines(records: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    return [
        {
            "model": row["model"],
            "architecture": row["family"],
            "parameters": f"{row['parameters']:,}",
            "kind": row["kind"],
            '"unknown"': f"{row['unknown']:,} ({row['unknown_share']:.1%})",
            "noise": f"{row['noise']:,} ({row['noise_share']:.1%})",
            "several clean images": f"{row['clean_multi']:.1%} ({row['clean_multi_stage']:.0%})",
            "minutes": f"{row['minutes']:.1f}",
            "worst single-image skill": f"{row['worst_world']}, {row['worst_skill']}: "
            + rate_text(row, "worst_"),
            f"all >= {BAR}": "yes" if row["reaches_bar"] else "**no**",
            "seed": str(row["seed"]),
        }
        for row in (overview(record) for record in records)
    ]


def point_lines(points: pd.DataFrame) -> list[dict[str, str]]:
    ordered = points.sort_values("delta", kind="stable")
    return [
        {
            "model": row["model"],
            "world": row["world"],
            "indexed, plain -> FOCUS": f"{row['plain']:.3f} -> {row['focus']:.3f}",
            "difference [95%]": delta_text(row),
            "p": p_text(row["p_holm"]),
            "as text [95%]": delta_text(row, "text_"),
            "as text, p": p_text(row["text_p_holm"]),
            "image score, difference [95%]": delta_text(row, "pairs_"),
            "image score, p": p_text(row["pairs_p_holm"]),
            "image score, as text [95%]": delta_text(row, "pairs_text_"),
            "image score, as text, p": p_text(row["pairs_text_p_holm"]),
            'off target: "unknown"': share_text(row["off_unknown"]),
            "off target: own image": share_text(row["off_own"]),
            'reference: "unknown"': share_text(row["reference_unknown"]),
            "on target: right": share_text(row["on_right"]),
        }
        for row in ordered.to_dict("records")
    ]


def commitment_lines(records: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """What rows of indexed questions about two images say by themselves, all worlds together; three
    numbers in a cell are of rows on target, off target, and of the reference."""
    lines = []
    for record in records:
        frame = pd.DataFrame(record["results"]["rows"]).query("num_images == 2")
        rows = frame.groupby("row", sort=False)
        counts = rows.sum(numeric_only=True).reindex(["on target", "off target", "reference"])
        shares = counts.div(counts["total"], axis=0)
        shares["other"] = 1 - shares[["right", "own", "unknown"]].sum(axis=1)
        entropy = rows["entropy"].mean().reindex(counts.index)
        off = shares.loc["off target", ["right", "own", "unknown", "other"]]
        lines.append(
            {
                "model": record["name"],
                "on target: right": f"{shares.loc['on target', 'right']:.2f}",
                'off target: right / own image / "unknown" / other': _joined(off),
                'reference: "unknown"': f"{shares.loc['reference', 'unknown']:.2f}",
                "most frequent answer": _joined(shares["top"]),
                "entropy (nats)": _joined(entropy),
            }
        )
    return lines


def _joined(values: Iterable[float]) -> str:
    return " / ".join(f"{value:.2f}" for value in values)


def _single(frame: pd.DataFrame) -> list[str]:
    cells = select(frame, kind="single", reading=CANDIDATES)

    def text(row: Mapping[str, Any]) -> str:
        return f"**{rate_text(row)}**" if row["value"] < BAR else rate_text(row)

    table = _wide(cells, "category", text)
    return [f"## One image: accuracy {counts(cells)}; bold: below {BAR}", table]


def _by_number(frame: pd.DataFrame) -> list[str]:
    parts = []
    for decoding, name in ((PLAIN, "Plain decoding"), (FOCUS, "FOCUS")):
        for metric in ("accuracy", "leakage"):
            cells = select(
                frame, kind="indexed", decoding=decoding, reading=CANDIDATES, metric=metric
            )
            parts += [f"## {name}, {metric} on indexed questions with N images {counts(cells)}",
                      _wide(_numbered(cells), "N", rate_text)]  # fmt: skip
    return parts


def _pairs(frame: pd.DataFrame) -> list[str]:
    cells = select(frame, kind="matching", reading=CANDIDATES).copy()
    cells["score"] = cells["metric"] + ", " + _decoding_names(cells)
    return [
        f"## Minimal pairs {counts(cells, 'pairs')}",
        "Text: both images find their caption, one image at a "
        "time, so FOCUS has nothing to do. Image: both captions find their image. Group: both "
        "scores for the same pair; under FOCUS with the text direction of plain decoding.",
        _wide(cells, "score", rate_text),
    ]


def _choice(frame: pd.DataFrame) -> list[str]:
    cells = select(frame, kind=CHOICE, reading=CANDIDATES, metric="accuracy")
    parts = [f"## Multiple choice: plain -> FOCUS, and the paired difference {counts(cells)}"]
    for number in sorted(cells["num_images"].unique()):
        part = select(cells, num_images=number)
        keys = ["model", "world", "kind"]
        plain = select(part, decoding=PLAIN).set_index(keys)["value"]
        focus = select(part, decoding=FOCUS).copy()
        focus["plain"] = [plain.get(tuple(key)) for key in focus[keys].to_numpy()]
        table = _wide(
            focus,
            "kind",
            lambda row: f"{row['plain']:.3f} -> {row['value']:.3f}, {delta_text(row)}",
        )
        parts += [f"### {number} images", table]
    return parts


def _by_reading(frame: pd.DataFrame) -> list[str]:
    compared = select(frame, kind="indexed", decoding=FOCUS)
    parts = []
    for reading, name in READING.items():
        cells = select(compared[compared["delta"].notna()], reading=reading)
        order = cells.groupby(["model", "world"])["delta"].mean().sort_values(kind="stable")
        table = _wide(_numbered(cells), "N", delta_text, order=list(order.index))
        parts += [f"## FOCUS minus plain on indexed questions with N images, {name}", table]
    return parts


def _losses(frame: pd.DataFrame) -> list[str]:
    lines = _hurting_lines(frame)
    return ["## Losses, with what the branches say", markdown(lines)] if lines else []


def _hurting_lines(frame: pd.DataFrame) -> list[dict[str, str]]:
    compared = select(frame, kind="indexed", decoding=FOCUS)
    compared = compared[compared["delta"].notna()]
    losses = compared[verdicts(compared) == "loss"].sort_values("delta", kind="stable")
    keys = ["model", "world", "num_images", "category", "metric"]
    shares = select(frame, kind="branches").set_index(keys)["value"]
    lines = []
    for row in losses.to_dict("records"):
        place = (row["model"], row["world"], row["num_images"])

        def share(sort: str, metric: str, place: tuple[Any, ...] = place) -> str:
            return share_text(shares.get((*place, sort, metric), float("nan")))

        lines.append(
            {
                "model": row["model"],
                "world": row["world"],
                "N": str(row["num_images"]),
                "reading": row["reading"],
                "difference [95%]": delta_text(row, bold=False),
                "p": p_text(row["p_holm"]),
                "n": str(row["n"]),
                "on target: right": share("on target", "right"),
                'on target: "unknown"': share("on target", "unknown"),
                'off target: "unknown"': share("off target", "unknown"),
                "off target: own image": share("off target", "own"),
                "off target: right": share("off target", "right"),
                'reference: "unknown"': share("reference", "unknown"),
            }
        )
    return lines


def _ladder_lines(runs: Sequence[Mapping[str, Any]], points: pd.DataFrame) -> list[dict[str, str]]:
    by_place = {_place(run): run for run in runs}
    ordered = points.sort_values(["family", "world", "step", "clean_multi", "seed"], kind="stable")
    return [
        {
            "family": row["family"],
            "world": row["world"],
            "several clean": f"{row['clean_multi']:.0%}",
            "abstention": row["abstains"],
            "seed": str(row["seed"]),
            "steps": str(by_place[_place(row)]["steps"]),
            "minutes": f"{by_place[_place(row)]['minutes']:.1f}",
            "plain": f"{row['plain']:.3f}",
            "leakage": f"{row['plain_leakage']:.3f}",
            "FOCUS": f"{row['focus']:.3f}",
            "difference [95%]": delta_text(row),
            "p": p_text(row["p_holm"]),
            "image score, difference [95%]": delta_text(row, "pairs_"),
            'off target: "unknown"': share_text(row["off_unknown"]),
            "off target: own image": share_text(row["off_own"]),
        }
        for row in ordered.to_dict("records")
    ]


def _place(run: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells runs apart, whatever worlds each was measured on."""
    names = ("family", "seed", "clean_multi", "abstention", "abstain_share")
    return tuple(run[name] for name in names)


def _numbered(cells: pd.DataFrame) -> pd.DataFrame:
    return cells.assign(N="N = " + cells["num_images"].astype(str))


def _decoding_names(cells: pd.DataFrame) -> pd.Series:
    return cells["decoding"].map({PLAIN: "plain", FOCUS: "FOCUS"})


def counts(cells: pd.DataFrame, units: str = "questions") -> str:
    """How many units the rates of a table are over."""
    low, high = int(cells["n"].min()), int(cells["n"].max())
    return f"(n = {low} {units} each)" if low == high else f"(n = {low} to {high} {units} each)"


def _wide(
    cells: pd.DataFrame,
    columns: str,
    text: Callable[[Mapping[str, Any]], str],
    order: Sequence[tuple[Any, ...]] | None = None,
) -> str:
    """A table with one line per model and world and one column per value of `columns`."""
    index = ("model", "world")
    names = list(dict.fromkeys(cells[columns]))
    lines: dict[tuple[Any, ...], dict[str, str]] = {}
    for row in cells.to_dict("records"):
        lines.setdefault(tuple(row[name] for name in index), {})[row[columns]] = text(row)
    keys = list(lines) if order is None else order
    return markdown(
        [
            dict(zip(index, key, strict=True)) | {name: lines[key].get(name, "-") for name in names}
            for key in keys
        ]
    )


def markdown(lines: Sequence[Mapping[str, str]]) -> str:
    columns = list(lines[0])
    rows = [columns, ["---"] * len(columns), *([line[name] for name in columns] for line in lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def rate_text(row: Mapping[str, Any], prefix: str = "") -> str:
    value, low, high = (row[f"{prefix}{name}"] for name in ("value", "low", "high"))
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def delta_text(row: Mapping[str, Any], prefix: str = "", *, bold: bool = True) -> str:
    value, low, high = (row[f"{prefix}{name}"] for name in ("delta", "delta_low", "delta_high"))
    if value != value:
        return "-"
    text = f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"
    return f"**{text}**" if bold and row[f"{prefix}p_holm"] < LEVEL else text


def share_text(value: float) -> str:
    return "-" if value != value else f"{value:.3f}"


def p_text(value: float) -> str:
    if value != value:
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
