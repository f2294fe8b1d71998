"""The claims of the paper, our test of each, and what came of it.

A claim names where to look; its results are computed from the records, so that no number is typed.
Verdicts are words made from intervals (`analysis.comparisons.word`): an interval decides, not a
value. One verdict for each model, from all conditions of a test put together; the table beside it
has every condition by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import pandas as pd

from analysis.ablation_tables import condition_name, difference, markdown, sorted_settings
from analysis.ablations import HEADLINE, PLAIN, Record, of_kind
from analysis.comparisons import (
    ABOVE,
    ALIKE,
    BELOW,
    HOLDS,
    MARGIN,
    WORDS,
    WORDS_TITLE,
    by_kind,
    compare,
    overall,
    selected,
    verdict,
    word,
    word_counts,
)
from focus.noise import NOISE_TYPES
from focus.zoo.answers import CANDIDATES, VOCABULARY

DEFAULT_NOISE = "imagenet+uniform"
FOCUS = {"rule": "sum"}
BASE = {"rule": PLAIN}
OTHER_NOISE = [name for name, t in NOISE_TYPES.items() if t.published and name != DEFAULT_NOISE]
COLD = {"temperature": 0.2}


@dataclass(frozen=True)
class Test:
    """One paired comparison.

    Args:
        label: what is subtracted from what, on which questions.
        experiment: whose records hold the answers.
        first, second: settings of the two, see `analysis.comparisons.compare`.
        across: setting whose values are the columns of the table.
        aim: where the claim says that the difference lies.
        every: whether that is said of each condition by itself: a model's verdict is then that of
            its worst one, since opposite differences would cancel out.
        metric: see `analysis.comparisons.compare`.
        reading: of the answers, see `focus.zoo.answers`.
    """

    label: str
    experiment: str
    first: Mapping[str, Any]
    second: Mapping[str, Any] = field(default_factory=lambda: dict(BASE))
    across: str = "num_images"
    aim: str = ABOVE
    every: bool = False
    metric: str = HEADLINE
    reading: str = VOCABULARY

    __test__ = False  # no test of pytest


@dataclass(frozen=True)
class Claim:
    """One claim and our tests of it.

    Args:
        claim: what the paper says, in our words.
        test: what we did.
        tests: its comparisons.
        limits: where the test ends, whatever comes out.
    """

    claim: str
    test: str
    tests: Sequence[Test]
    limits: str = ""


def gain(experiment: str, kind: str | list[str] | None, label: str, **more: Any) -> Test:
    """FOCUS minus plain decoding on some kind of questions; None for all kinds."""
    options = {name: more.pop(name) for name in ("across", "aim", "metric") if name in more}
    asked = {} if kind is None else {"kind": kind}
    return Test(f"FOCUS minus plain, {label}", experiment, {**FOCUS, **asked, **more}, **options)


def in_both_readings(*tests: Test) -> tuple[Test, ...]:
    """Each test as generated text and, after it, as a ranking of the candidate answers.

    The two can differ in sign: "unknown" may win the generated text and is never a candidate.
    """
    ranked = [replace(t, reading=CANDIDATES, label=f"{t.label}, {RANKED}") for t in tests]
    return tuple(chain.from_iterable(zip(tests, ranked, strict=True)))


RANKED = "read as a ranking of the candidates"
PAIRS = "minimal pairs (image score)"
CLAIMS = (
    Claim(
        "Focusing on one image at a time and summing improves the understanding of several images, "
        "without training, across models and benchmarks.",
        "Plain decoding and FOCUS on the same questions of four worlds.",
        in_both_readings(
            gain("strategies", "indexed", "indexed questions"),
            gain("strategies", "matching", PAIRS, across="world"),
            gain("domains", ["probe", "which"], "probes and which-image", across="kind"),
        ),
        "Models of one or two million parameters that this project trained. Whether large models "
        "abstain where they cannot see is not known from here.",
    ),
    Claim(
        "FOCUS does better than other ways to decode without training.",
        "Every strategy with its settings chosen on dev, on the same questions. A claim of FOCUS "
        "holds where the other strategy is below.",
        tuple(
            Test(
                f"other strategy minus FOCUS, {label}", experiment,
                {"rule": ["vcd", "sofa", "delimiter_scaling", "block_attention",
                          "caption_then_answer"], "kind": kind},
                FOCUS, across="rule", aim=BELOW, every=True,
            )
            for experiment, kind, label in (
                ("strategies", "indexed", "indexed questions"),
                ("strategies", "matching", PAIRS),
                ("benchmarks", ["probe", "which"], "probes and which-image"),
                ("benchmarks", ["same", "odd", "counting"], "questions that need several images"),
            )
        ),
        "The others were made for large models.",
    ),
    Claim(
        "Masking with noise works, and the type of noise matters little.",
        f"Every published type against the default one. Alike: the interval lies within "
        f"{MARGIN} of zero, for every type.",
        tuple(
            Test(
                f"other noise minus {DEFAULT_NOISE}, {label}", "noise",
                {**FOCUS, "noise": OTHER_NOISE, "scale": 1.0, "kind": kind},
                {**FOCUS, "noise": DEFAULT_NOISE, "scale": 1.0},
                across="noise", aim=ALIKE, every=True,
            )
            for kind, label in (("indexed", "indexed questions"), ("matching", PAIRS))
        ),
        "The contrast weight is that of the default noise. Types that keep some of the image are "
        "among the published ones.",
    ),
    Claim(
        "The draw of the noise matters little, and every branch has its own.",
        f"Four more seeds, and noise shared by the branches of a question or by a whole run. "
        f"Alike: within {MARGIN} of zero.",
        (
            Test("other seed minus the first, noise for each branch", "seeds",
                 {**FOCUS, "sharing": "branch", "seed": [1, 2, 3, 4]},
                 {**FOCUS, "sharing": "branch", "seed": 0}, across="seed", aim=ALIKE, every=True),
            Test("shared noise minus noise for each branch", "seeds",
                 {**FOCUS, "sharing": ["sample", "run"], "seed": 0},
                 {**FOCUS, "sharing": "branch", "seed": 0},
                 across="sharing", aim=ALIKE, every=True),
        ),
    ),
    Claim(
        "Subtracting the logits of a noise-only reference helps.",
        "Contrast weights against none, on dev (a grid is for looking; test sees the chosen one).",
        in_both_readings(
            Test("with contrast minus without, indexed questions", "contrast",
                 {**FOCUS, "kind": "indexed", "noise": DEFAULT_NOISE,
                  "alpha": [0.1, 0.3, 0.5, 0.7, 1.0, 1.5]},
                 {**FOCUS, "alpha": 0.0, "noise": DEFAULT_NOISE}, across="alpha"),
            Test(f"with contrast minus without, {PAIRS}", "contrast",
                 {**FOCUS, "kind": "matching", "noise": DEFAULT_NOISE,
                  "alpha": [0.1, 0.3, 0.5, 0.7, 1.0, 1.5]},
                 {**FOCUS, "alpha": 0.0, "noise": DEFAULT_NOISE}, across="alpha"),
        ),
        "The paper fixes no weight.",
    ),
    Claim(
        "Branches are to be summed.",
        "The sum against other aggregations, each with its own contrast weight chosen on dev. The "
        "claim holds where the other one is below.",
        in_both_readings(*(
            Test(
                f"other aggregation minus sum, {label}", "aggregation",
                {"rule": ["max", "logsumexp", "entropy", "divergence"], "kind": kind},
                FOCUS, across="rule", aim=BELOW, every=True,
            )
            for kind, label in (("indexed", "indexed questions"), ("which", "which-image"))
        )),
        "The mean, and the product of the probabilities, choose what the sum chooses where one "
        "token is generated greedily: they are no other rules and are left out.",
    ),
    Claim(
        "It holds as the number of images grows.",
        "Two to eight images, the asked one at every place.",
        in_both_readings(
            gain("images", "indexed", "indexed questions, by number of images"),
            gain("images", "which", "which-image, by number of images"),
        ),
        "Clips have room for two.",
    ),
    Claim(
        "It extends to video, with the frames of a clip as the images to focus on.",
        "Clips of eight frames: a branch for each clip (units) against one for each frame (all).",
        in_both_readings(
            gain("targets", ["indexed", "matching"], "a branch for each clip",
                 world="clips", targets="units", across="kind"),
            gain("targets", ["indexed", "matching"], "a branch for each frame",
                 world="clips", targets="all", across="kind"),
        ),
        "One world of drawn clips.",
    ),
    Claim(
        "It holds across domains.",
        "Drawn scenes, handwritten digits, photographs, clips.",
        in_both_readings(
            gain("domains", ["indexed", "which", "probe"], "two images", across="world"),
            gain("domains", "matching", PAIRS, across="world"),
        ),
    ),
    Claim(
        "Gains come from less leakage between images, which similar images provoke.",
        "Leakage (answers that are true of another image) and accuracy by the number of attributes "
        "that the images share.",
        (
            gain("similarity", "indexed", "leakage by similarity", metric="leakage", aim=BELOW,
                 across="similarity"),
            gain("similarity", "indexed", "accuracy by similarity", across="similarity"),
        ),
    ),
    Claim(
        "Multi-image questions of every kind gain.",
        "Questions that no single image answers: counting over images, the odd one out, same or "
        "different; and which image fits, which single images do answer.",
        in_both_readings(
            gain("collective", ["counting", "odd", "same", "which"], "by kind", across="kind")
        ),
    ),
    Claim(
        "The gain is no matter of temperature.",
        "Summed logits are colder. Expected accuracy at temperature 0.2 against plain decoding at "
        "the matched temperature T / (N (1 - alpha)).",
        (
            Test("FOCUS minus plain at the matched temperature, indexed questions", "sampling",
                 {**FOCUS, **COLD, "kind": "indexed"}, {"rule": "plain_matched", **COLD}),
            Test("FOCUS minus plain at the same temperature, indexed questions", "sampling",
                 {**FOCUS, **COLD, "kind": "indexed"}, {**BASE, **COLD}),
            Test(f"FOCUS minus plain at the matched temperature, {PAIRS}", "sampling",
                 {**FOCUS, **COLD, "kind": "matching"}, {"rule": "plain_matched", **COLD}),
        ),
        "A contrast weight of one or more has no matching temperature.",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What came of a test.

    Args:
        test: which one.
        words: `HOLDS`, `REVERSED` or `OPEN`, by model.
        whole: one row per model, all conditions put together.
        cells: one row per model and condition.
    """

    test: Test
    words: Mapping[str, str]
    whole: pd.DataFrame
    cells: pd.DataFrame


def outcome(test: Test, records: Sequence[Record]) -> Outcome:
    """Result of a test; empty where nothing can be compared."""
    whole, cells = (
        compare(records, test.first, test.second, by=by, metric=test.metric, reading=test.reading)
        for by in (("model",), ("model", test.across))
    )
    words: dict[str, str] = {}
    for model in whole["model"] if len(whole) else ():
        rows = cells if test.every else whole
        words[model] = overall(words_of(rows[rows["model"] == model], test.aim))
    return Outcome(test, words, whole, cells)


def words_of(frame: pd.DataFrame, aim: str) -> list[str]:
    """What each interval says."""
    ends = zip(frame["delta_low"], frame["delta_high"], strict=True)
    return [word(low, high, aim) for low, high in ends]


def outcome_table(found: Outcome, kinds: Mapping[str, str]) -> str:
    """Differences: models down, conditions across, and how many models hold in each condition."""
    test, cells = found.test, found.cells
    conditions = sorted_settings(cells[test.across])
    lines = []
    for model in by_kind(found.words, kinds):
        part = cells[cells["model"] == model].set_index(test.across)
        (whole,) = found.whole[found.whole["model"] == model].to_dict("records")
        line = {"model": model, "kind": kinds[model], "n": str(whole["n"])}
        if not test.every and len(conditions) > 1:
            line["all"] = difference(whole, bold=True)
        for condition in conditions:
            shown = part.loc[condition] if condition in part.index else None
            column = condition_name(test.across, condition)
            line[column] = "-" if shown is None else difference(shown, bold=True)
        lines.append({**line, "verdict": found.words[model]})
    counts = {"model": WORDS_TITLE}
    for condition in conditions:
        words = words_of(cells[cells[test.across] == condition], test.aim)
        counts[condition_name(test.across, condition)] = word_counts(words)
    return markdown(pd.DataFrame([*lines, counts]).fillna(""))


def because(found: Outcome, records: Sequence[Record]) -> str:
    """What the branches said where a test holds and where it does not: a sentence, or nothing.

    Where a question names an image these are the branches that do not show it, else all of them.
    """
    rows = [row for row in of_kind(records, "rows")
            if selected(row, {k: v for k, v in found.test.first.items() if k in row})]  # fmt: skip
    role = "off target" if any(row["role"] == "off target" for row in rows) else "branch"
    # Questions that name no single attribute have no answer of another image to count.
    named = any(row["own"] for row in rows)
    parts = []
    for each in WORDS:
        of_word = [r for r in rows if r["role"] == role and found.words.get(r["model"]) == each]
        total = sum(row["total"] for row in of_word)
        if total:
            share = {name: sum(row[name] for row in of_word) / total
                     for name in ("unknown", "own", "right")}  # fmt: skip
            own = f", their own image's answer in {share['own']:.0%}" if named else ""
            parts.append(
                f'where it is {each.replace(HOLDS, "true")}, "unknown" in {share["unknown"]:.0%}'
                f"{own}, the right answer in {share['right']:.0%}"
            )
    if not parts:
        return ""
    who = "Branches that do not show the asked image" if role != "branch" else "Branches"
    return f"{who} say, {'; '.join(parts)}."


def sentence(found: Outcome, kinds: Mapping[str, str]) -> str:
    """The label of a test and its verdict."""
    return f"{found.test.label}: {verdict(found.words, kinds)}."
