"""Decoding a request over the rows of a plan: what the strategies of this package share."""

from __future__ import annotations

import functools
import math
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, Literal

import torch
from torch import Tensor

from focus.branches import BranchPlan, Content, clean_plan
from focus.composed import Flow
from focus.decoding.base import (
    AbstractDecoding,
    Decoded,
    GenerationSettings,
    Request,
    attempted,
)
from focus.decoding.preparing import prepare
from focus.engines import AbstractEngine, Generated, LocalEngine, Scored
from focus.errors import FocusError, UnsupportedGenerationError
from focus.generate import BranchedPrompt, Combine, KeepLogits, decode_branches
from focus.models.base import AbstractFamily, ImageInputs
from focus.models.loading import VisionLanguageModel
from focus.noise import NoiseConfig


@dataclass(frozen=True)
class Pass:
    """One pass of decoding over the rows of a plan: all that it needs beside the model.

    Args:
        request: what is asked.
        plan: the rows.
        combine: their logits to one distribution; equal functions are called once for many passes.
        noise, per_run, inputs: see `prepare`.
        flow, layers, prefill, encode_batch: see `focus.generate.BranchedPrompt`.
        give_up: from the combined logits ``[vocab]`` of the first step: whether to end there,
            without an answer.
        family: reads the images otherwise than the model's own.
    """

    request: Request
    plan: BranchPlan
    combine: Combine
    noise: NoiseConfig | None = None
    per_run: bool = False
    inputs: Mapping[Content, ImageInputs] | None = None
    flow: Flow = "row"
    layers: tuple[int, ...] | None = None
    prefill: Literal["shared", "naive"] = "shared"
    encode_batch: int = 8
    give_up: Callable[[Tensor], bool] | None = None
    family: AbstractFamily | None = None

    def prepare(
        self, vlm: VisionLanguageModel, *, seed: int, keep_logits: KeepLogits
    ) -> BranchedPrompt:
        """Everything rendered, processed and tokenised."""
        return prepare(
            vlm if self.family is None else replace(vlm, family=self.family),
            self.request,
            self.plan,
            self.combine,
            noise=self.noise,
            per_run=self.per_run,
            inputs=self.inputs,
            seed=seed,
            flow=self.flow,
            layers=self.layers,
            prefill=self.prefill,
            encode_batch=self.encode_batch,
            give_up=self.give_up,
            keep_logits=keep_logits,
        )


class AbstractPassDecoding(AbstractDecoding):
    """A strategy that answers in one pass over rows; it says which, and how they are combined."""

    @abstractmethod
    def one_pass(self, vlm: VisionLanguageModel, request: Request) -> Pass:
        """The rows for one request."""

    def decode(
        self,
        vlm: VisionLanguageModel,
        request: Request,
        settings: GenerationSettings,
        *,
        keep_logits: KeepLogits = "none",
        **generate_kwargs: Any,
    ) -> Decoded:
        since = time.perf_counter()
        one = self.one_pass(vlm, request)
        return decode_pass(
            vlm, one, settings, since=since, keep_logits=keep_logits, **generate_kwargs
        )

    def decode_many(
        self,
        engine: AbstractEngine,
        requests: Sequence[Request],
        settings: GenerationSettings,
        *,
        keep_logits: KeepLogits = "none",
    ) -> list[Decoded | FocusError]:
        passes = [attempted(self.one_pass, engine.vlm, each) for each in requests]
        return decode_passes(engine, passes, settings, keep_logits=keep_logits)


def decode_passes(
    engine: AbstractEngine,
    passes: Sequence[Pass | FocusError],
    settings: GenerationSettings,
    *,
    keep_logits: KeepLogits = "none",
) -> list[Decoded | FocusError]:
    """Answers many requests together; `Decoded.seconds` is each one's share of the time.

    What an engine cannot do as one request by itself would (the published full batch, another
    family's images, settings of the checkpoint that it does not know) is done so.

    Raises:
        UnsupportedGenerationError: there is something of that kind, and no weights here to do it.
    """
    started = time.perf_counter()
    vlm = engine.vlm
    found: list[Decoded | FocusError | None] = [None] * len(passes)
    prompts: dict[int, BranchedPrompt] = {}
    alone = not engine.supports(settings) or (
        keep_logits == "all" and settings.num_return_sequences > 1
    )
    for i, one in enumerate(passes):
        if isinstance(one, FocusError):
            found[i] = one
            continue
        by_itself = alone or one.prefill == "naive" or one.family is not None
        if not engine.needs_weights and (by_itself or one.flow != "row"):
            raise _needs_weights(engine, one, settings)
        if by_itself:
            found[i] = attempted(decode_pass, vlm, one, settings, keep_logits=keep_logits)
        else:
            prompt = attempted(one.prepare, vlm, seed=settings.seed, keep_logits=keep_logits)
            if isinstance(prompt, FocusError):
                found[i] = prompt
            else:
                prompts[i] = prompt
    answers = engine.generate(list(prompts.values()), settings) if prompts else []
    share = (time.perf_counter() - started) / max(1, len(prompts))
    scores = _scores(engine, [*prompts.values()], answers)
    for (i, prompt), answer, scored in zip(prompts.items(), answers, scores, strict=True):
        if isinstance(answer, FocusError):
            found[i] = answer
        elif isinstance(scored, FocusError):
            found[i] = scored
        else:
            end = vlm.model.generation_config.eos_token_id
            decoded = _decoded(vlm, prompt, settings, answer.tokens, end)
            found[i] = replace(
                decoded,
                branch_logits=answer.branch_logits,
                combined_logits=answer.combined_logits,
                seconds=share,
                scored=scored,
            )
    return [each for each in found if each is not None]


def _scores(
    engine: AbstractEngine,
    prompts: Sequence[BranchedPrompt],
    answers: Sequence[Generated | FocusError],
) -> list[Scored | FocusError | None]:
    """How likely the candidates of each prompt are; None where none are asked for."""
    # An answer that was given up has no token: other rows will be asked.
    asked = [
        i
        for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
        if prompt.candidates and isinstance(answer, Generated) and answer.tokens[0]
    ]
    wanted = [prompts[i] for i in asked]
    scores = engine.score(wanted, [prompt.candidates for prompt in wanted]) if wanted else []
    known = dict(zip(asked, scores, strict=True))
    return [known.get(i) for i in range(len(prompts))]


def _needs_weights(
    engine: AbstractEngine, one: Pass, settings: GenerationSettings
) -> UnsupportedGenerationError:
    """What a pass asks for that an engine without weights cannot do."""
    if one.prefill == "naive":
        what = "prefill='naive', the published full batch,"
    elif one.flow != "row":
        what = "an image whose keys and values several rows share, or that is hidden from a row,"
    elif one.family is not None:
        what = "any-resolution tiles"
    else:
        chosen = settings.resolved(engine.vlm.model.generation_config)
        what = f"a choice of tokens by {chosen}"
    return UnsupportedGenerationError(
        f"{what} cannot be had of {type(engine).__name__}; use the engine of this process "
        "(engine=local)"
    )


def decode_pass(
    vlm: VisionLanguageModel,
    one: Pass,
    settings: GenerationSettings,
    *,
    since: float | None = None,
    keep_logits: KeepLogits = "none",
    **generate_kwargs: Any,
) -> Decoded:
    """Answers a request through `model.generate`.

    Args:
        since: reading of `time.perf_counter` from which its time is counted; None for now.

    Raises:
        UnsupportedGenerationError: an assistant model, which has no branches, or a setting that
            `settings` or `keep_logits` decides.
    """
    _check_kwargs(generate_kwargs)
    since = time.perf_counter() if since is None else since
    branches = one.prepare(vlm, seed=settings.seed, keep_logits=keep_logits)
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
        **_generate_kwargs(settings, generate_kwargs),
    )
    new_tokens = tuple(
        tuple(tokens[:count])
        for tokens, count in zip(
            output.sequences[:, input_ids.shape[1] :].tolist(),
            output.num_new_tokens.tolist(),
            strict=True,
        )
    )
    end = generate_kwargs.get("eos_token_id", vlm.model.generation_config.eos_token_id)
    decoded = replace(
        _decoded(vlm, branches, settings, new_tokens, end),
        branch_logits=output.branch_logits or (),
        combined_logits=output.combined_logits or (),
        seconds=time.perf_counter() - since,
    )
    alone = LocalEngine(replace(vlm, family=branches.family))
    (scored,) = _scores(alone, [branches], [Generated(new_tokens)])
    if isinstance(scored, FocusError):
        raise scored
    return replace(decoded, scored=scored)


def _decoded(
    vlm: VisionLanguageModel,
    branches: BranchedPrompt,
    settings: GenerationSettings,
    new_tokens: tuple[tuple[int, ...], ...],
    end: int | list[int] | None,
) -> Decoded:
    """What the new tokens of a prompt come to."""
    ends = end if isinstance(end, list) else [end]
    noise_mean, noise_std = _noise_level(vlm, branches)
    return Decoded(
        texts=tuple(
            text.strip()
            for text in vlm.processor.batch_decode(new_tokens, skip_special_tokens=True)
        ),
        token_ids=new_tokens,
        row_labels=branches.plan.labels,
        num_rows=len(branches.plan.rows),
        num_encoded=_num_encoded(branches),
        prompt_tokens=branches.prompt.input_ids.shape[1],
        image_tokens=tuple(end - start for start, end in branches.prompt.spans),
        seconds=0.0,
        truncated=tuple(
            len(tokens) == settings.max_new_tokens and tokens[-1] not in ends
            for tokens in new_tokens
        ),
        noise_mean=noise_mean,
        noise_std=noise_std,
    )


def _noise_level(
    vlm: VisionLanguageModel, branches: BranchedPrompt
) -> tuple[float, float] | tuple[None, None]:
    """Mean and deviation of pure noise where it enters the vision tower, in grey levels."""
    noise = [inputs for content, inputs in branches.images.items() if content.kind == "noise"]
    if not noise:
        return None, None
    moments = [vlm.family.grey_moments(vlm.processor, inputs) for inputs in noise]
    means, variances = zip(*moments, strict=True)
    return round(fmean(means), 2), round(math.sqrt(fmean(variances)), 2)


def _generate_kwargs(settings: GenerationSettings, given: Mapping[str, Any]) -> dict[str, Any]:
    known = settings.generate_kwargs()
    if "min_new_tokens" in given:  # beside it even a `min_length` of 0 raises a warning
        known.pop("min_length", None)
    return known | dict(given)


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
    return clean_plan(num_images), only_row


def only_row(logits: Tensor) -> Tensor:
    """``[1, sequences, vocab]`` to ``[sequences, vocab]``."""
    return logits[0]


def _num_encoded(branches: BranchedPrompt) -> int:
    if branches.prefill == "naive":
        return sum(len(row) for row in branches.plan.rows)
    return len(branches.contents) - len(branches.features or {})
