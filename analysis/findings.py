"""What the ablations show beyond the claims of the paper: frames, and sentences made from them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from analysis.ablation_tables import (
    READ,
    cost_points,
    difference,
    markdown,
    proportion,
    setting_text,
)
from analysis.ablations import HEADLINE, PLAIN, POOLED, Record, answers_frame, of_kind, pareto
from analysis.claims import DEFAULT_NOISE
from analysis.comparisons import by_kind, compare, selected
from analysis.judging import BOUNDS, CELL, PUBLISHED, SPLITS, against, count
from analysis.zoo import rank_correlation
from focus.marks import CANDIDATES, TEXT

#: Roles of rows, and what of them a table of models shows.
ROLES = {
    'off target: "unknown"': ("off target", "unknown"),
    "off target: own image": ("off target", "own"),
    "on target: right": ("on target", "right"),
    'reference: "unknown"': ("reference", "unknown"),
}
#: An off-target branch that abstains at least so often counts as abstaining.
MOSTLY = 0.5


def role_shares(records: Iterable[Record], labels: Sequence[str]) -> pd.DataFrame:
    """What each kind of row says first on indexed test questions under the default rows.

    Returns:
        Columns `labels` (of the records, model among them), role, unknown, own and right: shares.
    """
    rows = pd.DataFrame(default_rows(records))
    if rows.empty:
        return rows
    rows = rows.drop_duplicates(["model", "questions", "role"])
    counts = rows.groupby([*labels, "role"], sort=False)[["unknown", "own", "right", "total"]].sum()
    return counts[["unknown", "own", "right"]].div(counts["total"], axis=0).reset_index()


def default_rows(records: Iterable[Record]) -> list[Record]:
    """What rows say on indexed test questions under the default noise."""
    default = {"noise": DEFAULT_NOISE, "scale": 1.0, "seed": 0, "sharing": "sample", "scheme": None,
               "targets": "units", "tint": "none", "kind": "indexed", "split": "test"}  # fmt: skip
    return [row for row in of_kind(records, "rows") if selected(row, default)]


def models_table(records: Iterable[Record], kinds: Mapping[str, str]) -> str:
    """Models of each kind, and what their rows say with two images."""
    rows = [{**r, "learned": kinds[r["model"]]} for r in of_kind(records, "rows")]
    shares = role_shares([r for r in rows if r["num_images"] == 2], ["learned"])
    lines = []
    for kind in sorted(set(kinds.values())):
        models = sorted(model for model in kinds if kinds[model] == kind)
        line = {"kind": kind, "models": ", ".join(models)}
        for name, (role, said) in ROLES.items():
            part = shares[(shares["learned"] == kind) & (shares["role"] == role)] \
                if len(shares) else shares  # fmt: skip
            line[name] = f"{part[said].iloc[0]:.3f}" if len(part) else "-"
        lines.append(line)
    return markdown(pd.DataFrame(lines))


def abstention_points(records: Sequence[Record], reading: str = TEXT) -> pd.DataFrame:
    """What FOCUS gains on indexed questions beside how often off-target branches abstain.

    Returns:
        Columns rule (the sum, the maximum and routed FOCUS), model, world, num_images, unknown
        (share of the off-target branches), and the difference to plain decoding with its interval.
    """
    labels = ["model", "world", "num_images"]
    shares = role_shares(records, labels)
    if shares.empty:
        return shares
    shares = shares[shares["role"] == "off target"]
    first = {"rule": [PUBLISHED, "max", "routed"], "kind": "indexed", "split": "test"}
    found = compare(records, first, {"rule": PLAIN}, by=("rule", *labels), reading=reading,
                    tested=False)  # fmt: skip
    return found.merge(shares[[*labels, "unknown"]], on=labels) if len(found) else found


def abstention_sentence(points: pd.DataFrame) -> str:
    """When the sum helps: rank correlation, and gains on either side of `MOSTLY`."""
    summed = points[points["rule"] == PUBLISHED]
    rho, p_value, n = rank_correlation(summed["unknown"].tolist(), summed["delta"].tolist())
    parts = []
    for name, part in (("at least", summed[summed["unknown"] >= MOSTLY]),
                       ("less than", summed[summed["unknown"] < MOSTLY])):  # fmt: skip
        gains, losses = (part["delta_low"] > 0).sum(), (part["delta_high"] < 0).sum()
        parts.append(
            f"where off-target branches abstain in {name} {MOSTLY:.0%}, the sum gains in {gains} "
            f"of {len(part)} and loses in {losses}"
        )
    tied = f" Rank correlation of abstention and gain: {rho:+.2f} (p = {p_value:.2g})."
    tied = "" if math.isnan(rho) else tied
    return f"Over {n} points (model, world, number of images): {'; '.join(parts)}.{tied}"


SHOWN = {PLAIN: "plain", PUBLISHED: "sum", "max": "maximum", "routed": "routed FOCUS"}


def number_sentence(
    records: Sequence[Record], kinds: Mapping[str, str], reading: str = TEXT
) -> list[str]:
    """How each of `SHOWN` fares on indexed questions, from the fewest to the most images."""
    frame = _shown([r for r in records if r.get("world") != "clips"], ["indexed"], reading)
    sentences: list[str] = []
    for kind in sorted(set(kinds.values())) if len(frame) else ():
        part = frame[frame["model"].map(kinds) == kind]
        if part["num_images"].nunique() < 2:
            continue
        mean = part.groupby(["rule", "num_images"])["value"].mean()
        few, many = int(part["num_images"].min()), int(part["num_images"].max())
        texts = [
            f"{name} {mean[rule, few]:.3f} to {mean[rule, many]:.3f}"
            for rule, name in SHOWN.items()
            if (rule, few) in mean and (rule, many) in mean
        ]
        number = part["model"].nunique()
        sentences.append(
            f"- {kind} ({number} model{'s' if number > 1 else ''}), read {READ[reading]}: mean "
            f"accuracy from {few} to {many} images: {', '.join(texts)}."
        )
    return sentences


def _shown(records: Sequence[Record], asked: Sequence[str], reading: str) -> pd.DataFrame:
    """The rules of `SHOWN` on these kinds of questions, see `analysis.ablations.answers_frame`."""
    settings = {"kind": [*asked], "reading": reading, "rule": [*SHOWN]}
    lines = [line for line in of_kind(records, "answers") if selected(line, settings)]
    return answers_frame([*of_kind(records, "questions"), *lines], metric=HEADLINE, pooled=POOLED)


def headline_table(records: Sequence[Record], kinds: Mapping[str, str]) -> str:
    """Plain decoding and the rules of `SHOWN` on two images, per model and kind of questions.

    Accuracy of the generated text or, of minimal pairs, image score, all worlds put together.

    Args:
        records: of the experiment ``domains``.
        kinds: by model.
    """
    frame = _shown(records, ["indexed", "matching"], TEXT).set_index("rule")
    lines = []
    for kind, name in (("indexed", "indexed"), ("matching", "minimal pairs")):
        for model in by_kind(kinds, kinds):
            part = frame[(frame["kind"] == kind) & (frame["model"] == model)]
            if part.empty:
                continue
            line = {"questions": name, "model": model, "n": str(part["n"].min())}
            for rule in SHOWN:
                line[setting_text(rule)] = proportion(part.loc[rule])
            lines.append(line)
    return markdown(pd.DataFrame(lines))


def judged_table(frames: Mapping[str, pd.DataFrame], splits: Sequence[str] = SPLITS) -> str:
    """Rules down; across readings and splits, cells won, tied and lost against the sum, and the
    mean difference.

    Args:
        frames: by reading, of `analysis.judging.judge`.
        splits: that are shown.
    """
    lines: dict[str, dict[str, str]] = {}
    for reading, frame in frames.items():
        for row in frame[frame["split"].isin(splits)].to_dict("records"):
            line = lines.setdefault(row["rule"], {"rule": row["rule"]})
            counts = " / ".join(str(row[name]) for name in ("won", "tied", "lost"))
            line[f"{READ[reading]}, {row['split']}: won / tied / lost"] = counts
            line[f"{row['split']}, {reading}: mean difference [95%]"] = difference(row)
    return markdown(pd.DataFrame(list(lines.values())).fillna("-"))


def by_model_table(cells: Mapping[str, pd.DataFrame], rule: str, kinds: Mapping[str, str]) -> str:
    """Cells that a rule wins, ties and loses against the sum: models down, splits across.

    Args:
        cells: by reading, of `analysis.judging.rule_cells`; p-values are adjusted over all rules
            and models.
        rule: which one.
        kinds: by model.
    """
    lines: dict[str, dict[str, str]] = {}
    for reading, frame in cells.items():
        part = frame[frame["rule"] == rule] if len(frame) else frame
        for (model, split), outcomes in part.groupby(["model", "split"])["outcome"] \
                if len(part) else ():  # fmt: skip
            line = lines.setdefault(model, {"model": model, "kind": kinds[model]})
            line[f"{READ[reading]}, {split}"] = " / ".join(map(str, count(outcomes).values()))
    ordered = [lines[model] for model in by_kind(lines, kinds)]
    return markdown(pd.DataFrame(ordered).fillna("-")) if lines else ""


def regimes_table(frames: Mapping[str, pd.DataFrame]) -> str:
    """Rules against each other by kind of model: cells won, tied and lost, and mean difference.

    Args:
        frames: by reading, of `analysis.judging.regimes`.
    """
    lines: dict[str, dict[str, str]] = {}
    for reading, frame in frames.items():
        for row in frame.itertuples():
            rule = f"{SHOWN[str(row.rule)]} against {SHOWN[str(row.base)]}"
            cell = f"{row.won} / {row.tied} / {row.lost} ({row.delta:+.3f})"
            lines.setdefault(rule, {"rule": rule})[f"{row.kind}, {READ[reading]}"] = cell
    return markdown(pd.DataFrame(list(lines.values())).fillna("-"))


def regimes_sentence(frame: pd.DataFrame, reading: str) -> str:
    """Which rule is worse than none of the others in more than a twentieth of the cells."""
    worst: dict[str, float] = {}
    for rule in ("sum", "max", "routed"):
        shares = []
        for row in frame.itertuples():
            if rule in (row.rule, row.base):
                lost = row.lost if rule == row.rule else row.won
                shares.append(lost / row.cells)
        worst[rule] = max(shares, default=1.0)
    said = ", ".join(f"{SHOWN[rule]} {share:.0%}" for rule, share in worst.items())
    best = [SHOWN[rule] for rule, share in worst.items() if share <= 0.05]
    told = f"one rule serves all three: {best[0]}" if len(best) == 1 else (
        f"{' and '.join(best)} serve all three" if best else "no rule serves all three"
    )  # fmt: skip
    return (
        f"Read {READ[reading]}, {told}. Largest share of the cells of a kind in which a rule is "
        f"significantly worse than another rule or than plain decoding: {said}."
    )


def repeated_sentence(records: Sequence[Record]) -> str:
    """Why routing loses to the sum where it does: plain decoding, whose agreement it asks for.

    Of the test questions that only one of the two has right, read as a ranking, in the cells in
    which routing is significantly worse.
    """
    cells = against(records, "routed", "sum", reading=CANDIDATES)
    lost = cells[cells["outcome"] == "lost"] if len(cells) else cells
    if lost.empty:
        return ""
    where = {tuple(row) for row in lost[[*CELL]].itertuples(index=False)}
    marks: dict[tuple[str, str], dict[str, str]] = {}
    for line in of_kind(records, "answers"):
        mine = line["split"] == "test" and line["reading"] == CANDIDATES and "marks" in line
        if mine and tuple(line[name] for name in CELL) in where:
            rules = marks.setdefault((line["model"], line["questions"]), {})
            rules.setdefault(line["rule"], line["marks"])
    found: dict[str, list[bool]] = {"sum": [], "routed": []}
    for rules in marks.values():
        for s, r, p in zip(rules["sum"], rules["routed"], rules[PLAIN], strict=True):
            if (s == "+") != (r == "+"):
                found["sum" if s == "+" else "routed"].append(p != "+")
    shares = {rule: f"{sum(each)} of the {len(each)}" for rule, each in found.items()}
    models = ", ".join(sorted({str(cell[0]) for cell in where}))
    return (
        f"Routing is worse than the sum in {len(where)} cells ({models}), read as a ranking. It "
        "asks for agreement with plain decoding. That explains what it loses where plain decoding "
        f"is wrong: in {shares['sum']} questions there that the sum alone has right, beside "
        f"{shares['routed']} that routing alone has right."
    )


def judged_sentence(judged: pd.DataFrame) -> str:
    """Which rules beat the sum in some cells and lose in none, on dev and on test."""
    parts = []
    for split in SPLITS:
        part = judged[judged["split"] == split]
        if part.empty:
            parts.append(f"on {split} not judged yet")
            continue
        safe = part[(part["lost"] == 0) & (part["won"] > 0)]
        names = ", ".join(safe.sort_values("delta", ascending=False)["rule"]) or "none"
        parts.append(f"on {split} {names}")
    return f"Rules that win cells and lose none: {'; '.join(parts)}."


def front_table(records: Sequence[Record], kind: str, number: int, reading: str = TEXT) -> str:
    """Accuracy-cost Pareto front of each model, the cheapest method first; empty without lines."""
    points = cost_points(records, kind, number, reading)
    lines = []
    for model, part in points.groupby("model", sort=False) if len(points) else ():
        methods = part[~part["rule"].isin(BOUNDS)]
        front = methods[pareto(methods, "rows")].sort_values("rows")
        texts = [f"{setting_text(r.rule)} {r.value:.3f} ({setting_text(float(r.rows))})"
                 for r in front.itertuples()]  # fmt: skip
        lines.append({"model": model, "front: accuracy (rows)": ", ".join(texts)})
    return markdown(pd.DataFrame(lines)) if lines else ""
