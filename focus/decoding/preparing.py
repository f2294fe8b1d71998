"""From a request and the plan of its rows to the prompt that is decoded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from focus.branches import BranchPlan, Content
from focus.decoding.base import Request
from focus.decoding.shown import ShownImages, remembered, run_image
from focus.errors import InvalidValueError
from focus.generate import BranchedPrompt, Combine, shown_contents
from focus.models.base import ImageInputs, input_device
from focus.models.loading import VisionLanguageModel
from focus.noise import NoiseConfig
from focus.prompts import Prompt, build_prompt
from focus.scoring import choice_tokens


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

    Raises:
        InvalidValueError: candidates that cannot be told apart by their tokens.
    """
    noise = noise or NoiseConfig()
    shown = ShownImages(vlm, request)
    share = per_run and branched_kwargs.get("prefill", "shared") == "shared"
    inputs, features = dict(inputs or {}), {}
    for slot in range(len(request.images)):
        if Content(slot, "clean") not in inputs:
            shown.clean(slot)  # an image that cannot be used is named, whatever stands in for it
    for content in shown_contents(plan, branched_kwargs.get("flow", "row")):
        if content in inputs:
            continue
        if content.kind == "clean":
            inputs[content] = shown.clean(content.slot)
        elif content.kind == "stand-in" or (share and content.kind == "noise"):
            inputs[content], features[content] = run_image(shown, content, noise)
        else:
            inputs[content] = shown.masked(content, noise, per_run=per_run)
    # Noise fills as many tokens as the image it replaces, so any row gives the prompt its counts.
    first = [inputs.get(content) or shown.clean(content.slot) for content in plan.rows[0]]
    candidates = choice_tokens(vlm.processor.tokenizer, request.candidates)
    if request.candidates and not candidates:
        accepted = "texts that differ in their tokens, none of them empty"
        raise InvalidValueError("candidates", request.candidates, accepted)
    return BranchedPrompt(
        prompt=_prompt(vlm, request, first),
        plan=plan,
        images=inputs,
        family=vlm.family,
        combine=combine,
        features={content: each for content, each in features.items() if each is not None},
        known=vlm.known_states,
        sampling_key=(seed, request.sample_id),
        candidates=tuple(candidates),
        **branched_kwargs,
    )


def _prompt(vlm: VisionLanguageModel, request: Request, images: list[ImageInputs]) -> Prompt:
    """The prompt; of the strategies that are compared on a question, the first builds it.

    Positions depend on where images stand and on their sizes alone: many questions share them.
    """
    model, processor, family = vlm.model, vlm.processor, vlm.family
    layout = (
        *(type(family).__qualname__, str(input_device(model))),
        *(family.layout(image) for image in images),
    )

    def position_ids(input_ids: Tensor, spans: tuple[tuple[int, int], ...]) -> Tensor:
        key = ("positions", layout, spans, input_ids.shape[1])
        positions: Tensor = remembered(
            vlm.seen, key, lambda: family.position_ids(model, input_ids, images)
        )
        return positions

    def build() -> Prompt:
        return build_prompt(
            model, processor, family, request.question, images,
            system=request.system, position_ids=position_ids,
        )  # fmt: skip

    key = ("prompt", layout, processor.chat_template, request.question, request.system)
    prompt: Prompt = remembered(vlm.seen, key, build)
    return prompt
