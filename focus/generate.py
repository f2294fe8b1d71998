"""Decoding over branches, as a callable for `model.generate(custom_generate=...)`.

One loop serves every strategy: each step, the logits of all rows are combined into one
distribution, ONE token is chosen from it per returned sequence, and that token is appended to
every row; one stop decision ends them all. `transformers` is used, never patched.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation import GenerateDecoderOnlyOutput, GenerationMode

from focus.branches import BranchPlan, Content, Kind, Row
from focus.checks import Positive, check
from focus.composed import ComposedRow, ComposedRows, Flow, Run, RunStates, isolated_run, kept_run
from focus.errors import (
    ContextLengthError,
    NonFiniteLogitsError,
    PromptError,
    UnsupportedGenerationError,
)
from focus.memory import memory_errors
from focus.models.base import AbstractFamily, ImageFeatures, ImageInputs, encode_in_calls
from focus.prefill import AbstractRows, NaiveRows, PromptRow, SharedPrefixRows
from focus.prompts import Prompt
from focus.randomness import key_to_seed

#: [rows, sequences, vocab] -> [sequences, vocab]
Combine = Callable[[Tensor], Tensor]
KeepLogits = Literal["none", "first", "all"]


@dataclass(frozen=True)
class BranchedPrompt:
    """Everything about one prompt that `decode_branches` needs beside the model.

    Args:
        prompt: ids, spans and positions, the same for every row.
        plan: what stands in each image slot of each row.
        images: pixels of every content in `plan`.
        family: the model's family.
        combine: logits of the rows, ``[rows, sequences, vocab]``, to ``[sequences, vocab]``.
        prefill: ``shared`` computes common prefixes once; ``naive`` is the published scheme.
        encode_batch: images per call of the vision tower; lower it to save memory.
        features: already encoded contents, if any (noise that is shared by a whole run).
        keep_logits: steps whose per-row logits are returned.
        give_up: from the combined logits ``[vocab]`` of the first step: whether to end there,
            before anything is chosen.
        flow: where keys and values of images come from: the ``row``, or see `focus.composed`.
        layers: decoder layers in which hidden images are hidden; None for all.
        known: keys and values of images that earlier prompts have left.
        sampling_key: what the sampling draws depend on, see `focus.randomness`.
        candidates: tokens of answers whose likelihood an engine is asked for besides.
    """

    prompt: Prompt
    plan: BranchPlan
    images: Mapping[Content, ImageInputs]
    family: AbstractFamily
    combine: Combine
    prefill: Literal["shared", "naive"] = "shared"
    encode_batch: int = 8
    features: Mapping[Content, ImageFeatures] | None = None
    keep_logits: KeepLogits = "none"
    give_up: Callable[[Tensor], bool] | None = None
    flow: Flow = "row"
    layers: tuple[int, ...] | None = None
    known: MutableMapping[Hashable, RunStates] = field(default_factory=dict)
    sampling_key: tuple[str | int, ...] = (0,)
    candidates: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        check("prefill", self.prefill, Literal["shared", "naive"])
        check("keep_logits", self.keep_logits, KeepLogits)
        check("encode_batch", self.encode_batch, Positive)

    @property
    def contents(self) -> tuple[Content, ...]:
        """Every image that goes through the vision tower."""
        return shown_contents(self.plan, self.flow)

    def composed_rows(self) -> list[ComposedRow]:
        """The rows where `flow` is not that of the row."""
        sources = self._sources()
        return [
            ComposedRow(
                self.prompt,
                tuple(sources[each] for each in self._in_slots(row)),
                tuple(content.kind == "hidden" for content in row),
            )
            for row in self.plan.rows
        ]

    def _in_slots(self, row: Row) -> list[tuple[Content, bool]]:
        """What a row shows in each slot, and whether it is noise that has seen other than noise."""
        behind = behind_clean(row) if self.flow in SEEN else [False] * len(row)
        return [(_shown(content), apart) for content, apart in zip(row, behind, strict=True)]

    def _sources(self) -> dict[tuple[Content, bool], tuple[Run, int]]:
        """Of every image that a row shows: the run that leaves it, and its place there."""
        needed = dict.fromkeys(each for row in self.plan.rows for each in self._in_slots(row))
        shown = dict.fromkeys(content for content, _ in needed)
        if self.flow == "isolated":
            runs = {c: isolated_run(self.prompt, c.slot, self.images[c].key) for c in shown}
            return {(content, False): (run, 0) for content, run in runs.items()}
        behind = [content for content, apart in needed if apart]
        beside = [(content.slot, self.images[content].key) for content in behind]
        seen = SEEN.get(self.flow)
        kinds = [content.kind for content in shown] + ([seen] if seen and behind else [])
        number = len(self.prompt.spans)
        kept = {
            kind: kept_run(
                self.prompt,
                [self.images[Content(slot, kind)].key for slot in range(number)],
                beside if kind == seen else (),
            )
            for kind in dict.fromkeys(kinds)
        }
        found = {(content, False): (kept[content.kind], content.slot) for content in shown}
        if seen is not None:
            found |= {(c, True): (kept[seen], number + k) for k, c in enumerate(behind)}
        return found


#: What noise behind a clean image has seen instead of noise, by flow.
SEEN: dict[Flow, Kind] = {"crossed": "clean", "stand_in": "stand-in"}


def behind_clean(row: Row) -> list[bool]:
    """Whether each image of a row is noise that stands behind a clean image."""
    clean = [content.kind == "clean" for content in row]
    return [not own and any(clean[:k]) for k, own in enumerate(clean)]


def shown_contents(plan: BranchPlan, flow: Flow) -> tuple[Content, ...]:
    """Every image that the rows of a plan show, or that must run beside those; rows that share
    images have one draw of noise."""
    if flow == "row":
        return plan.contents
    shown = dict.fromkeys(_shown(content) for content in plan.contents)
    if flow == "isolated":
        return tuple(shown)
    kinds = [content.kind for content in shown]
    if flow in SEEN and any(any(behind_clean(row)) for row in plan.rows):
        kinds.append(SEEN[flow])
    number = len(plan.rows[0])
    every = (Content(slot, kind) for kind in dict.fromkeys(kinds) for slot in range(number))
    return tuple(shown | dict.fromkeys(every))


def _shown(content: Content) -> Content:
    """What the vision tower sees of it: a hidden image is hidden from the text alone."""
    return Content(content.slot, "clean") if content.kind == "hidden" else content


@dataclass
class BranchedOutput(GenerateDecoderOnlyOutput):
    """What `generate` returns with ``return_dict_in_generate=True``.

    Args:
        branch_logits: per kept step ``[rows, sequences, vocab]``, in the order of the plan's rows,
            before combination and before any logits processor.
        combined_logits: per kept step ``[sequences, vocab]``, combined, before any processor.
        num_new_tokens: ``[sequences]``, tokens that each sequence has before its padding.
    """

    branch_logits: tuple[Tensor, ...] | None = None
    combined_logits: tuple[Tensor, ...] | None = None
    num_new_tokens: Tensor | None = None


def decode_branches(
    model: PreTrainedModel,
    input_ids: Tensor,
    logits_processor: Callable[[Tensor, Tensor], Tensor],
    stopping_criteria: Callable[[Tensor, Tensor], Tensor],
    generation_config: GenerationConfig,
    branches: BranchedPrompt,
    streamer: Any = None,
    **model_kwargs: Any,
) -> Tensor | BranchedOutput:
    """Generates from several rows at once (arXiv 2508.13744, with one shared choice per step).

    Use it as ``model.generate(input_ids=..., branches=..., custom_generate=decode_branches)``.
    `generate` does not hand a `streamer` on to callables: bind it with
    ``functools.partial(decode_branches, streamer=...)``.

    Args:
        input_ids: ``[sequences, length]``, the ids of `branches.prompt` for each returned sequence.
        branches: the prompt with its rows, from `focus.decoding.preparing.prepare`.

    Returns:
        ``[sequences, length + new]`` token ids, or a `BranchedOutput`.

    Raises:
        UnsupportedGenerationError: beams, assisted decoding, several prompts in one batch, padding,
            guidance, a static cache, a cache or pixels from outside, attentions, hidden states.
        PromptError: `input_ids` are not those of `branches.prompt`.
        ContextLengthError: the prompt does not fit into the context of the model.
        NonFiniteLogitsError: a row produced NaN or infinity.
        BranchMemoryError: out of memory.
    """
    _check_supported(generation_config, model_kwargs)
    if len(input_ids) != generation_config.num_return_sequences:
        raise UnsupportedGenerationError(
            f"a batch of several prompts (input_ids of shape {list(input_ids.shape)}) is not "
            "supported: the branches of one prompt fill the batch; call generate once per prompt"
        )
    _check_prompt(model, input_ids, branches, generation_config)
    rows = _build_rows(model, branches)
    sequences, prompt_length = input_ids, input_ids.shape[1]
    unfinished = torch.ones(len(sequences), dtype=torch.bool, device=sequences.device)
    num_new_tokens = torch.zeros(len(sequences), dtype=torch.long, device=sequences.device)
    random = torch.Generator(device=sequences.device)
    random.manual_seed(key_to_seed(*branches.sampling_key, "sampling") % 2**63)
    pad = _pad_token(generation_config)
    kept: list[tuple[Tensor, Tensor]] = []
    all_scores: list[Tensor] = []
    all_logits: list[Tensor] = []

    number = (len(branches.plan.rows), len(sequences))
    with memory_errors(branches, len(sequences)):
        logits = rows.prefill()[:, None].expand(-1, len(sequences), -1)
        if len(sequences) > 1:
            rows.select([row for row in range(number[0]) for _ in sequences])
    while True:
        step = sequences.shape[1] - prompt_length
        check_finite(logits, branches.plan, step)
        keep = branches.keep_logits == "all" or (branches.keep_logits == "first" and step == 0)
        # Combined before the processors: after them, two rows masked to -inf would subtract to NaN.
        combined = branches.combine(logits)
        if keep:
            kept.append((logits.clone(), combined))
        if step == 0 and branches.give_up is not None and branches.give_up(combined[0]):
            streamer = None  # there may yet be an answer, from other rows
            break
        # A copy, since a processor may write into what it is given.
        scores = logits_processor(sequences, combined.clone())
        if generation_config.output_logits:
            all_logits.append(combined)
        if generation_config.output_scores:
            all_scores.append(scores)
        tokens = _choose(scores, generation_config.do_sample, random)
        tokens = tokens.where(unfinished, pad) if pad is not None else tokens
        sequences = torch.cat([sequences, tokens[:, None]], dim=1)
        if streamer is not None:
            streamer.put(tokens.cpu())
        num_new_tokens += unfinished
        unfinished = unfinished & ~stopping_criteria(sequences, scores)
        if not unfinished.any():
            break
        with memory_errors(branches, len(sequences)):
            logits = rows.step(tokens.repeat(number[0])).unflatten(0, number)

    if streamer is not None:
        streamer.end()
    if not generation_config.return_dict_in_generate:
        return sequences
    return BranchedOutput(
        sequences=sequences,
        scores=tuple(all_scores) or None,
        logits=tuple(all_logits) or None,
        branch_logits=tuple(rows for rows, _ in kept) or None,
        combined_logits=tuple(combined for _, combined in kept) or None,
        num_new_tokens=num_new_tokens,
    )


def encode_contents(
    model: PreTrainedModel, branches: BranchedPrompt
) -> dict[Content, ImageFeatures]:
    """Features of every image of the rows, at most `encode_batch` images per call."""
    features = dict(branches.features or {})
    missing = [content for content in branches.contents if content not in features]
    images = [branches.images[content] for content in missing]
    encoded = encode_in_calls(branches.family, model, images, at_once=branches.encode_batch)
    return features | dict(zip(missing, encoded, strict=True))


def _build_rows(model: PreTrainedModel, branches: BranchedPrompt) -> AbstractRows:
    prompt, rows, family = branches.prompt, branches.plan.rows, branches.family
    if branches.prefill == "naive":
        return NaiveRows(model, family, prompt, rows, branches.images)
    with memory_errors(branches, 1):
        features = encode_contents(model, branches)
    if branches.flow != "row":
        by_key = {branches.images[content].key: each for content, each in features.items()}
        return ComposedRows(
            model, family, branches.composed_rows(), by_key,
            known=branches.known, layers=branches.layers,
        )  # fmt: skip
    return SharedPrefixRows(model, family, [PromptRow(prompt, row) for row in rows], features)


def _choose(scores: Tensor, do_sample: bool, random: torch.Generator) -> Tensor:
    if not do_sample:
        return scores.argmax(dim=-1)
    return torch.multinomial(scores.softmax(dim=-1), 1, generator=random)[:, 0]


def _pad_token(config: GenerationConfig) -> int | None:
    """What a finished sequence is filled up with while others go on."""
    if config.pad_token_id is not None:
        return config.pad_token_id
    end = config.eos_token_id
    return end[0] if isinstance(end, list) else end


def _check_supported(config: GenerationConfig, model_kwargs: Mapping[str, Any]) -> None:
    """Settings that would be ignored or would mix the branches are refused, not ignored."""
    if config.num_beams and config.num_beams > 1:
        raise UnsupportedGenerationError(
            f"num_beams={config.num_beams} is not supported: beams of several branches have no "
            "common score; use num_beams=1 with do_sample and num_return_sequences"
        )
    if config.penalty_alpha:  # without top_k it would not even change the mode
        raise UnsupportedGenerationError(
            f"penalty_alpha={config.penalty_alpha} is not supported: contrastive search compares "
            "the hidden states of one row; use greedy search or sampling"
        )
    mode = config.get_generation_mode()
    if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
        raise UnsupportedGenerationError(
            f"generation mode {mode.value!r} is not supported; use greedy search or sampling"
        )
    if config.guidance_scale not in (None, 1):
        raise UnsupportedGenerationError(
            f"guidance_scale={config.guidance_scale} is not supported: its extra forward pass sees "
            "no images; use the contrast weight alpha"
        )
    if config.cache_implementation not in (None, "dynamic"):
        raise UnsupportedGenerationError(
            f"cache_implementation={config.cache_implementation!r} is not supported: rows are "
            "duplicated during the prefill, which needs the dynamic cache"
        )
    cache = model_kwargs.get("past_key_values")
    if config.use_cache is False or (cache is not None and cache.get_seq_length() > 0):
        raise UnsupportedGenerationError(
            "use_cache=False and a filled past_key_values are not supported: the rows of a prompt "
            "keep a cache of their own"
        )
    if model_kwargs.get("mm_encoder_outputs") or model_kwargs.get("pixel_values") is not None:
        raise UnsupportedGenerationError(
            "pixel_values are not supported beside branches, which carry the images of every row; "
            "pass input_ids only"
        )
    for name in ("output_attentions", "output_hidden_states"):
        if getattr(config, name):
            raise UnsupportedGenerationError(f"{name}=True is not supported with several branches")
    mask = model_kwargs.get("attention_mask")
    if mask is not None and not bool(mask.all()):  # `generate` may hand on one that hides nothing
        raise UnsupportedGenerationError(
            "a padded batch is not supported: the branches of one prompt fill the batch; call "
            "generate once per prompt"
        )


def _check_prompt(
    model: PreTrainedModel,
    input_ids: Tensor,
    branches: BranchedPrompt,
    config: GenerationConfig,
) -> None:
    expected = branches.prompt.input_ids
    if input_ids.shape[1] != expected.shape[1] or not (input_ids == expected).all():
        raise PromptError(
            f"input_ids of shape {list(input_ids.shape)} are not the prompt that the branches were "
            f"prepared for (length {expected.shape[1]}); one prompt per call, prepared together"
        )
    check_context(model, branches, (config.max_length or expected.shape[1]) - expected.shape[1])


def check_context(model: PreTrainedModel, branches: BranchedPrompt, new_tokens: int) -> None:
    """Raises `ContextLengthError` where prompt and new tokens do not fit into the context."""
    context = branches.family.context_length(model)
    length = branches.prompt.input_ids.shape[1]
    if length >= context:
        per_image = [end - start for start, end in branches.prompt.spans]
        raise ContextLengthError(
            f"the prompt has {length} tokens, {sum(per_image)} of them for {len(per_image)} images "
            f"({per_image}), but the model's context holds {context}; use fewer images or a "
            "smaller image budget"
        )
    if length + new_tokens > context:
        raise ContextLengthError(
            f"the prompt has {length} tokens and up to {new_tokens} new ones were asked for, "
            f"but the model's context holds {context}; lower max_new_tokens to at most "
            f"{context - length}, use fewer images or a smaller image budget"
        )


def check_finite(logits: Tensor, plan: BranchPlan, step: int) -> None:
    """Raises `NonFiniteLogitsError` that names the rows of ``[rows, sequences, vocab]``."""
    finite = torch.isfinite(logits).flatten(1).all(dim=1)
    if not finite.all():
        bad = [label for label, ok in zip(plan.labels, finite.tolist(), strict=True) if not ok]
        raise NonFiniteLogitsError(
            f"non-finite logits at step {step} in: {', '.join(bad)}; check the weights and the "
            "dtype (bfloat16 or float32 where float16 overflows)"
        )
