"""docs/results.md: what became of each claim, where FOCUS fails, and what goes beyond the paper.

Every number and every verdict is computed from records. Experiments without records say so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from analysis.ablation_tables import READ
from analysis.ablations import Record
from analysis.claims import CLAIMS, FAILURES, ROUTED, SINGLE, Claim, Test, tests_of
from analysis.findings import (
    abstention_points,
    abstention_sentence,
    default_rows,
    judged_sentence,
    judged_table,
    models_table,
    regimes_sentence,
    regimes_table,
)
from analysis.judging import judge, regimes
from analysis.outcomes import Outcome, claim_table, glance_table, outcome, verdict_frame
from analysis.results_figures import abstention_figure, effect_figure, verdict_figure
from focus.marks import READINGS

#: Of the figures, beside the page.
FOLDER = "claims"
NOT_RUN = "No records yet: `make ablation-{}`."


@dataclass(frozen=True)
class Found:
    """What the page says of one experiment, computed from its records.

    Args:
        kinds: by model.
        outcomes: of all tests that look at it.
        rows: what rows say on indexed test questions about two images.
        points: by reading, of `analysis.findings.abstention_points`; of ``images``.
        judged: by reading, of `analysis.judging.judge`; of ``rules``.
        regimes: by reading, of `analysis.judging.regimes`; of ``rules``.
    """

    kinds: Mapping[str, str]
    outcomes: Sequence[Outcome]
    rows: Sequence[Record]
    points: Mapping[str, pd.DataFrame]
    judged: Mapping[str, pd.DataFrame]
    regimes: Mapping[str, pd.DataFrame]

    @classmethod
    def of(cls, name: str, records: list[Record], kinds: Mapping[str, str]) -> Found:
        """From the records of an experiment.

        Args:
            name: of the experiment.
            records: of it.
            kinds: by model.
        """
        points, judged, against = {}, {}, {}
        if name == "images":
            points = {each: abstention_points(records, each) for each in READINGS}
        if name == "rules":
            judged = {each: judge(records, reading=each) for each in READINGS}
            against = {each: regimes(records, kinds, reading=each) for each in READINGS}
        points, judged, against = (
            {reading: frame for reading, frame in frames.items() if len(frame)}
            for frames in (points, judged, against)
        )
        rows = [r for r in default_rows(records) if r["num_images"] == 2]
        outcomes = [outcome(test, records, kinds) for test in tests_of(name)]
        return cls(dict(kinds), outcomes, rows, points, judged, against)


class Page:
    """The page and its figures, from what was found in each experiment.

    Args:
        found: by experiment; those that were not run are missing.
    """

    def __init__(self, found: Mapping[str, Found]) -> None:
        self.found = found
        self.kinds = {name: kind for one in found.values() for name, kind in one.kinds.items()}

    def outcome(self, test: Test) -> Outcome | None:
        """What came of a test; None where its experiment was not run."""
        one = self.found.get(test.experiment)
        return None if one is None else next(o for o in one.outcomes if o.test == test)

    def decided(self, tests: Sequence[Test]) -> list[Outcome]:
        """What came of those tests that have something to compare."""
        return [o for o in map(self.outcome, tests) if o is not None and o.words]

    def text(self) -> str:
        """The page."""
        rows = [row for one in self.found.values() for row in one.rows]
        parts = ["# Results, claim by claim", INTRODUCTION]
        parts += ["## The models", MODELS_NOTE, models_table(rows, self.kinds)]
        parts += ["## At a glance", GLANCE_NOTE, glance_table(CLAIMS, self.outcome)]
        if any(self.decided(claim.tests) for claim in CLAIMS):
            parts += [f"![Claims on models]({FOLDER}/verdicts.png)"]
        for number, claim in enumerate(CLAIMS, 1):
            parts += self._section(f"## {number}. {claim.claim}", claim, f"claim-{number}")
        parts += ["## Where it fails, on purpose"]
        for number, claim in enumerate(FAILURES, 1):
            parts += self._section(f"### {claim.claim}", claim, f"failure-{number}")
        return "\n\n".join([*parts, *self._beyond()]) + "\n"

    def figures(self) -> Iterator[tuple[str, Figure]]:
        """Every figure that the page shows, by file name."""
        for name, claim in self._claims():
            if outcomes := self.decided(claim.tests):
                yield name, effect_figure(outcomes, self.kinds)
        frame = verdict_frame(
            ((number, found) for number, claim in enumerate(CLAIMS, 1)
             for found in self.decided(claim.tests)), self.kinds,
        )  # fmt: skip
        if len(frame):
            yield "verdicts", verdict_figure(frame)
        if points := self._points():
            yield "abstention", abstention_figure(points[READINGS[0]])

    @staticmethod
    def _claims() -> Iterator[tuple[str, Claim]]:
        yield from ((f"claim-{number}", claim) for number, claim in enumerate(CLAIMS, 1))
        yield from ((f"failure-{number}", claim) for number, claim in enumerate(FAILURES, 1))
        yield "routed", ROUTED
        yield "single", SINGLE

    def _points(self) -> Mapping[str, pd.DataFrame]:
        return self.found["images"].points if "images" in self.found else {}

    def _section(self, heading: str, claim: Claim, figure: str) -> list[str]:
        """Heading; test, limits and what the branches said; table; figure."""
        outcomes = self.decided(claim.tests)
        reason = next((o.reason for o in outcomes if o.reason), "")
        told = {"Limits": claim.limits, "Why": reason}
        text = [claim.test, *(f"**{name}.** {each}" for name, each in told.items() if each)]
        missing = dict.fromkeys(t.experiment for t in claim.tests if t.experiment not in self.found)
        parts = [heading, " ".join(text), *(NOT_RUN.format(name) for name in missing)]
        if not outcomes:
            return parts
        shown = f"![{claim.claim}]({FOLDER}/{figure}.png)"
        return [*parts, claim_table(claim.tests, self.outcome), shown]

    def _beyond(self) -> list[str]:
        """What the paper does not ask."""
        parts = ["## Beyond the paper", "### When the sum helps"]
        points = self._points()
        told = [f"Read {READ[each]}. {abstention_sentence(frame)}"
                for each, frame in points.items()]  # fmt: skip
        parts += [" ".join(told)] if told else []
        figure = f"![Gain against abstention]({FOLDER}/abstention.png)"
        parts += [figure if points else NOT_RUN.format("images")]
        parts += self._section(f"### {ROUTED.claim}", ROUTED, "routed")
        parts += ["### One rule for three kinds of models", REGIMES_NOTE]
        rules = self.found.get("rules")
        if rules is None:
            parts += [NOT_RUN.format("rules")]
        elif rules.regimes:
            told = [regimes_sentence(frame, each) for each, frame in rules.regimes.items()]
            parts += [" ".join(told), regimes_table(rules.regimes)]
        parts += ["### Candidate rules", RULES_NOTE]
        if rules is not None and rules.judged:
            told = [f"Read {READ[each]}. {judged_sentence(frame)}"
                    for each, frame in rules.judged.items()]  # fmt: skip
            parts += [" ".join(told), judged_table(rules.judged, ["test"])]
        return [*parts, *self._section(f"### {SINGLE.claim}", SINGLE, "single")]


INTRODUCTION = (
    "Generated by `make report` from the records in `docs/ablations`; do not edit. `make report "
    "DETAILS=1` writes every condition on every model, and every cell as CSV, to `results/report`. "
    "FOCUS is the "
    "published sum over branches at the contrast weight chosen on dev for each reading; answers "
    "are read as generated text unless said, and minimal pairs are judged by the image score: a "
    "pair counts if both captions find their image. A difference is paired, on the same questions "
    "or pairs, with its 95% interval over them, all worlds and conditions put together unless "
    "one is named; it is bold where the interval excludes zero. A claim *holds* on a model where "
    "the interval lies where the claim says, is *reversed* where it lies on the other side, and "
    "*open* otherwise; where it speaks of each condition, the one that is furthest from it decides "
    "and is named. Tables put the models of one kind together, a question that several of them "
    "answer being one unit; verdicts count single models, each of which is one training run. n is "
    "the least number of paired answers of a model."
)
MODELS_NOTE = (
    "Whether the branches that do not show the asked image abstain decides most of what follows. "
    "Shares of rows on indexed questions with two images:"
)
GLANCE_NOTE = (
    "A claim *holds* where it does in all of its tests on all models, *fails* where it does in "
    "none, and else *depends*. Numbers are of its first test. In the figure the number of a field "
    "is the difference that its verdict is made from."
)
REGIMES_NOTE = (
    "Off-target branches abstain, commit themselves, or do neither: is one way to use the rows "
    "right in all three regimes? Test questions, weights chosen on dev; cells (model, world, kind "
    "of questions, number of images) that the first rule wins, ties and loses against the second "
    "after Holm's adjustment over the cells of a comparison, and in brackets the mean difference."
)
RULES_NOTE = (
    "Rules of ours (`analysis/rules.py`) against the published sum, both at weights chosen on dev, "
    "in the same cells, after Holm's adjustment over all cells of the split; mean differences are "
    "over all questions and pairs of all models."
)
