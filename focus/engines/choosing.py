"""The choice of the next token, as `model.generate` makes it, for sequences of many prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from focus.generate import BranchedPrompt
from focus.randomness import key_to_seed
from focus.settings import GenerationSettings

#: What decides tokens here; a checkpoint that asks for more is decoded prompt by prompt.
DECIDED = {
    *("max_new_tokens", "num_return_sequences", "do_sample", "temperature", "top_p", "top_k"),
    *("eos_token_id", "pad_token_id", "repetition_penalty"),
}


def decidable(settings: GenerationSettings, config: GenerationConfig) -> bool:
    """Whether `TokenChooser` knows all that these settings mean for this checkpoint."""
    return settings.resolved(config).keys() <= DECIDED


class TokenChooser:
    """Chooses tokens and says when a sequence ends.

    Args:
        settings: how tokens are chosen.
        config: `model.generation_config`.
        prompts: their ids, and the keys of their draws.
    """

    def __init__(
        self,
        settings: GenerationSettings,
        config: GenerationConfig,
        prompts: Sequence[BranchedPrompt],
    ) -> None:
        values = settings.resolved(config)
        self.sequences = settings.num_return_sequences
        self._longest = settings.max_new_tokens
        ends = values.get("eos_token_id")
        self._ends = {ends} if isinstance(ends, int) else set(ends or ())
        self._processors = _processors(values)
        self._sample = settings.temperature > 0
        self._prompts = prompts
        self._random: dict[int, torch.Generator] = {}

    def choose(self, scores: Tensor, lanes: Sequence[tuple[int, int]],
               told: Sequence[Sequence[int]]) -> list[int]:  # fmt: skip
        """The next token of every sequence.

        Args:
            scores: ``[sequences, vocab]``, combined logits.
            lanes: of which prompt each is, and the how manyeth of its sequences.
            told: new tokens of each so far.
        """
        if self._processors:
            rows = [
                self._processors(self._ids(prompt, so_far, scores.device), row[None].clone())
                for row, (prompt, _), so_far in zip(scores, lanes, told, strict=True)
            ]
            scores = torch.cat(rows)
        if not self._sample:
            tokens: list[int] = scores.argmax(dim=-1).tolist()
            return tokens
        return self._drawn(scores.softmax(dim=-1), lanes)

    def ended(self, tokens: Sequence[int]) -> bool:
        """Whether a sequence with these new tokens is complete."""
        return len(tokens) == self._longest or tokens[-1] in self._ends

    def _ids(self, prompt: int, told: Sequence[int], device: torch.device) -> Tensor:
        ids = self._prompts[prompt].prompt.input_ids.to(device)
        return torch.cat([ids, ids.new_tensor([[*told]])], dim=1) if told else ids

    def _drawn(self, probabilities: Tensor, lanes: Sequence[tuple[int, int]]) -> list[int]:
        """Draws of each prompt for all of its sequences, those that have ended included: a draw
        does not depend on when another sequence ends, nor on who shares the batch."""
        tokens = [0] * len(lanes)
        for prompt in dict.fromkeys(prompt for prompt, _ in lanes):
            mine = [(i, s) for i, (owner, s) in enumerate(lanes) if owner == prompt]
            shape = (self.sequences, probabilities.shape[1])
            weights = probabilities.new_ones(shape)
            weights[[s for _, s in mine]] = probabilities[[i for i, _ in mine]]
            random = self._generator(prompt, probabilities.device)
            drawn = torch.multinomial(weights, 1, generator=random)[:, 0].tolist()
            for i, s in mine:
                tokens[i] = drawn[s]
        return tokens

    def _generator(self, prompt: int, device: torch.device) -> torch.Generator:
        if prompt not in self._random:
            key = self._prompts[prompt].sampling_key
            self._random[prompt] = torch.Generator(device=device)
            self._random[prompt].manual_seed(key_to_seed(*key, "sampling") % 2**63)
        return self._random[prompt]


def _processors(values: dict[str, Any]) -> LogitsProcessorList:
    """In the order in which `generate` applies them."""
    found = LogitsProcessorList()
    if "repetition_penalty" in values:
        found.append(RepetitionPenaltyLogitsProcessor(values["repetition_penalty"]))
    if values.get("do_sample"):
        if values.get("temperature", 1.0) != 1.0:
            found.append(TemperatureLogitsWarper(values["temperature"]))
        if values.get("top_k"):
            found.append(TopKLogitsWarper(values["top_k"]))
        if values.get("top_p", 1.0) < 1.0:
            found.append(TopPLogitsWarper(values["top_p"]))
    return found
