"""The report of the embedded models as Markdown: tables, and sentences made from the numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from rich.table import Table
from rich.text import Text

from analysis.zoo import (
    AXES,
    CHOICE,
    LEVEL,
    MODEL,
    SAID,
    SPOKEN,
    focus_points,
    ladder_lines,
    ladder_points,
    overview,
    rank_correlation,
    select,
    verdicts,
)
from analysis.zoo_reproduction import reproduced_sentence
from focus.zoo.card import BAR
from focus.zoo.evaluation import FOCUS, PLAIN

#: Figures that the report shows, in its folder.
FIGURES = ("accuracy.png", "leakage.png", "abstention.png", "ladder.png")
#: From this rate on the prose speaks of leakage.
LEAKS = 0.05
NONE_YET = "No runs of the ladder are recorded yet."

READING = {SAID: "among the choices", SPOKEN: "over the whole vocabulary"}


def report(
    records: Sequence[Mapping[str, Any]],
    frame: pd.DataFrame,
    runs: Sequence[Mapping[str, Any]],
    ladder: pd.DataFrame,
    reproduced: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The whole document.

    Args:
        records: of the models, from `analysis.zoo.read_models`.
        frame: from `analysis.zoo.models_frame` of these.
        runs: of the ladder.
        ladder: from `analysis.zoo.ladder_frame` of these.
        reproduced: outcomes of `experiments.zoo_check` for models that were trained again.
    """
    parts = ["# The embedded models", *_introduction(records)]
    if records:
        points = focus_points(frame, MODEL)
        parts += ["## Models", *_models(records), *_reproduced(reproduced)]
        parts += ["## One image", *_single(frame)]
        parts += ["## Several images: accuracy and leakage", *_by_number(frame)]
        parts += ["## Minimal pairs", *_pairs(frame)]
        parts += ["## Multiple choice over images", *_choice(frame)]
        parts += ["## FOCUS against plain decoding", *_focus(frame, points)]
        parts += ["## Why: what the branches say", *_why(frame, points, ladder)]
    parts += ["## The ladder", *_ladder(runs, ladder)]
    return "\n\n".join(parts) + "\n"


def overview_table(records: Sequence[Mapping[str, Any]]) -> Table:
    """One line per model, for the terminal."""
    left_out = ("parameters", "noise", "minutes", "seed")
    return _terminal("embedded models", _overview_lines(records), left_out)


def focus_table(frame: pd.DataFrame) -> Table:
    """FOCUS against plain decoding at two images, for the terminal, losses first."""
    lines = _point_lines(focus_points(frame, MODEL))
    spoken = [name for name in lines[0] if "spoken" in name]
    left_out = (*spoken, "off target: own image", 'reference: "unknown"', "on target: right")
    return _terminal("FOCUS against plain decoding, N = 2, largest loss first", lines, left_out)


def _introduction(records: Sequence[Mapping[str, Any]]) -> list[str]:
    settings = {
        f"split {r['split']}, seed {r['seed']}, {r['noise']} noise, {r['scope']}, "
        f"alpha {r['alphas']['said']} (said) and {r['alphas']['spoken']} (spoken), chosen on dev"
        for r in (record["results"] for record in records)
    }
    return [
        "Small models of the real architectures, trained here, measured on worlds with ground "
        "truth. Written by `make zoo-report` from the `training.json` of each model and from "
        "`ladder.jsonl`; nothing is entered by hand. All numbers, those of the "
        "tables and more, are in [models.csv](models.csv) and [ladder.csv](ladder.csv).",
        "How to read it:",
        "\n".join(
            [
                "- Brackets hold 95% intervals: Wilson's for a rate, over questions or, for the "
                "scores of minimal pairs, over pairs; a bootstrap over the same units for "
                "differences, which are paired. They are about the choice of questions, for one "
                "training run: the spread between seeds is another thing.",
                "- An answer is the first token, read in two ways: the best among the choices of "
                'the question ("said"), and the best of the whole vocabulary ("spoken"), which is '
                'what greedy decoding would say, "unknown" included. Where nothing else is said, '
                "numbers are of the first.",
                "- Leakage: answers that are wrong and true of another image of the question, as a "
                "share of all answers. FOCUS: sum over branches with one clean image each, minus "
                "alpha times the branch of noise alone.",
                "- p-values are of the exact McNemar test, after Holm's adjustment over all "
                "comparisons of indexed questions and minimal pairs, of all models, in both "
                f"readings; those of multiple choice are a family of their own, and so are "
                f"those of the ladder. Intervals are not adjusted. Bold: adjusted p < {LEVEL}.",
                *(f"- Settings: {text}." for text in sorted(settings)),
            ]
        ),
    ]


def _reproduced(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """What came of training models again from scratch."""
    return [
        f"Trained again from scratch in {entry['minutes']:g} minutes on {entry['hardware']} "
        f"(torch {entry['software']['torch']}, transformers {entry['software']['transformers']}): "
        f"{reproduced_sentence(entry)}."
        for entry in entries
    ]


def _models(records: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [overview(record) for record in records]
    reached = sum(line["reaches_bar"] for line in lines)
    return [
        f"{reached} of {len(lines)} models reach {BAR} on every single-image skill of every world "
        'that they were trained on. "Unknown": training questions with that answer. Noise: '
        "training images that were noise. Several clean images: expected share of such questions "
        "in the whole training, and in the stage with most of them.",
        _markdown(_overview_lines(records)),
    ]


def _overview_lines(records: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
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
            + _rate(row, "worst_"),
            f"all >= {BAR}": "yes" if row["reaches_bar"] else "**no**",
            "seed": str(row["seed"]),
        }
        for row in (overview(record) for record in records)
    ]


def _single(frame: pd.DataFrame) -> list[str]:
    cells = select(frame, kind="single", reading=SAID)

    def text(row: Mapping[str, Any]) -> str:
        return f"**{_rate(row)}**" if row["value"] < BAR else _rate(row)

    table = _wide(cells, "category", text, index=("model", "world"))
    return [_folded(f"Accuracy {_counts(cells)}; bold: below {BAR}", table)]


def _by_number(frame: pd.DataFrame) -> list[str]:
    parts = [
        "![Accuracy on indexed questions against the number of images](accuracy.png)",
        "![Leakage on indexed questions against the number of images](leakage.png)",
    ]
    for decoding, name in ((PLAIN, "Plain decoding"), (FOCUS, "FOCUS")):
        for metric in ("accuracy", "leakage"):
            cells = select(frame, kind="indexed", decoding=decoding, reading=SAID, metric=metric)
            heading = f"{name}, {metric} on indexed questions with N images {_counts(cells)}"
            table = _wide(_numbered(cells), "N", _rate, index=("model", "world"))
            parts.append(_folded(heading, table))
    return parts


def _pairs(frame: pd.DataFrame) -> list[str]:
    cells = select(frame, kind="matching", reading=SAID).copy()
    cells["score"] = cells["metric"] + ", " + _decoding_names(cells)
    return [
        f"Scores {_counts(cells, 'pairs')}. Text: both images find their caption, one image at a "
        "time, so FOCUS has nothing to do. Image: both captions find their image. Group: both "
        "scores for the same pair; under FOCUS with the text direction of plain decoding.",
        _folded("Scores", _wide(cells, "score", _rate, index=("model", "world"))),
    ]


def _choice(frame: pd.DataFrame) -> list[str]:
    cells = select(frame, kind=CHOICE, reading=SAID, metric="accuracy")
    parts = [
        "Accuracy under plain decoding and under FOCUS, and the paired difference "
        f"{_counts(cells)}."
    ]
    for number in sorted(cells["num_images"].unique()):
        part = select(cells, num_images=number)
        keys = ["model", "world", "kind"]
        plain = select(part, decoding=PLAIN).set_index(keys)["value"]
        focus = select(part, decoding=FOCUS).copy()
        focus["plain"] = [plain.get(tuple(key)) for key in focus[keys].to_numpy()]
        table = _wide(
            focus,
            "kind",
            lambda row: f"{row['plain']:.3f} -> {row['value']:.3f}, {_delta(row)}",
            index=("model", "world"),
        )
        parts.append(_folded(f"{number} images", table))
    return parts


def _focus(frame: pd.DataFrame, points: pd.DataFrame) -> list[str]:
    compared = select(frame, kind=("indexed", "matching"), decoding=FOCUS)
    compared = compared[compared["delta"].notna()]
    verdict = verdicts(compared)
    parts = [_counted(compared, verdict)]
    parts += [
        "At two images, largest loss first. Branches: first token over the whole vocabulary on "
        "the same indexed questions, one clean image each; off target: the clean image is not the "
        "asked one.",
        _markdown(_point_lines(points)),
    ]
    for reading in (SAID, SPOKEN):
        cells = _numbered(select(compared, reading=reading, kind="indexed"))
        order = cells.groupby(["model", "world"])["delta"].mean().sort_values(kind="stable")
        table = _wide(cells, "N", _delta, index=("model", "world"), order=list(order.index))
        heading = f"FOCUS minus plain on indexed questions with N images, {READING[reading]}"
        parts.append(_folded(f"{heading}, by the mean over N, largest loss first", table))
    return parts


def _counted(compared: pd.DataFrame, verdict: pd.Series) -> str:
    lines = []
    for reading in (SAID, SPOKEN):
        chosen = verdict[compared["reading"] == reading]
        counts = {name: int((chosen == name).sum()) for name in ("gain", "loss", "neither")}
        lines.append(
            f"- {READING[reading]}: {counts['gain']} gains, {counts['loss']} losses, "
            f"{counts['neither']} neither, of {len(chosen)}"
        )
    return f"Comparisons with adjusted p < {LEVEL}:\n\n" + "\n".join(lines)


def _point_lines(points: pd.DataFrame) -> list[dict[str, str]]:
    ordered = points.sort_values("delta", kind="stable")
    return [
        {
            "model": row["model"],
            "world": row["world"],
            "indexed, plain -> FOCUS": f"{row['plain']:.3f} -> {row['focus']:.3f}",
            "difference [95%]": _delta(row),
            "p": _p(row["p_holm"]),
            "spoken [95%]": _delta(row, "spoken_"),
            "spoken, p": _p(row["spoken_p_holm"]),
            "image score, difference [95%]": _delta(row, "pairs_"),
            "image score, p": _p(row["pairs_p_holm"]),
            "image score, spoken [95%]": _delta(row, "pairs_spoken_"),
            "image score, spoken, p": _p(row["pairs_spoken_p_holm"]),
            'off target: "unknown"': _share(row["off_unknown"]),
            "off target: own image": _share(row["off_own"]),
            'reference: "unknown"': _share(row["reference_unknown"]),
            "on target: right": _share(row["on_right"]),
        }
        for row in ordered.to_dict("records")
    ]


def _why(frame: pd.DataFrame, points: pd.DataFrame, ladder: pd.DataFrame) -> list[str]:
    parts = [
        "![FOCUS minus plain against how often off-target branches abstain](abstention.png)",
        "\n".join(f"- {line}" for line in explanation(points, ladder)),
    ]
    lines = _hurting_lines(frame)
    if not lines:
        return [*parts, f"No comparison on indexed questions is a loss (adjusted p < {LEVEL})."]
    return [
        *parts,
        f"Every loss on indexed questions (adjusted p < {LEVEL}), with what the branches say over "
        "the whole vocabulary; what is missing to 1 in a row are other answers.",
        _folded("Losses, largest first", _markdown(lines)),
    ]


def explanation(points: pd.DataFrame, ladder: pd.DataFrame) -> list[str]:
    """Sentences about abstention and the effect of FOCUS at two images."""
    sentences = []
    sources = [("model and world", points)]
    if len(ladder):
        sources.append(("ladder run and world", ladder_points(ladder)))
    for name, table in sources:
        for column, what in (
            ("off_unknown", 'off-target branches say "unknown"'),
            ("off_own", "off-target branches name their own image"),
        ):
            for prefix, effect in (("", "indexed questions"), ("pairs_", "the image score")):
                rho, p, n = rank_correlation(table[column], table[f"{prefix}delta"])
                found = (
                    f"cannot be computed (n = {n})"
                    if rho != rho
                    else f"rho = {rho:+.2f} (p {_p(p) if p < 0.001 else '= ' + _p(p)}, n = {n})"
                )
                sentences.append(
                    f"Rank correlation between how often {what} and FOCUS minus plain on {effect}, "
                    f"N = 2, one point per {name}: {found}."
                )
        for sign, word in ((-1, "below"), (1, "above")):
            bound = "delta_high" if sign < 0 else "delta_low"
            part = table[sign * table[bound] > 0]
            if len(part):
                sentences.append(
                    f"Where the interval of the difference on indexed questions is {word} zero "
                    f"({len(part)} of {len(table)}, one per {name}), off-target branches say "
                    f'"unknown" in {part["off_unknown"].median():.1%} of questions and name their '
                    f"own image in {part['off_own'].median():.1%} (medians)."
                )
    sentences.append(
        "Points of one model share its weights, and points of one world its questions; the "
        "p-values of the correlations take no account of that."
    )
    return sentences


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
            return _share(shares.get((*place, sort, metric), float("nan")))

        lines.append(
            {
                "model": row["model"],
                "world": row["world"],
                "N": str(row["num_images"]),
                "reading": row["reading"],
                "difference [95%]": _delta(row, bold=False),
                "p": _p(row["p_holm"]),
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


def _ladder(runs: Sequence[Mapping[str, Any]], ladder: pd.DataFrame) -> list[str]:
    if not runs:
        return [NONE_YET]
    points = ladder_points(ladder)
    seeds = points.groupby(["family", "clean_multi", "abstains"])["seed"].nunique()
    worlds = ", ".join(dict.fromkeys(points["world"]))
    parts = [
        f"{len(runs)} runs of one recipe each, at {len(seeds)} places of two axes: share of "
        "questions about several clean images, and abstention. Seeds per place: "
        f"{' to '.join(map(str, sorted({seeds.min(), seeds.max()})))}. Measured on {worlds}; "
        "indexed questions with two images where nothing else is said.",
        "![Leakage and FOCUS minus plain along both axes](ladder.png)",
        *ladder_prose(points),
        _markdown(_ladder_lines(runs, points)),
    ]
    return parts


def ladder_prose(points: pd.DataFrame) -> list[str]:
    """Per line of the ladder: where plain decoding leaks, and where FOCUS gains and loses."""
    paragraphs = []
    for axis, (along, _) in AXES.items():
        sentences = []
        for label, line in ladder_lines(points, axis):
            places = list(dict.fromkeys(line[along]))
            names = [f"{place:.0%}" if along == "clean_multi" else place for place in places]
            parts = [line[line[along] == place] for place in places]
            leaks = ", ".join(
                f"{name}: {part['plain_leakage'].mean():.3f} ({len(part)})"
                for name, part in zip(names, parts, strict=True)
            )
            effects = ", ".join(
                f"{name}: {part['delta'].mean():+.3f}"
                for name, part in zip(names, parts, strict=True)
            )
            every = list(zip(names, parts, strict=True))
            sentences.append(
                f"- {label}. Plain leakage, mean over seeds (runs): {leaks}; "
                f"at least {LEAKS} in every seed at: "
                f"{_listed(n for n, p in every if (p['plain_leakage'] >= LEAKS).all())}; below "
                f"{LEAKS} in every seed at: "
                f"{_listed(n for n, p in every if (p['plain_leakage'] < LEAKS).all())}. "
                f"FOCUS minus plain, mean over seeds: {effects}; interval above zero in every seed "
                f"at: {_listed(n for n, p in every if (p['delta_low'] > 0).all())}; below zero in "
                f"every seed at: {_listed(n for n, p in every if (p['delta_high'] < 0).all())}."
            )
        if sentences:
            paragraphs += [f"Along {axis}, with what was held fixed:", "\n".join(sentences)]
    return paragraphs


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
            "difference [95%]": _delta(row),
            "p": _p(row["p_holm"]),
            "image score, difference [95%]": _delta(row, "pairs_"),
            'off target: "unknown"': _share(row["off_unknown"]),
            "off target: own image": _share(row["off_own"]),
        }
        for row in ordered.to_dict("records")
    ]


def _place(run: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells runs apart, whatever worlds each was measured on."""
    names = ("family", "seed", "clean_multi", "abstention", "abstain_share")
    return tuple(run[name] for name in names)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _numbered(cells: pd.DataFrame) -> pd.DataFrame:
    return cells.assign(N="N = " + cells["num_images"].astype(str))


def _decoding_names(cells: pd.DataFrame) -> pd.Series:
    return cells["decoding"].map({PLAIN: "plain", FOCUS: "FOCUS"})


def _counts(cells: pd.DataFrame, units: str = "questions") -> str:
    """How many units the rates of a table are over."""
    low, high = int(cells["n"].min()), int(cells["n"].max())
    return f"(n = {low} {units} each)" if low == high else f"(n = {low} to {high} {units} each)"


def _wide(
    cells: pd.DataFrame,
    columns: str,
    text: Callable[[Mapping[str, Any]], str],
    *,
    index: Sequence[str],
    order: Sequence[tuple[Any, ...]] | None = None,
) -> str:
    """A table with one line per `index` and one column per value of `columns`."""
    names = list(dict.fromkeys(cells[columns]))
    lines: dict[tuple[Any, ...], dict[str, str]] = {}
    for row in cells.to_dict("records"):
        lines.setdefault(tuple(row[name] for name in index), {})[row[columns]] = text(row)
    keys = list(lines) if order is None else order
    return _markdown(
        [
            dict(zip(index, key, strict=True)) | {name: lines[key].get(name, "-") for name in names}
            for key in keys
        ]
    )


def _markdown(lines: Sequence[Mapping[str, str]]) -> str:
    columns = list(lines[0])
    rows = [columns, ["---"] * len(columns), *([line[name] for name in columns] for line in lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _folded(summary: str, table: str) -> str:
    """A long table behind its heading."""
    return f"<details>\n<summary>{summary}</summary>\n\n{table}\n\n</details>"


def _terminal(
    title: str, lines: Sequence[Mapping[str, str]], left_out: Sequence[str] = ()
) -> Table:
    table = Table(title=title, title_justify="left", header_style="bold")
    columns = [name for name in lines[0] if name not in left_out]
    for column in columns:
        table.add_column(column.replace(": ", ":\n").replace(" [", "\n[").replace(", ", ",\n"))
    for line in lines:
        # Text, or brackets would be taken for markup.
        table.add_row(*(Text(line[name].replace("**", "")) for name in columns))
    return table


def _rate(row: Mapping[str, Any], prefix: str = "") -> str:
    value, low, high = (row[f"{prefix}{name}"] for name in ("value", "low", "high"))
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _delta(row: Mapping[str, Any], prefix: str = "", *, bold: bool = True) -> str:
    value, low, high = (row[f"{prefix}{name}"] for name in ("delta", "delta_low", "delta_high"))
    if value != value:
        return "-"
    text = f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"
    return f"**{text}**" if bold and row[f"{prefix}p_holm"] < LEVEL else text


def _share(value: float) -> str:
    return "-" if value != value else f"{value:.3f}"


def _p(value: float) -> str:
    if value != value:
        return "-"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"
