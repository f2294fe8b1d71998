"""docs/zoo/README.md: the embedded models; tables, and sentences made from the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.zoo import (
    LEVEL,
    MODEL,
    focus_points,
    overview,
    rank_correlation,
    select,
    verdicts,
)
from analysis.zoo_ladder import ladder_parts, ladder_points
from analysis.zoo_reproduction import reproduced_sentence
from analysis.zoo_tables import (
    READING,
    commitment_lines,
    markdown,
    overview_lines,
    p_text,
    point_lines,
)
from focus.marks import CANDIDATES, TEXT
from focus.zoo.card import BAR
from focus.zoo.evaluation import FOCUS


def zoo_page(
    records: Sequence[Mapping[str, Any]],
    frame: pd.DataFrame,
    runs: Sequence[Mapping[str, Any]],
    ladder: pd.DataFrame,
    reproduced: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The page; every rate of every model is in `analysis.zoo_tables.details`.

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
        parts += [
            "## Several images: accuracy and leakage",
            "![Accuracy on indexed questions against the number of images](accuracy.png)",
            "![Leakage on indexed questions against the number of images](leakage.png)",
        ]
        parts += ["## FOCUS against plain decoding", *_focus(frame, points)]
        parts += [
            "## Why: what the branches say",
            "![FOCUS minus plain against how often off-target branches abstain](abstention.png)",
            "\n".join(f"- {line}" for line in explanation(points, ladder)),
            "How far rows commit themselves: first token over the whole vocabulary, indexed "
            "questions about two images, all worlds together. FOCUS needs off-target branches that "
            "do not: that abstain, or that say what could be anything. Own image: what is true of "
            "the image that is shown, which is not the asked one. Three numbers: rows on target, "
            "off target, and the reference.",
            markdown(commitment_lines(records)),
        ]
    parts += ["## The ladder", *ladder_parts(runs, ladder)]
    return "\n\n".join(parts) + "\n"


def _introduction(records: Sequence[Mapping[str, Any]]) -> list[str]:
    settings = {
        f"split {r['split']}, seed {r['seed']}, {r['noise']} noise, {r['scope']}, "
        f"alpha {r['alphas'][CANDIDATES]} (candidates) and {r['alphas'][TEXT]} (text), chosen "
        "on dev"
        for r in (record["results"] for record in records)
    }
    return [
        "Small models of the real architectures, trained here, measured on worlds with ground "
        "truth. Written by `make report` from the `training.json` of each model and from "
        "`ladder.jsonl.gz`; nothing is entered by hand. `make report DETAILS=1` writes every "
        "rate, as tables and as CSV, to `results/report/zoo`.",
        "How to read it:",
        "\n".join(
            [
                "- Brackets hold 95% intervals: Wilson's for a rate, over questions or, for the "
                "scores of minimal pairs, over pairs; a bootstrap over the same units for "
                "differences, which are paired. They are about the choice of questions, for one "
                "training run: the spread between seeds is another thing.",
                "- An answer is the first token, read in two ways: as a ranking of the question's "
                "candidates, and as generated text, the best token of all, which is what greedy "
                'decoding would say, "unknown" included. Where nothing else is said, numbers are '
                "of the first.",
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
        markdown(overview_lines(records)),
    ]


def _focus(frame: pd.DataFrame, points: pd.DataFrame) -> list[str]:
    compared = select(frame, kind=("indexed", "matching"), decoding=FOCUS)
    compared = compared[compared["delta"].notna()]
    verdict = verdicts(compared)
    parts = [_counted(compared, verdict)]
    parts += [
        "At two images, largest loss first. Branches: first token over the whole vocabulary on "
        "the same indexed questions, one clean image each; off target: the clean image is not the "
        "asked one.",
        markdown(point_lines(points)),
    ]
    return parts


def _counted(compared: pd.DataFrame, verdict: pd.Series) -> str:
    lines = []
    for reading in (CANDIDATES, TEXT):
        chosen = verdict[compared["reading"] == reading]
        counts = {name: int((chosen == name).sum()) for name in ("gain", "loss", "neither")}
        lines.append(
            f"- {READING[reading]}: {counts['gain']} gains, {counts['loss']} losses, "
            f"{counts['neither']} neither, of {len(chosen)}"
        )
    return f"Comparisons with adjusted p < {LEVEL}:\n\n" + "\n".join(lines)


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
                found = f"cannot be computed (n = {n})"
                if rho == rho:
                    chance = p_text(p) if p < 0.001 else f"= {p_text(p)}"
                    found = f"rho = {rho:+.2f} (p {chance}, n = {n})"
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
