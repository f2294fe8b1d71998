"""The engine of this process: many prompts through one `transformers` model together.

Prompts whose images fill the same places run as one batch of [prompts x rows]. Whatever rows have
in common is computed once (`focus.prefill`), images are encoded once however many prompts show them
(`focus.engines.features`), and a prompt that has come to its end leaves the batch. Results are
those of one prompt at a time, `focus.generate.decode_branches`; in float32 up to rounding.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar, final

import torch
from transformers import PreTrainedModel

from focus.cache import token_bytes
from focus.engines.base import (
    AbstractEngine,
    Candidate,
    Generated,
    Keep,
    Scored,
    check_score,
)
from focus.engines.choosing import TokenChooser, decidable
from focus.engines.features import FeatureStore, free_bytes
from focus.engines.flight import Flight
from focus.errors import FocusError, InvalidValueError
from focus.generate import BranchedPrompt, check_context
from focus.memory import is_out_of_memory, out_of_memory
from focus.models.base import ImageInputs, input_device
from focus.models.loading import VisionLanguageModel
from focus.settings import GenerationSettings

log = logging.getLogger(__name__)

GIBIBYTE = 2**30
#: Share of the free memory of a GPU that one batch may take.
SHARE = 0.6
#: A pass over fewer tokens than these is never cut in two.
FEWEST_TOKENS = 64

Result = TypeVar("Result")


@final
class LocalEngine(AbstractEngine):
    """Batches of prompts in this process.

    Args:
        vlm: the model.
        memory: GiB for one batch's keys, values and logits; None for a share of the free memory of
            a GPU, and 2 elsewhere. What does not fit together runs one after the other; where
            memory runs out all the same, batches are halved, with the same results.
        features: GiB of encoded images to keep, for prompts that show them again.
        batch: prompts in one batch, at most.
        warn: called with a sentence when memory ran out and the engine goes on with less.
    """

    def __init__(
        self,
        vlm: VisionLanguageModel,
        *,
        memory: float | None = None,
        features: float = 0.5,
        batch: int = 32,
        warn: Callable[[str], None] = log.warning,
    ) -> None:
        if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
            raise InvalidValueError("batch", batch, "a positive integer")
        for name, value in (("memory", memory), ("features", features)):
            if value is None and name == "memory":
                continue
            if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
                raise InvalidValueError(name, value, "a positive number of GiB")
        self.vlm, self.batch, self._warn = vlm, batch, warn
        self._memory = None if memory is None else int(memory * GIBIBYTE)
        self.store = FeatureStore(vlm, num_bytes=int(features * GIBIBYTE))
        self._most_tokens: int | None = None  # of one pass, once memory ran out
        self._cut = True

    def whole(self) -> LocalEngine:
        """This engine, but every prompt goes through the model in one piece, and only prompts of
        equal length together: for hooks that know tokens by their place."""
        other = copy.copy(self)
        other._cut = False
        return other

    def supports(self, settings: GenerationSettings) -> bool:
        return decidable(settings, self.vlm.model.generation_config)

    def generate(
        self, prompts: Sequence[BranchedPrompt], settings: GenerationSettings
    ) -> list[Generated | FocusError]:
        config = self.vlm.model.generation_config

        def answer(group: Sequence[BranchedPrompt]) -> list[Generated | FocusError]:
            return self._flight(group).generate(TokenChooser(settings, config, group))

        return self._in_groups(prompts, answer, new_tokens=settings.max_new_tokens,
                               sequences=settings.num_return_sequences)  # fmt: skip

    def score(
        self,
        prompts: Sequence[BranchedPrompt],
        candidates: Sequence[Sequence[Candidate]],
        *,
        keep: Keep = "none",
    ) -> list[Scored | FocusError]:
        check_score(prompts, candidates, keep)
        wanted = {id(prompt): each for prompt, each in zip(prompts, candidates, strict=True)}

        def answer(group: Sequence[BranchedPrompt]) -> list[Scored | FocusError]:
            return self._flight(group).score([wanted[id(prompt)] for prompt in group], keep=keep)

        longest = max((len(c) for each in candidates for c in each), default=1)
        most = max((len(each) for each in candidates), default=1) if longest > 1 else 1
        return self._in_groups(prompts, answer, new_tokens=longest, sequences=most)

    def _flight(self, group: Sequence[BranchedPrompt]) -> Flight:
        features = {
            prompt.images[content].key: each
            for prompt in group
            for content, each in (prompt.features or {}).items()
        }
        images = (image for prompt in group for image in shown_images(prompt))
        features |= self.store.features(
            (image for image in images if image.key not in features),
            encode_batch=min(prompt.encode_batch for prompt in group),
        )
        return Flight(self.vlm, group, features, most_tokens=self._most_tokens, cut=self._cut)

    @torch.no_grad()
    def _in_groups(
        self,
        prompts: Sequence[BranchedPrompt],
        answer: Callable[[Sequence[BranchedPrompt]], list[Result | FocusError]],
        *,
        new_tokens: int,
        sequences: int,
    ) -> list[Result | FocusError]:
        """Answers of all prompts, computed in batches that fit into memory."""
        found: dict[int, Result | FocusError] = {}
        for i, prompt in enumerate(prompts):
            try:
                check_context(self.vlm.model, prompt, new_tokens)
            except FocusError as error:
                found[i] = error
        left = [i for i in range(len(prompts)) if i not in found]
        for group in self._groups(prompts, left, new_tokens, sequences):
            waiting = [group]
            while waiting:
                part = waiting.pop()
                try:
                    answers = answer([prompts[i] for i in part])
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    waiting += self._smaller(prompts, part)
                else:
                    found |= dict(zip(part, answers, strict=True))
        return [found[i] for i in range(len(prompts))]

    def _groups(
        self, prompts: Sequence[BranchedPrompt], left: list[int], new_tokens: int, sequences: int
    ) -> list[list[int]]:
        """Prompts that run together: equal places of images, lengths alike, and room for all."""
        by_layout: dict[Hashable, list[int]] = {}
        for i in left:
            by_layout.setdefault(self._layout(prompts[i]), []).append(i)
        room, cost = self._room(), token_cost(self.vlm.model)
        groups: list[list[int]] = []
        for alike in by_layout.values():
            alike.sort(key=lambda i: prompts[i].prompt.input_ids.shape[1])
            group: list[int] = []
            used = 0
            for i in alike:
                needed = cost.bound(prompts[i], new_tokens, sequences)
                if group and (used + needed > room or len(group) == self.batch):
                    groups.append(group)
                    group, used = [], 0
                group.append(i)
                used += needed
            groups.append(group)
        return groups

    def _layout(self, prompt: BranchedPrompt) -> Hashable:
        alike = prompt.prompt.spans, prompt.flow, prompt.layers
        # Only masks that we can set hide padding in the middle of what is cached.
        implementation = self.vlm.model.config.get_text_config()._attn_implementation
        if self._cut and implementation in ("eager", "sdpa"):
            return alike
        return alike, prompt.prompt.input_ids.shape[1]

    def _room(self) -> int:
        if self._memory is not None:
            return self._memory
        free = free_bytes(input_device(self.vlm.model))
        return 2 * GIBIBYTE if free is None else int(SHARE * free)

    def _smaller(self, prompts: Sequence[BranchedPrompt], part: list[int]) -> list[list[int]]:
        """What to try when memory ran out: half of the prompts, then half of the tokens at once."""
        self.store.clear()
        self.vlm.known_states.clear()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(part) > 1:
            half = len(part) // 2
            self.batch = min(self.batch, max(1, half))
            self._warn(f"out of memory with {len(part)} prompts at once: going on with {half}")
            return [part[half:], part[:half]]
        (alone,) = part
        longest = prompts[alone].prompt.input_ids.shape[1] * len(prompts[alone].plan.rows)
        tokens = (self._most_tokens or longest) // 2
        if tokens < FEWEST_TOKENS or not self._cut:
            raise out_of_memory(prompts[alone], 1)
        self._most_tokens = tokens
        self._warn(f"out of memory with one prompt: going on with {tokens} tokens in a pass")
        return [part]


@dataclass(frozen=True)
class TokenCost:
    """Bytes that a token takes.

    Args:
        cached: keys and values of all layers.
        working: of the layer that is at work: input, projections and the wide part of the MLP.
        logits: float32 ones of the whole vocabulary, with what is made of them.
    """

    cached: int
    working: int
    logits: int

    def bound(self, prompt: BranchedPrompt, new_tokens: int, sequences: int) -> int:
        """What one prompt takes at most: nothing of it shared."""
        rows, length = len(prompt.plan.rows), prompt.prompt.input_ids.shape[1]
        kept = rows * (length + sequences * new_tokens)
        return kept * self.cached + rows * length * self.working + rows * sequences * self.logits


def token_cost(model: PreTrainedModel) -> TokenCost:
    """What a token of a model takes."""
    config = model.config.get_text_config()
    return TokenCost(
        cached=config.num_hidden_layers * token_bytes(model),
        working=model.dtype.itemsize
        * (6 * config.hidden_size + 2 * getattr(config, "intermediate_size", 0)),
        logits=4 * 4 * config.vocab_size,
    )


def shown_images(prompt: BranchedPrompt) -> list[ImageInputs]:
    """Every image of a prompt's rows, as the vision tower takes it."""
    return [prompt.images[content] for content in prompt.contents]
