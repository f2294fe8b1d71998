"""Recorded answers, combined anew: another rule, contrast weight or cut-off, without a model.

What the rows of a strategy made of a question's choices is in its record; so is, with the record of
plain decoding, everything that a rule needs. Answers are read as a ranking of the choices: what a
model would write at another weight is not in a record.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from analysis.rules import RULES, apply_rule
from analysis.summary import BASELINE
from focus.aggregation import AGGREGATIONS
from focus.branches import unit_label
from focus.contrast import validate_beta
from focus.errors import InvalidValueError, UnknownNameError
from focus.evidence import REFERENCE, Evidence, key_of, rows_of
from focus.marks import CANDIDATES, choose_answers
from focus.records import Record
from focus.scoring import Reference, Score, score_parsed


@dataclass(frozen=True)
class Combination:
    """What is made of the rows of a question.

    Args:
        rule: key of `analysis.rules.RULES`.
        alpha: contrast weight, or what the rule makes of it.
        beta: plausibility cut-off in [0, 1], of an aggregation; 0 for none.

    Raises:
        UnknownNameError: there is no such rule.
        InvalidValueError: a cut-off that is out of range, or of a rule that has none.
    """

    rule: str = "sum"
    alpha: float = 0.3
    beta: float = 0.0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise UnknownNameError("rule", self.rule, RULES)
        validate_beta(self.beta)
        if self.beta and self.rule not in AGGREGATIONS:
            raise InvalidValueError("beta", self.beta, f"0 for rule {self.rule!r}")

    def __str__(self) -> str:
        cut = f" beta {self.beta:g}" if self.beta else ""
        return f"{self.rule} alpha {self.alpha:g}{cut}"


def recombined(
    records: Sequence[Record], combinations: Sequence[Combination]
) -> Iterator[tuple[Record, Score]]:
    """Records of plain decoding and of every combination, with the score of the best choice.

    Their ``decoding`` is named after rows and combination. A question that was decoded plainly,
    since none of its images could be masked, keeps its answer; those without choices are left out.

    Args:
        records: of plain decoding and of a strategy with the rows of FOCUS.

    Raises:
        InvalidValueError: there are no such records, or a rule wants to know an image that the
            questions do not name.
    """
    ranked = [record for record in records if record.get("choice_answer") is not None]
    plain = {_question(r): r for r in ranked if r["decoding"] == BASELINE}
    rows = [r for r in ranked if r["decoding"] != BASELINE and _question(r) in plain]
    masked = [r for r in rows if REFERENCE in (r["row_logprobs"] or {})]
    if not masked:
        accepted = "those of plain decoding and of a strategy with a reference and branches"
        raise InvalidValueError("records", f"{len(records)} records", accepted)
    for record in plain.values():
        yield {**record, "truncated": False}, _scored(record, record["choice_answer"])
    for combination in combinations:
        chosen = _chosen(masked, plain, combination)
        for record in rows:
            choice = chosen.get(id(record), record["choice_answer"])
            told = {"decoding": f"{record['decoding']}: {combination}", "choice_answer": choice}
            yield {**record, **told, "truncated": False}, _scored(record, choice)


def _chosen(
    records: Sequence[Record], plain: Mapping[object, Record], combination: Combination
) -> dict[int, str]:
    """The best choice of every record; empty where a cut-off leaves none."""
    found: dict[int, str] = {}
    by_width = sorted(records, key=lambda record: len(record["choices"]))
    for _, each in itertools.groupby(by_width, key=lambda record: len(record["choices"])):
        part = list(each)
        own = [_branches(record) for record in part]
        targets = [_asked(record, rows) for record, rows in zip(part, own, strict=True)]
        known = [target for target in targets if target is not None]
        evidence = Evidence.of(
            torch.stack([next(iter(rows_of(plain[_question(r)]).values())) for r in part]),
            own,
            torch.tensor(known) if len(known) == len(part) else None,
        )
        logits = apply_rule(combination.rule, evidence, combination.alpha, combination.beta)
        best = choose_answers(logits, key_of(part), CANDIDATES)
        for record, column, values in zip(part, best, logits, strict=True):
            possible = bool(values[column].isfinite())
            found[id(record)] = record["choices"][column] if possible else ""
    return found


def _branches(record: Record) -> dict[str, torch.Tensor]:
    """Reference and branches, without the row of plain decoding that some strategies add."""
    rows = rows_of(record)
    whole = unit_label(range(record["num_images"]))
    return {label: row for label, row in rows.items() if label != whole or len(rows) == 2}


def _asked(record: Record, rows: Mapping[str, torch.Tensor]) -> int | None:
    """Which branch shows the image that a question names; None where it names none, or several."""
    if len(record["targets"]) != 1:
        return None
    (unit,) = record["targets"]
    label = unit_label(unit if isinstance(unit, list) else [unit])
    labels = [name for name in rows if name != REFERENCE]
    return labels.index(label) if label in labels else None


def _question(record: Record) -> object:
    return record["model"], record["benchmark"], record["order"], record["id"]


def _scored(record: Record, choice: str | None) -> Score:
    return score_parsed(choice or None, Reference.from_record(record))
