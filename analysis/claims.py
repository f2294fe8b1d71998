"""The claims of the paper, where FOCUS fails, what is ours, and the tests of all of it.

A claim names where to look; what came of it is computed from the records (`analysis.outcomes`), so
that no number is typed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from analysis.ablations import HEADLINE, PLAIN
from analysis.comparisons import ABOVE, ALIKE, BELOW, MARGIN
from focus.marks import CANDIDATES, TEXT
from focus.noise import NOISE_TYPES

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
        reading: of the answers, see `focus.marks`.
    """

    label: str
    experiment: str
    first: Mapping[str, Any]
    second: Mapping[str, Any] = field(default_factory=lambda: dict(BASE))
    across: str = "num_images"
    aim: str = ABOVE
    every: bool = False
    metric: str = HEADLINE
    reading: str = TEXT

    __test__ = False  # no test of pytest


@dataclass(frozen=True)
class Claim:
    """One claim and our tests of it.

    Args:
        claim: what the paper says, in our words; of a failure, or of what is ours, its heading.
        test: what we did; of a failure, what goes wrong.
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

WHOLE = {"rule": "sum", "scale": 1.0, "tint": "none"}
#: Ways in which FOCUS fails, provoked on purpose.
FAILURES = (
    Claim(
        "Similar images",
        "The more attributes images share, the less an answer can leak: another image's answer is "
        "then often right. What plain decoding still gets wrong is what FOCUS can gain.",
        (gain("similarity", "indexed", "indexed questions by shared attributes",
              across="similarity"),
         gain("similarity", "which", "which-image by shared attributes", across="similarity")),
    ),
    Claim(
        "Noise through which the image shines",
        "A blend of image and noise at a scale below one tells the other branches what the image "
        "is. They then answer from an image that they are not to see.",
        (Test("blend minus pure noise", "correlated",
              {"rule": "sum", "tint": "none", "scale": [0.9, 0.7, 0.5, 0.3, 0.1, 0.0]}, WHOLE,
              across="scale", aim=BELOW),
         gain("correlated", None, "by scale of the noise", across="scale", tint="none")),
    ),
    Claim(
        "Noise in the colour of the content",
        "Noise with the mean colour of the image that it hides (own), or of the asked one "
        "(target), answers questions about colour for a branch that sees nothing.",
        (Test("coloured noise minus plain noise", "correlated",
              {"rule": "sum", "tint": ["own", "target"]}, WHOLE, across="tint", aim=BELOW),),
    ),
    Claim(
        "Questions that need several images",
        "No branch can count over images, find the odd one out or tell same from different: it "
        "sees one image, and the sum adds up answers to another question.",
        (gain("collective", ["counting", "odd", "same"], "by kind", across="kind"),),
    ),
)  # fmt: skip

#: A rule of ours (`focus.routing`) against the published sum.
ROUTED = Claim(
    "Routing the branches",
    "`decoding=routed_focus` (`focus/routing.py`), made on the dev split: the branches are mixed "
    "instead of summed, each weighted by how far its image moved it from the reference and by how "
    "often it agrees with plain decoding. It costs one row more than FOCUS. The rule was made on "
    "the models of InternVL3 and Qwen2.5-VL of seed 0; the others had no part in it.",
    in_both_readings(
        Test("routed minus sum, indexed questions", "aggregation",
             {"rule": "routed", "kind": "indexed"}, FOCUS),
        Test(f"routed minus sum, {PAIRS}", "domains",
             {"rule": "routed", "kind": "matching"}, FOCUS, across="world"),
        Test("routed minus sum, probes and which-image", "domains",
             {"rule": "routed", "kind": ["probe", "which"]}, FOCUS, across="world"),
    ),
)  # fmt: skip
#: The weights are chosen on questions about several images; one image has no leak to mend.
SINGLE = Claim(
    "A single image",
    "With one image there is nothing to mask and nothing that could leak: FOCUS is plain decoding. "
    "The published code contrasts it with a noise image all the same, except in the text questions "
    "of Winoground and VisMin (`decoding.single_image=published`). What that contrast alone does "
    "is measured here, at the weight chosen on questions about several images. That it harms holds "
    "where the interval lies below zero.",
    tuple(
        Test(f"{name} minus plain, one image", "domains", {"rule": rule, "kind": "single"},
             across="world", aim=BELOW)
        for rule, name in (("sum", "FOCUS"), ("routed", "routed"))
    ),
)  # fmt: skip


def tests_of(experiment: str) -> list[Test]:
    """Every test that looks at an experiment: of claims, of failures, of what is ours."""
    everything = (*CLAIMS, *FAILURES, ROUTED, SINGLE)
    return [t for claim in everything for t in claim.tests if t.experiment == experiment]
