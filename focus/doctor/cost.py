"""What images cost: tokens per budget, seconds and memory per number of images."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import torch
from PIL import Image
from transformers import ProcessorMixin

from focus.decoding.base import GenerationSettings, Request
from focus.decoding.focus import Focus
from focus.decoding.plain import Plain
from focus.doctor.report import Check
from focus.environment import peak_memory
from focus.errors import BranchMemoryError, ContextLengthError
from focus.images import IMAGE_PLACEHOLDER
from focus.models.loading import VisionLanguageModel

SIZES = ((512, 512), (640, 480), (1024, 683), (1920, 1080))
#: Tokens kept free for the text of a question and its answer.
TEXT = 512


def budgets(vlm: VisionLanguageModel) -> Check:
    """Tokens that a photograph fills under the budget in use, and how many the context holds.

    Beside it ``compact``, where the processor still has the checkpoint's own limits.

    ``published`` is ``checkpoint`` but for images that a benchmark squares to 512 x 512.
    """
    context = vlm.family.context_length(vlm.model)
    own = "checkpoint" if vlm.budget == "published" else vlm.budget  # the same but for squaring
    table = {own: _tokens(vlm, vlm.processor)}
    if own == "checkpoint":
        processor = copy.copy(vlm.processor)
        processor.image_processor = copy.deepcopy(vlm.processor.image_processor)
        vlm.family.set_budget(processor, vlm.family.named_budget(processor, "compact"))
        table["compact"] = _tokens(vlm, processor)
    sizes = [f"{width}x{height}" for width, height in SIZES]
    lines = [f"  {'':<12}" + "".join(f"{size:>12}" for size in sizes)]
    lines += [
        f"  {name:<12}" + "".join(f"{tokens:>12}" for tokens in row.values())
        for name, row in table.items()
    ]
    if own != "checkpoint":  # loading has overwritten the processor's own limits
        lines.append("  for the checkpoint's own: model.budget=checkpoint")
    most = max(table[own].values())
    fit = max(0, (context - TEXT) // most)
    lines.append(
        f"context {context} tokens: {fit} images of the largest size, {TEXT} left for text"
    )
    data = {"tokens": table, "context": context, "largest_that_fit": fit}
    if fit < 8:
        smaller = (
            "model.budget=compact, or smaller images" if own == "checkpoint" else "use smaller"
        )
        advice = f"fewer than eight large photographs fit: {smaller}"
        return Check("image tokens", "warn", tuple(lines), advice, data)
    return Check("image tokens", "ok", tuple(lines), data=data)


def _tokens(vlm: VisionLanguageModel, processor: ProcessorMixin) -> dict[str, int]:
    inputs = vlm.family.image_inputs
    return {
        f"{width}x{height}": inputs(processor, Image.new("RGB", (width, height))).num_tokens
        for width, height in SIZES
    }


def cost(
    vlm: VisionLanguageModel,
    request: Request,
    *,
    questions: int,
    numbers: tuple[int, ...] = (1, 2, 4, 8, 16),
    seconds: float = 60.0,
    new_tokens: int = 8,
) -> Check:
    """Seconds and memory per question as the number of images grows, plain and FOCUS.

    Args:
        request: its images, repeated, are those of every measurement.
        questions: of the benchmark, for the estimate.
        numbers: of images, as far as context, memory and time allow.
        seconds: no further number is tried once the measurements have taken so long.
        new_tokens: longest answer.
    """
    settings = GenerationSettings(max_new_tokens=new_tokens)
    rows, limit, spent = [], "", 0.0
    cuda = vlm.model.device.type == "cuda"
    Plain().decode(vlm, request, settings)  # the first call pays for what later ones reuse
    for number in numbers:
        if spent > seconds:
            limit = f"stopped at {seconds:.0f} s"
            break
        images = tuple(itertools.islice(itertools.cycle(request.images), number))
        text = request.question.replace(IMAGE_PLACEHOLDER, "")
        asked = replace(
            request, images=images, question=IMAGE_PLACEHOLDER * number + text, targets=None
        )
        row: dict[str, float] = {"images": number}
        try:
            for name, strategy in (("plain", Plain()), ("focus", Focus())):
                if cuda:
                    torch.cuda.reset_peak_memory_stats()
                row[name] = strategy.decode(vlm, asked, settings).seconds
                spent += row[name]
                memory = torch.cuda.max_memory_allocated() / 2**20 if cuda else None
                row[f"{name}_mib"] = memory or peak_memory()["peak_memory_mib"]
        except (ContextLengthError, BranchMemoryError) as error:
            limit = f"{number} images: {type(error).__name__}"
            break
        rows.append(row)
    lines = [f"  {'images':>6}{'plain s':>10}{'FOCUS s':>10}{'ratio':>8}{'peak MiB':>10}"]
    lines += [
        f"  {row['images']:>6}{row['plain']:>10.3f}{row['focus']:>10.3f}"
        f"{row['focus'] / row['plain']:>8.2f}{row['focus_mib']:>10.0f}"
        for row in rows
    ]
    if limit:
        lines.append(f"  no more: {limit}")
    two = min(rows, key=lambda row: abs(row["images"] - 2)) if rows else None
    data = {"rows": rows, "limit": limit, "questions": questions}
    if two is None:
        return Check("cost", "fail", tuple(lines), "not even one image fits: use a budget", data)
    hours = [questions * two[name] / 3600 for name in ("plain", "focus")]
    data["hours"] = {"plain": hours[0], "focus": hours[1]}
    lines.append(
        f"{questions:,} questions of {two['images']:.0f} images, answers of {new_tokens} tokens: "
        f"about {_duration(hours[0])} plain, {_duration(hours[1])} with FOCUS"
    )
    return Check("cost", "ok", tuple(lines), data=data)


def _duration(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"
