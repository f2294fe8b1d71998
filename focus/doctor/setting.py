"""What is about to run, and the prompt that the model will read."""

from __future__ import annotations

import itertools
from typing import Any

import torch

from focus.decoding.base import Request
from focus.decoding.preparing import prepare
from focus.decoding.rows import clean_rows
from focus.doctor.report import Check
from focus.environment import environment
from focus.models.loading import VisionLanguageModel
from focus.prompts import Prompt


def environment_check(vlm: VisionLanguageModel) -> Check:
    """Versions, device, dtype, attention, image back end and budget."""
    model, facts = vlm.model, environment()
    parameters = sum(p.numel() for p in model.parameters())
    attention = model.config.get_text_config()._attn_implementation
    data: dict[str, Any] = {
        "model": vlm.name,
        "family": vlm.family.name,
        "parameters": parameters,
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": attention,
        "device": str(model.device),
        "device_map": getattr(model, "hf_device_map", None) and "several",
        "image_backend": vlm.backend,
        "budget": vlm.budget,
        "packages": facts["packages"],
        "python": facts["python"],
    }
    lines = [
        f"{vlm.name}: {vlm.family.name}, {parameters / 1e6:,.1f} million parameters, "
        f"{data['dtype']}, {attention} attention, on {data['device']}",
        f"images by {vlm.backend}, budget {vlm.budget}; python {facts['python']}, torch "
        f"{facts['packages']['torch']}, transformers {facts['packages']['transformers']}",
    ]
    if model.device.type == "cuda":
        free, total = torch.cuda.mem_get_info(model.device)
        data |= {"memory_free": free, "memory_total": total}
        lines.append(f"{facts['device']}: {free / 2**30:.1f} of {total / 2**30:.1f} GiB free")
    slow = model.device.type == "cpu" and parameters > 5e8
    advice = "a model of this size is slow on a CPU: use a GPU" if slow else ""
    return Check("environment", "warn" if slow else "ok", tuple(lines), advice, data)


def prompt_check(vlm: VisionLanguageModel, request: Request) -> Check:
    """The rendered prompt of a question with its image spans marked, and the special tokens."""
    prompt = prepare(vlm, request, *clean_rows(len(request.images))).prompt
    tokenizer, config = vlm.processor.tokenizer, vlm.model.generation_config
    ends = config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    data = {
        "text": prompt.text,
        "length": prompt.input_ids.shape[1],
        "spans": [list(span) for span in prompt.spans],
        "image_token": vlm.processor.image_token,
        "image_token_id": vlm.family.image_token_id(vlm.model),
        "end_tokens": ends,
        "pad_token": config.pad_token_id,
    }
    named = ", ".join(f"{tokenizer.decode([k])!r} ({k})" for k in ends if k is not None)
    lines = (
        *marked(prompt, tokenizer),
        f"{data['length']} tokens; image token {data['image_token']!r} ({data['image_token_id']}); "
        f"answers end at {named or 'nothing'}; pad token {config.pad_token_id}",
    )
    if not named:
        advice = "no end token: answers run to their longest length; set generation_config"
        return Check("prompt", "warn", lines, advice, data)
    return Check("prompt", "ok", lines, data=data)


def marked(prompt: Prompt, tokenizer: Any, ids_shown: int = 6) -> tuple[str, ...]:
    """The prompt piece by piece, each image as its span, each text with its first ids."""
    ids = prompt.input_ids[0].tolist()
    bounds = sorted({0, len(ids), *itertools.chain.from_iterable(prompt.spans)})
    lines = []
    for start, end in itertools.pairwise(bounds):
        if (start, end) in prompt.spans:
            number = prompt.spans.index((start, end)) + 1
            lines.append(f"  [{start:>5}..{end - 1:>5}]  image {number}: {end - start} tokens")
        else:
            shown = ", ".join(map(str, ids[start : start + ids_shown]))
            more = ", ..." if end - start > ids_shown else ""
            text = tokenizer.decode(ids[start:end])
            lines.append(f"  [{start:>5}..{end - 1:>5}]  {text!r}  ({shown}{more})")
    return tuple(lines)
