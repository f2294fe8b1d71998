"""What strategies cost, measured question by question as any run decodes them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from experiments.ablation_cells import built
from experiments.ablation_lines import labels
from experiments.ablation_models import Model
from experiments.ablation_questions import AnyQuestions
from experiments.ablation_rows import Rows
from focus.decoding import AbstractDecoding, GenerationSettings, Plain
from focus.errors import InvalidValueError, PromptError

#: The embedded models answer in one token.
ANSWER = GenerationSettings(max_new_tokens=1)


def cost_records(
    model: Model,
    questions: AnyQuestions,
    strategies: Mapping[str, Mapping[str, Any]],
    *,
    repeats: int,
) -> list[dict[str, Any]]:
    """What every strategy costs, measured on the same questions, in turn, after a warm-up.

    Args:
        model: to decode.
        questions: so many of them as there are.
        strategies: settings by label; ``strategy`` names it where the label does not.
        repeats: measurements of each question.

    Returns:
        A record per strategy: means of rows, images encoded, prompt tokens and rows times prompt
        tokens per question, median seconds per question, and its ratio to plain decoding.
    """
    loaded = model.load(questions)
    all_units = Rows()
    decodings: dict[str, AbstractDecoding] = {"plain": Plain()}
    for label, setting in strategies.items():
        values = dict(setting)
        decodings[label] = built(values.pop("strategy", label), values)
    requests = loaded.requests(budget=model.vlm.budget)
    with_units = loaded.requests(all_units, budget=model.vlm.budget)
    found: dict[str, list[Any]] = {label: [] for label in decodings}
    for label, decoding in list(decodings.items()):
        asked = requests if label == "single_image" else with_units
        try:
            decoding.decode(model.vlm, asked[0], ANSWER)
        except (PromptError, InvalidValueError):  # it cannot act here, as its answers' note says
            del decodings[label], found[label]
    for _ in range(repeats):
        for plain, units in zip(requests, with_units, strict=True):
            for label, decoding in decodings.items():
                asked_one = plain if label == "single_image" else units
                model.vlm.known_states.clear()  # or it would live off the one before
                found[label].append(decoding.decode(model.vlm, asked_one, ANSWER))
    seconds = {label: statistics.median(d.seconds for d in found[label]) for label in found}
    return [
        {
            **labels(model, loaded),
            "record": "cost",
            "rule": label,
            "rows": statistics.fmean(d.num_rows for d in each),
            "encoded": statistics.fmean(d.num_encoded for d in each),
            "prefill_tokens": statistics.fmean(d.num_rows * d.prompt_tokens for d in each),
            "seconds": round(seconds[label], 5),
            "over_plain": round(seconds[label] / seconds["plain"], 3),
        }
        for label, each in found.items()
    ]
