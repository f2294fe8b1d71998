"""Decoding a request over the rows of a plan: what the strategies of this package share."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from transformers import GenerationConfig

from focus.branches import BranchPlan, Content, clean_plan
from focus.decoding.base import NEUTRAL, Decoded, GenerationSettings, Request
from focus.errors import ImageError, UnsupportedGenerationError
from focus.generate import BranchedPrompt, Combine, decode_branches
from focus.models.base import ImageFeatures, ImageInputs
from focus.models.loading import VisionLanguageModel
from focus.noise import (
    NOISE_TYPES,
    NoiseConfig,
    blend,
    noise_generator,
    noise_image,
    published_blend,
)
from focus.prompts import build_prompt


def render(
    plan: BranchPlan,
    request: Request,
    noise: NoiseConfig,
    *,
    per_run: bool = False,
    seen: Callable[[Image.Image], Image.Image] | None = None,
) -> dict[Content, Image.Image]:
    """Image of every content of a plan, as the model's processor will be shown it.

    The key of each draw is (seed, sample id, image index, row), or (seed, image index) where a
    whole run shares its noise: it never depends on the order in which samples are decoded.

    Args:
        per_run: noise keyed by slot alone.
        seen: resizes an image to what the model sees of it (`AbstractFamily.seen`), where noise is
            drawn at the ``model``'s; None draws it at the image's own size.
    """
    sample_id = "" if per_run else request.sample_id
    images = {}
    for content in plan.contents:
        clean = request.images[content.slot]
        if content.kind == "clean":
            images[content] = clean
            continue
        random = noise_generator(noise.seed, sample_id, content.slot, content.row)
        scale = noise.scale if content.kind == "blend" else 1.0
        if noise.drawn_at == "image":
            images[content] = published_blend(
                noise.name, clean, random, scale=scale, severity=noise.severity
            )
            continue
        if scale == 0:  # to the bit, whatever a second resize would round
            images[content] = clean
            continue
        clean = clean if seen is None else seen(clean)
        drawn = noise_image(noise.name, clean, random, severity=noise.severity)
        images[content] = blend(clean, drawn, scale=scale)
    return images


def processed(
    vlm: VisionLanguageModel, images: Mapping[Content, Image.Image], num_images: int
) -> dict[Content, ImageInputs]:
    """What the vision tower takes for every content.

    Raises:
        ImageError: the processor refuses an image (sides too unequal, ...), with its place.
    """
    inputs = {}
    for content, image in images.items():
        with _refusals_named(vlm, image, content.slot % num_images, num_images):
            inputs[content] = vlm.family.image_inputs(vlm.processor, image)
    return inputs


@contextmanager
def _refusals_named(
    vlm: VisionLanguageModel, image: Image.Image, slot: int, num_images: int
) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ImageError(
            f"image {slot + 1} of {num_images}, {image.width} x {image.height} pixels, is refused "
            f"by the image processor of {vlm.name}: {error}"
        ) from error


def prepare(
    vlm: VisionLanguageModel,
    request: Request,
    plan: BranchPlan,
    combine: Combine,
    *,
    noise: NoiseConfig | None = None,
    per_run: bool = False,
    images: Mapping[Content, Image.Image] | None = None,
    seed: int = 0,
    **branched_kwargs: Any,
) -> BranchedPrompt:
    """Renders, processes and tokenises one request, ready for `focus.generate.decode_branches`.

    Args:
        noise: which noise masks the images that a row must not see.
        per_run: noise keyed by slot alone, the same for all samples, and encoded once per run.
        images: of all contents of the plan, where they are not clean images and noise.
        seed: key of the sampling draws.
        branched_kwargs: further fields of `BranchedPrompt`.
    """
    noise = noise or NoiseConfig()
    for slot, image in enumerate(request.images):
        with _refusals_named(vlm, image, slot, len(request.images)):
            vlm.family.seen_size(vlm.processor, image.size)
    seen = functools.partial(vlm.family.seen, vlm.processor)
    rendered = images or render(plan, request, noise, per_run=per_run, seen=seen)
    reusable: dict[Content, tuple[ImageInputs, ImageFeatures]] = {}
    if per_run and branched_kwargs.get("prefill", "shared") == "shared":
        reusable = _run_noise(vlm, rendered, noise, len(request.images))
    left = {content: image for content, image in rendered.items() if content not in reusable}
    inputs = {content: inputs for content, (inputs, _) in reusable.items()}
    inputs |= processed(vlm, left, len(request.images))
    # Noise fills as many tokens as the image it replaces, so any row gives the prompt its counts.
    shown = [inputs[content] for content in plan.rows[0]]
    prompt = build_prompt(
        vlm.model, vlm.processor, vlm.family, request.question, shown, system=request.system
    )
    return BranchedPrompt(
        prompt=prompt,
        plan=plan,
        images=inputs,
        family=vlm.family,
        combine=combine,
        features={content: features for content, (_, features) in reusable.items()},
        sampling_key=(seed, request.sample_id),
        **branched_kwargs,
    )


def decode_rows(
    vlm: VisionLanguageModel,
    request: Request,
    settings: GenerationSettings,
    *,
    plan: BranchPlan,
    combine: Combine,
    noise: NoiseConfig | None = None,
    per_run: bool = False,
    images: Mapping[Content, Image.Image] | None = None,
    prefill: str = "shared",
    encode_batch: int = 8,
    keep_logits: str = "none",
    **generate_kwargs: Any,
) -> Decoded:
    """Answers a request through `model.generate`; see `prepare` for the arguments.

    Raises:
        UnsupportedGenerationError: an assistant model, which has no branches, or a setting that
            `settings` or `keep_logits` decides.
    """
    _check_kwargs(generate_kwargs)
    started = time.perf_counter()
    branches = prepare(
        vlm,
        request,
        plan,
        combine,
        noise=noise,
        per_run=per_run,
        images=images,
        seed=settings.seed,
        prefill=prefill,
        encode_batch=encode_batch,
        keep_logits=keep_logits,
    )
    streamer = generate_kwargs.pop("streamer", None)
    input_ids = branches.prompt.input_ids
    if streamer is not None:  # as `generate` does with a streamer of its own
        streamer.put(input_ids.expand(settings.num_return_sequences, -1).cpu())
    output = vlm.model.generate(
        input_ids=input_ids,
        attention_mask=torch.ones_like(input_ids),
        branches=branches,
        custom_generate=functools.partial(decode_branches, streamer=streamer),
        return_dict_in_generate=True,
        **_known(settings.generate_kwargs() | generate_kwargs),
    )
    new_tokens = [
        tokens[:count]
        for tokens, count in zip(
            output.sequences[:, input_ids.shape[1] :].tolist(),
            output.num_new_tokens.tolist(),
            strict=True,
        )
    ]
    end = generate_kwargs.get("eos_token_id", vlm.model.generation_config.eos_token_id)
    end = end if isinstance(end, list) else [end]
    return Decoded(
        texts=tuple(
            text.strip()
            for text in vlm.processor.batch_decode(new_tokens, skip_special_tokens=True)
        ),
        token_ids=tuple(tuple(tokens) for tokens in new_tokens),
        row_labels=plan.labels,
        branch_logits=output.branch_logits or (),
        combined_logits=output.combined_logits or (),
        num_rows=len(plan.rows),
        num_encoded=_num_encoded(plan, branches, prefill),
        prompt_tokens=input_ids.shape[1],
        image_tokens=tuple(end - start for start, end in branches.prompt.spans),
        seconds=time.perf_counter() - started,
        truncated=tuple(
            len(tokens) == settings.max_new_tokens and tokens[-1] not in end
            for tokens in new_tokens
        ),
        **_noise_level(vlm, branches),
    )


def _noise_level(vlm: VisionLanguageModel, branches: BranchedPrompt) -> dict[str, float | None]:
    """Mean and deviation of pure noise where it enters the vision tower, in grey levels."""
    noise = [inputs for content, inputs in branches.images.items() if content.kind == "noise"]
    if not noise:
        return {"noise_mean": None, "noise_std": None}
    levels = torch.cat([vlm.family.grey_levels(vlm.processor, each) for each in noise], dim=1)
    # The channels differ in their means; their deviation is that within a channel.
    deviation = levels.var(dim=1, correction=0).mean().sqrt()
    return {"noise_mean": round(float(levels.mean()), 2), "noise_std": round(float(deviation), 2)}


def _check_kwargs(generate_kwargs: Mapping[str, Any]) -> None:
    """Refuses what `generate` would ignore, or what another argument of ours decides."""
    for name, value in generate_kwargs.items():
        # Given a callable, `generate` swallows assistants silently and drops the tokenizer that
        # stop strings need.
        if name in ("assistant_model", "assistant_tokenizer", "prompt_lookup_num_tokens"):
            why = "an assistant drafts from the clean prompt alone"
        elif name == "stop_strings":
            why = "pass stopping_criteria=[StopStringCriteria(tokenizer, stop_strings)]"
        elif name in ("do_sample", "generation_config", *GenerationSettings.__dataclass_fields__):
            why = "length, temperature and number of sequences are set in GenerationSettings"
        elif name in ("output_scores", "output_logits", "return_dict_in_generate"):
            why = "ask for logits with keep_logits='first' or 'all'"
        else:
            continue
        raise UnsupportedGenerationError(f"{name}={value!r} is not supported here: {why}")


def _known(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Without neutral settings that this version of `transformers` has no name for."""
    config = GenerationConfig()
    return {k: v for k, v in kwargs.items() if k not in NEUTRAL or hasattr(config, k)}


def clean_rows(num_images: int) -> tuple[BranchPlan, Combine]:
    """Plan and combination of ordinary decoding: one row, its logits unchanged."""
    return clean_plan(num_images), lambda logits: logits[0]


def _num_encoded(plan: BranchPlan, branches: BranchedPrompt, prefill: str) -> int:
    if prefill == "naive":
        return sum(len(row) for row in plan.rows)
    return len(plan.contents) - len(branches.features or {})


def _run_noise(
    vlm: VisionLanguageModel,
    rendered: Mapping[Content, Image.Image],
    noise: NoiseConfig,
    num_images: int,
) -> dict[Content, tuple[ImageInputs, ImageFeatures]]:
    """Noise that does not depend on the image it replaces, encoded once per slot and size."""
    if NOISE_TYPES[noise.name].content_dependent:
        return {}
    found = {}
    for content, image in rendered.items():
        if content.kind != "noise":
            continue
        # The processor's settings decide how many tokens the noise fills; they may be changed.
        budget = str(vlm.processor.image_processor.to_dict())
        key = (noise.name, noise.severity, noise.seed, content.slot, image.size, budget)
        if key not in vlm.noise_cache:
            inputs = processed(vlm, {content: image}, num_images)[content]
            with torch.no_grad():
                features = vlm.family.encode(vlm.model, [inputs])[0]
            vlm.noise_cache[key] = (inputs, features)
        found[content] = vlm.noise_cache[key]
    return found
