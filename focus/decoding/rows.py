"""Decoding a request over the rows of a plan: what the strategies of this package share."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Mapping
from statistics import fmean
from typing import Any

import torch
from PIL import Image

from focus.branches import BranchPlan, Content, clean_plan
from focus.decoding.base import Decoded, GenerationSettings, Request
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
    plan: BranchPlan, request: Request, noise: NoiseConfig, *, per_run: bool = False
) -> dict[Content, Image.Image]:
    """Image of every content of a plan at its own size: the published order, and what to show.

    The key of each draw is (seed, sample id, image index, row), or (seed, image index) where a
    whole run shares its noise: it never depends on the order in which samples are decoded.
    """
    return {
        content: request.images[content.slot]
        if content.kind == "clean"
        else _masked(content, request, noise, request.images[content.slot], per_run=per_run)
        for content in plan.contents
    }


def _masked(
    content: Content,
    request: Request,
    noise: NoiseConfig,
    image: Image.Image,
    *,
    per_run: bool,
    view: int = 0,
) -> Image.Image:
    """Noise, or a blend with it, in place of an image or of one of the model's views of it."""
    sample_id = "" if per_run else request.sample_id
    random = noise_generator(noise.seed, sample_id, content.slot, content.row, view)
    scale = noise.scale if content.kind == "blend" else 1.0
    if noise.drawn_at == "image":
        return published_blend(noise.name, image, random, scale=scale, severity=noise.severity)
    drawn = noise_image(noise.name, image, random, severity=noise.severity)
    return blend(image, drawn, scale=scale)


class ShownImages:
    """What the vision tower takes for every content of a plan, each worked out once.

    Noise is drawn at the size that the model sees (`NoiseConfig.drawn_at`): on each of the views
    that the processor makes of the clean image, so that it fills exactly as many tokens.
    """

    def __init__(self, vlm: VisionLanguageModel, request: Request) -> None:
        self.vlm, self.request = vlm, request
        self._clean: dict[int, ImageInputs] = {}
        self._views: dict[int, tuple[Image.Image, ...]] = {}

    def clean(self, slot: int) -> ImageInputs:
        """The image at `slot`.

        Raises:
            ImageError: the processor refuses it (sides too unequal, ...), with its place.
        """
        if slot not in self._clean:
            vlm, image = self.vlm, self.request.images[slot]
            try:
                self._clean[slot] = vlm.family.image_inputs(vlm.processor, image)
            except ValueError as error:
                raise ImageError(
                    f"image {slot + 1} of {len(self.request.images)}, {image.width} x "
                    f"{image.height} pixels, is refused by the image processor of {vlm.name}: "
                    f"{error}"
                ) from error
        return self._clean[slot]

    def views(self, slot: int) -> tuple[Image.Image, ...]:
        """The image at `slot` as the model sees it."""
        if slot not in self._views:
            family, processor = self.vlm.family, self.vlm.processor
            self._views[slot] = family.views(processor, self.clean(slot))
        return self._views[slot]

    def masked(self, content: Content, noise: NoiseConfig, *, per_run: bool) -> ImageInputs:
        """Noise, or a blend, in its place."""
        family, processor = self.vlm.family, self.vlm.processor
        if noise.drawn_at == "image" or (content.kind == "blend" and noise.scale == 0):
            clean = self.request.images[content.slot]
            image = _masked(content, self.request, noise, clean, per_run=per_run)
            return family.image_inputs(processor, image)
        views = [
            _masked(content, self.request, noise, view, per_run=per_run, view=k)
            for k, view in enumerate(self.views(content.slot))
        ]
        return family.view_inputs(processor, views)


def prepare(
    vlm: VisionLanguageModel,
    request: Request,
    plan: BranchPlan,
    combine: Combine,
    *,
    noise: NoiseConfig | None = None,
    per_run: bool = False,
    inputs: Mapping[Content, ImageInputs] | None = None,
    seed: int = 0,
    **branched_kwargs: Any,
) -> BranchedPrompt:
    """Renders, processes and tokenises one request, ready for `focus.generate.decode_branches`.

    Args:
        noise: which noise masks the images that a row must not see.
        per_run: noise keyed by slot alone, the same for all samples, and encoded once per run.
        inputs: of contents of the plan that are neither clean images nor noise.
        seed: key of the sampling draws.
        branched_kwargs: further fields of `BranchedPrompt`.
    """
    noise = noise or NoiseConfig()
    shown = ShownImages(vlm, request)
    share = per_run and branched_kwargs.get("prefill", "shared") == "shared"
    inputs, features = dict(inputs or {}), {}
    for slot in range(len(request.images)):
        if Content(slot, "clean") not in inputs:
            shown.clean(slot)  # an image that cannot be used is named, whatever stands in for it
    for content in plan.contents:
        if content in inputs:
            continue
        if content.kind == "clean":
            inputs[content] = shown.clean(content.slot)
        elif share and content.kind == "noise":
            inputs[content], features[content] = _run_noise(shown, content, noise)
        else:
            inputs[content] = shown.masked(content, noise, per_run=per_run)
    # Noise fills as many tokens as the image it replaces, so any row gives the prompt its counts.
    first = [inputs[content] for content in plan.rows[0]]
    prompt = build_prompt(
        vlm.model, vlm.processor, vlm.family, request.question, first, system=request.system
    )
    return BranchedPrompt(
        prompt=prompt,
        plan=plan,
        images=inputs,
        family=vlm.family,
        combine=combine,
        features={content: each for content, each in features.items() if each is not None},
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
    inputs: Mapping[Content, ImageInputs] | None = None,
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
        inputs=inputs,
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
        **settings.generate_kwargs() | generate_kwargs,
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
    # One image at a time: photographs have millions of pixels.
    means, variances = [], []
    for inputs in noise:
        levels = vlm.family.grey_levels(vlm.processor, inputs)
        means.append(float(levels.mean()))
        # The channels differ in their means; their deviation is that within a channel.
        variances.append(float(levels.var(dim=1, correction=0).mean()))
    return {
        "noise_mean": round(fmean(means), 2),
        "noise_std": round(math.sqrt(fmean(variances)), 2),
    }


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


def clean_rows(num_images: int) -> tuple[BranchPlan, Combine]:
    """Plan and combination of ordinary decoding: one row, its logits unchanged."""
    return clean_plan(num_images), lambda logits: logits[0]


def _num_encoded(plan: BranchPlan, branches: BranchedPrompt, prefill: str) -> int:
    if prefill == "naive":
        return sum(len(row) for row in plan.rows)
    return len(plan.contents) - len(branches.features or {})


def _run_noise(
    shown: ShownImages, content: Content, noise: NoiseConfig
) -> tuple[ImageInputs, ImageFeatures | None]:
    """Noise that a whole run shares; encoded once per slot and size where that is all it needs."""
    vlm, slot = shown.vlm, content.slot
    if NOISE_TYPES[noise.name].content_dependent:
        return shown.masked(content, noise, per_run=True), None
    # The processor's settings decide what it makes of a size; they may be changed.
    budget = str(vlm.processor.image_processor.to_dict())
    drawn = (noise.name, noise.severity, noise.seed, noise.drawn_at)
    key = (*drawn, slot, shown.request.images[slot].size, budget)
    if key not in vlm.noise_cache:
        inputs = shown.masked(content, noise, per_run=True)
        with torch.no_grad():
            features = vlm.family.encode(vlm.model, [inputs])[0]
        vlm.noise_cache[key] = (inputs, features)
    return vlm.noise_cache[key]
