"""Whether this project computes on a model what it says: shared prefixes, and plain decoding."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from cachetools import LRUCache
from torch import Tensor

from focus.decoding.base import GenerationSettings, Request
from focus.decoding.focus import Focus
from focus.decoding.plain import Plain
from focus.decoding.preparing import prepare
from focus.decoding.rows import clean_rows
from focus.doctor.report import Check
from focus.models.loading import VisionLanguageModel

#: Largest difference of logits in float32, as the tests of all families have it.
BOUND = 1e-3
#: Largest ratio of rounding errors in half precision, shared over naive; 0.93 to 1.06 measured.
RATIO = 1.5
#: Parameters up to which a float32 copy is made to tell rounding from error.
COPIED = 1e9
FIRST = GenerationSettings(max_new_tokens=1)


def shared_is_naive(vlm: VisionLanguageModel, requests: Sequence[Request]) -> Check:
    """First-token logits of all rows with shared prefixes and as the published full batch.

    In float32 they are equal. In half precision each rounds in its own way: the error of either
    against a float32 copy of the model is compared, or, where the model is too large for a copy,
    their difference with the spread of the logits.
    """
    half = vlm.model.dtype != torch.float32
    exact = vlm
    if half and vlm.model.num_parameters() <= COPIED:
        model = copy.deepcopy(vlm.model).float()
        exact = replace(vlm, model=model, noise_cache=LRUCache(maxsize=1))
    shared, naive = (_logits(exact, requests, prefill) for prefill in ("shared", "naive"))
    largest = float((shared - naive).abs().max())
    spread = float(naive.std())
    data = {"largest_difference": largest, "spread": spread}
    if exact is vlm and half:
        right = largest < 0.1 * spread
        line = f"{vlm.model.dtype}: largest difference {largest:.2g}, spread of logits {spread:.2g}"
    else:
        right = largest < BOUND * max(1.0, spread)
        line = f"float32: largest difference of logits {largest:.1e} ({spread:.2g} is their spread)"
    lines = [line]
    if half and exact is not vlm:
        errors = [
            float((_logits(vlm, requests, prefill) - naive).square().mean().sqrt())
            for prefill in ("shared", "naive")
        ]
        data["rounding_ratio"] = errors[0] / errors[1]
        lines.append(
            f"{vlm.model.dtype}: rounding error shared {errors[0]:.2g}, naive {errors[1]:.2g}"
        )
        right = right and errors[0] < RATIO * errors[1]
    advice = "use decoding.prefill=naive, and report this model: its attention is not plain causal"
    if right:
        return Check("shared prefixes", "ok", tuple(lines), data=data)
    return Check("shared prefixes", "fail", tuple(lines), advice, data)


def _logits(vlm: VisionLanguageModel, requests: Sequence[Request], prefill: str) -> Tensor:
    strategy = Focus(prefill=prefill)  # type: ignore[arg-type]
    found = [strategy.decode(vlm, r, FIRST, keep_logits="first") for r in requests]
    return torch.cat([each.branch_logits[0].flatten().cpu() for each in found])


def plain_is_generate(
    vlm: VisionLanguageModel, requests: Sequence[Request], new_tokens: int = 8
) -> Check:
    """Plain decoding's tokens against those of the model's own `generate`, pixels and all."""
    settings = GenerationSettings(max_new_tokens=new_tokens)
    different, pairs = [], []
    for number, request in enumerate(requests, start=1):
        ours = Plain().decode(vlm, request, settings)
        prepared = prepare(vlm, request, *clean_rows(len(request.images)))
        ids = prepared.prompt.input_ids
        images = [prepared.images[content] for content in prepared.plan.rows[0]]
        pixels = {k: v.to(ids.device) for k, v in vlm.family.model_kwargs(images).items()}
        if "pixel_values" in pixels:
            pixels["pixel_values"] = pixels["pixel_values"].to(vlm.model.dtype)
        theirs = vlm.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            **pixels,
            **vlm.family.text_kwargs(vlm.model, ids),
            **settings.generate_kwargs(),
        )[0, ids.shape[1] :].tolist()
        pairs.append({"ours": list(ours.token_ids[0]), "generate": theirs})
        if list(ours.token_ids[0]) != theirs:
            different.append(number)
    line = f"{len(requests) - len(different)} of {len(requests)} answers equal, token for token"
    if not different:
        return Check("plain decoding", "ok", (line,), data={"answers": pairs})
    half = vlm.model.dtype != torch.float32
    advice = (
        "close calls may fall differently in half precision; try dtype=float32 to be sure"
        if half
        else "prompt, positions or pixels are not the model's own: report this model"
    )
    return Check("plain decoding", "warn" if half else "fail", (line,), advice, {"answers": pairs})
