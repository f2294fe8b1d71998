"""The lines of an ablation's records: what is said of one cell, and what its rows say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor

import focus.aggregation
from analysis.rules import Evidence, agreement, divergence
from experiments.ablation_models import Model
from experiments.ablation_questions import Loaded
from experiments.ablation_rows import Rows
from focus.marks import MARKS, WRONG, AnswerKey, choose_answers, right_probability

COLLECTIVE = ("counting", "odd", "same", "which")


def likeness(logits: Tensor, exact: Tensor, key: AnswerKey, reading: str) -> dict[str, float]:
    """How near two strategies are: the share of equal answers, and the mean divergence of the
    first from the second over the whole vocabulary, in nats.

    Args:
        logits, exact: ``[questions, columns]``.
        key: of the questions.
        reading: of the answers.
    """
    said, told = (choose_answers(each, key, reading) for each in (logits, exact))
    apart = focus.aggregation.divergence(logits.unsqueeze(0), exact)
    return {
        "same": round(float((said == told).mean()), 4),
        "divergence": round(float(apart.mean()), 4),
    }


def labels(model: Model, loaded: Loaded) -> dict[str, Any]:
    """Columns of every record about a model and a set of questions."""
    return {"record": "answers", "model": model.name, **loaded.labels}


def shown(setting: Mapping[str, Any]) -> str:
    """A setting as a label; longer texts are left out, they are the same for all models.

    >>> shown({"s": 0.5, "template": " {caption} "})
    's 0.5'
    """
    short = {k: v for k, v in setting.items() if not isinstance(v, str) or len(v) < 8}
    return " ".join(f"{name} {value}" for name, value in short.items())


def sampled(logits: Tensor, key: AnswerKey, reading: str, temperature: float) -> dict[str, Any]:
    """Expected scores at a temperature, in hundredths: most of what a file of records holds."""
    p = right_probability(logits, key, reading, temperature)
    return {"temperature": temperature, "scores": np.rint(100 * p).astype(int).tolist()}


def row_records(
    common: Mapping[str, Any],
    loaded: Loaded,
    rows: Rows,
    evidence: Evidence,
    key: AnswerKey,
    words: Mapping[int, str],
) -> Iterator[dict[str, Any]]:
    """What each kind of row says first, over the whole vocabulary, and how far branches moved.

    Where questions are about all views, apart by right answer: it shows what a branch cannot know.
    """
    apart = loaded.labels["kind"] in COLLECTIVE
    counts: dict[tuple[str, str | None], Counter[str]] = {}
    said: dict[tuple[str, str | None], Counter[str]] = {}
    distance: dict[tuple[str, str | None], list[float]] = {}
    moved, agreed = divergence(evidence), agreement(evidence)
    tops = [evidence.plain.argmax(-1), evidence.reference.argmax(-1)]
    tops += [branch.argmax(-1) for branch in evidence.branches]
    for q, example in enumerate(loaded.examples):
        target = rows.target_branch(example)
        for row, top in enumerate(tops[: 2 + evidence.branches_of(q)]):
            k = row - 2
            role = ("plain", "reference")[row] if k < 0 else "branch"
            if k >= 0 and target is not None:
                role = "on target" if k == target else "off target"
            at = (role, example.answer if apart else None)
            token = int(top[q])
            count = counts.setdefault(at, Counter())
            count["total"] += 1
            known = token < key.code.shape[1]  # else all tokens that begin no answer
            count[MARKS[key.code[q, token] if known else WRONG]] += 1
            attribute = example.metadata.get("attribute")
            if role == "off target" and attribute and rows.targets == "units":
                count["own"] += words[token] == example.truths[k].get(str(attribute))
            said.setdefault(at, Counter())[words[token]] += 1
            if k >= 0:
                distance.setdefault(at, []).append(float(moved[k, q]))
                count["agreement"] += round(1000 * float(agreed[k, q]))
    for (role, answer), count in counts.items():
        total = count["total"]
        yield {
            **common,
            "record": "rows",
            "role": role,
            "answer": answer,
            "total": total,
            "right": count["+"],
            "leaked": count["x"],
            "unknown": count["?"],
            "own": count["own"],
            "said": dict(said[role, answer].most_common(5)),
            "divergence": round(float(np.mean(distance.get((role, answer), [0.0]))), 4),
            "agreement": round(count["agreement"] / 1000 / total, 4),
        }
