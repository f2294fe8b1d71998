"""How the branches of a model behave, which decides whether the published sum helps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from statsmodels.stats.proportion import proportion_confint
from torch import Tensor

from focus.aggregation import divergence
from focus.benchmarks.base import AbstractBenchmark, Example
from focus.decoding.base import GenerationSettings, Request
from focus.decoding.focus import Focus
from focus.decoding.plain import Plain
from focus.doctor.forecasting import Statistics, forecast_finding, question_statistics
from focus.doctor.report import Check
from focus.models.loading import VisionLanguageModel
from focus.scoring import first_tokens

Asked = Callable[[AbstractBenchmark, Example], Request]


def behaviour(
    vlm: VisionLanguageModel,
    benchmark: AbstractBenchmark,
    asked: Asked,
    *,
    size: int = 50,
    progress: Callable[[], None] = lambda: None,
) -> Check:
    """What each kind of row says first, on some questions about several images.

    A branch is on target where the question names its image. Of a branch that names a candidate:
    ``right``, ``own``, what is true of its own image (the truths of the question say), or
    ``wrong``; ``other``: it names none (abstains, or starts a sentence). Without targets and truths
    only what needs no labels is told, the forecast of the gain among it.

    Args:
        benchmark: in any order of its questions; those about one image are passed over.
        asked: from benchmark and example to the request.
        size: at most so many questions.
        progress: called after each.
    """
    settings = GenerationSettings(max_new_tokens=benchmark.max_new_tokens)
    counts: dict[str, Counter[str]] = {"on_target": Counter(), "off_target": Counter()}
    ranked: Counter[str] = Counter()
    others: Counter[int] = Counter()
    hits: Counter[str] = Counter()
    references: Counter[str] = Counter()
    sizes: Counter[tuple[tuple[int, int], int]] = Counter()
    moved: list[float] = []
    entropies: list[float] = []
    agreeing: list[float] = []
    forecast: list[Statistics] = []
    for example in several_images(benchmark, size):
        request = asked(benchmark, example)
        plain = Plain().decode(vlm, request, settings, keep_logits="first")
        focus = Focus()
        found = focus.decode(vlm, request, settings, keep_logits="first")
        rows = found.branch_logits[0][:, 0].float()
        reference, branches = rows[0], rows[1:]
        tokens = first_tokens(vlm.processor.tokenizer, example.choices)
        named = naming(vlm.processor.tokenizer, example.choices)
        hits["questions"] += 1
        sizes[example.images[0].size, plain.image_tokens[0]] += 1
        score = benchmark.score(plain.text, example.reference)
        hits["plain"] += score.correct
        hits["traceable"] += bool(example.distractors)
        hits["leaked"] += score.leaked
        hits["focus"] += benchmark.score(found.text, example.reference).correct
        log_reference = reference.log_softmax(-1)
        entropies.append(float(-(log_reference.exp() * log_reference).sum()))
        moved += divergence(branches, reference).tolist()
        references[vlm.processor.tokenizer.decode([int(reference.argmax())]).strip()] += 1
        if tokens:
            said = [example.choices[int(row[tokens].argmax())] for row in branches]
            hits["ranked"] += 1
            hits["best_branch"] += example.answer in said
            agreeing.append(max(Counter(said).values()) / len(said))
        if tokens and len(branches) and len(set(named.values())) > 1:
            first = plain.branch_logits[0][0, 0]
            forecast.append(question_statistics(first, rows, named, alpha=focus.alpha))
        _count(example, branches, tokens, counts, ranked, others, named)
        progress()
    words = [(vlm.processor.tokenizer.decode([k]).strip(), n) for k, n in others.most_common(1)]
    check = _finding(benchmark, counts, ranked, words, hits, references, moved, entropies, agreeing)
    shown = [
        f"images of {width}x{height} pixels fill {tokens} tokens each"
        for ((width, height), tokens), _ in sizes.most_common(1)
    ]
    expected, said_of_it = forecast_finding(forecast)
    return replace(
        check,
        lines=(*check.lines[:1], *shown, *check.lines[1:], *said_of_it),
        data={**check.data, **({"forecast": expected} if expected else {})},
    )


def naming(tokenizer: Any, choices: Sequence[str]) -> dict[int, str]:
    """The choice that each first token names, as written or capitalised, with a space or without.

    Chat models say "Red" where the choice is "red". Tokens with which several choices begin name
    none.
    """
    named: dict[int, set[str]] = {}
    for choice in choices:
        for written in {choice, choice.capitalize(), choice.upper()}:
            for text in (written, f" {written}"):
                ids = tokenizer.encode(text, add_special_tokens=False)
                if ids and tokenizer.decode(ids[:1]).strip():  # not a lone space
                    named.setdefault(ids[0], set()).add(choice)
    return {token: found.pop() for token, found in named.items() if len(found) == 1}


def several_images(benchmark: AbstractBenchmark, size: int) -> list[Example]:
    """The first questions about several images."""
    found: list[Example] = []
    for example in benchmark:
        if len(example.images) > 1:
            found.append(example)
        if len(found) == size:
            break
    return found


def _count(
    example: Example,
    branches: Tensor,
    tokens: Sequence[int],
    counts: dict[str, Counter[str]],
    ranked: Counter[str],
    others: Counter[int],
    names: Mapping[int, str],
) -> None:
    """Adds what the branches of one question say, where it is known what they should."""
    target, attribute = example.targets[:1], example.metadata.get("attribute")
    if len(example.targets) != 1 or not isinstance(target[0], int) or not tokens:
        return
    own = [truth.get(str(attribute)) for truth in example.truths]
    if len(own) != len(branches):
        return
    for k, row in enumerate(branches):
        kind = "on_target" if k == target[0] else "off_target"
        counts[kind]["total"] += 1
        best = int(row.argmax())
        named = names.get(best)
        if named is None:
            counts[kind]["other"] += 1
            others[best] += kind == "off_target"
        elif named == example.answer:
            counts[kind]["right"] += 1
        elif named == own[k]:
            counts[kind]["own"] += 1
        else:
            counts[kind]["wrong"] += 1
        first = example.choices[int(row[list(tokens)].argmax())]
        expected = example.answer if kind == "on_target" else own[k]
        ranked[kind] += first == expected


def _finding(
    benchmark: AbstractBenchmark,
    counts: dict[str, Counter[str]],
    ranked: Counter[str],
    others: Sequence[tuple[str, int]],
    hits: Counter[str],
    references: Counter[str],
    moved: Sequence[float],
    entropies: Sequence[float],
    agreeing: Sequence[float],
) -> Check:
    n = hits["questions"]
    if not n:
        line = f"{benchmark.name} has no questions about several images"
        return Check("behaviour", "warn", (line,), "choose a benchmark that has", {})
    top, times = references.most_common(1)[0]
    data: dict[str, Any] = {
        "n": n,
        "plain": hits["plain"] / n,
        "focus": hits["focus"] / n,
        "divergence": float(torch.tensor(moved).median()),
        "reference_entropy": sum(entropies) / n,
        "reference_top": {"answer": top, "share": times / n},
    }
    lines = [
        f"{n} questions of {benchmark.name}, alpha 0.3, answers as text: plain "
        f"{_rate(hits['plain'], n)}, FOCUS {_rate(hits['focus'], n)}",
    ]
    if hits["traceable"]:
        data["leakage"] = hits["leaked"] / hits["traceable"]
        lines.append(f"leakage of plain decoding {_rate(hits['leaked'], hits['traceable'])}")
    if hits["ranked"]:
        data["best_branch"] = hits["best_branch"] / hits["ranked"]
        data["agreement"] = sum(agreeing) / len(agreeing)
        best = _rate(hits["best_branch"], hits["ranked"])
        lines.append(
            f"some branch ranks the right candidate first {best}; branches agree "
            f"{data['agreement']:.2f}"
        )
    lines.append(
        f"a branch is moved from the reference by {data['divergence']:.2g} nats (median); the "
        f"reference says {top!r} in {times / n:.0%}, entropy {data['reference_entropy']:.2g} nats"
    )
    for kind, count in counts.items():
        total = count["total"]
        if total:
            names = ("right", "own", "wrong", "other")
            data[kind] = {name: count[name] / total for name in names}
            shown = ", ".join(f"{name} {_rate(count[name], total)}" for name in names)
            lines.append(f"{kind.replace('_', '-')} branches say first (n = {total}): {shown}")
    for said, times in others:
        lines.append(f"of the off-target branches that name no candidate, {times} say {said!r}")
    on, off = counts["on_target"]["total"], counts["off_target"]["total"]
    if on and off:
        data["on_target_ranks_right"] = ranked["on_target"] / on
        data["off_target_ranks_own"] = ranked["off_target"] / off
        lines.append(
            f"among the candidates: on target right {_rate(ranked['on_target'], on)}, off target "
            f"own {_rate(ranked['off_target'], off)}"
        )
    return Check("behaviour", "ok", tuple(lines), data=data)


def _rate(count: int, total: int) -> str:
    low, high = proportion_confint(count, total, method="wilson")
    return f"{count / total:.2f} [{low:.2f}, {high:.2f}]"
