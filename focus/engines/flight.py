"""A batch of prompts on its way: the rows of all, combined prompt by prompt, token by token."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from focus.composed import ComposedRows
from focus.engines.base import Candidate, Generated, Keep, Scored, kept
from focus.engines.choosing import TokenChooser
from focus.errors import FocusError, NonFiniteLogitsError
from focus.generate import BranchedPrompt, check_finite
from focus.models.base import ImageFeatures
from focus.models.loading import VisionLanguageModel
from focus.prefill import AbstractRows, PromptRow, SharedPrefixRows


@dataclass
class Lane:
    """One sequence of one prompt: that which gets one token per step, in all rows of the prompt.

    Args:
        prompt: which one.
        sequence: the how manyeth of the prompt's sequences.
        rows: how many the prompt has.
        tokens: new ones so far.
    """

    prompt: int
    sequence: int
    rows: int
    tokens: list[int] = field(default_factory=list)


class Flight:
    """Prompts whose images fill the same places and flow in the same way.

    Args:
        vlm: the model.
        prompts: what is asked.
        features: of every image of theirs, by `ImageInputs.key`.
        most_tokens, cut: see `SharedPrefixRows`.
    """

    def __init__(
        self,
        vlm: VisionLanguageModel,
        prompts: Sequence[BranchedPrompt],
        features: Mapping[str, ImageFeatures],
        *,
        most_tokens: int | None = None,
        cut: bool = True,
    ) -> None:
        self._prompts = tuple(prompts)
        self._device = prompts[0].prompt.input_ids.device
        first = self._prompts[0]
        self._rows: AbstractRows
        if first.flow == "row":
            rows = [
                PromptRow(prompt.prompt, tuple(prompt.images[content].key for content in row))
                for prompt in self._prompts
                for row in prompt.plan.rows
            ]
            self._rows = SharedPrefixRows(
                vlm.model, vlm.family, rows, features, most_tokens=most_tokens, cut=cut
            )
        else:
            composed = [row for prompt in self._prompts for row in prompt.composed_rows()]
            self._rows = ComposedRows(
                vlm.model, vlm.family, composed, features,
                known=first.known, layers=first.layers, most_tokens=most_tokens,
            )  # fmt: skip

    def generate(self, chooser: TokenChooser) -> list[Generated | FocusError]:
        """Answers of all prompts, in their order."""
        lanes, logits = self._lanes(chooser.sequences)
        done: dict[tuple[int, int], tuple[int, ...]] = {}
        errors: dict[int, FocusError] = {}
        kept: list[list[tuple[Tensor, Tensor]]] = [[] for _ in self._prompts]
        step = 0
        while lanes:
            errors |= self._non_finite(lanes, logits, step)
            lanes, logits = self._without(lanes, logits, errors)
            if not lanes:
                break
            combined = self._combined(lanes, logits)
            self._keep(lanes, logits, combined, kept, step)
            if step == 0 and (over := self._given_up(lanes, combined)):
                done |= {(lane.prompt, lane.sequence): () for lane in lanes if lane.prompt in over}
                left = [lane.prompt in over for lane in lanes]
                combined = combined[[i for i, gone in enumerate(left) if not gone]]
                lanes = self._select(lanes, left)
                if not lanes:
                    break
            places = [(lane.prompt, lane.sequence) for lane in lanes]
            tokens = chooser.choose(combined, places, [lane.tokens for lane in lanes])
            for lane, token in zip(lanes, tokens, strict=True):
                lane.tokens.append(token)
            ended = [chooser.ended(lane.tokens) for lane in lanes]
            for lane, last in zip(lanes, ended, strict=True):
                if last:
                    done[lane.prompt, lane.sequence] = tuple(lane.tokens)
            lanes = self._select(lanes, ended)
            if lanes:
                logits = self._step(lanes, [lane.tokens[-1] for lane in lanes])
            step += 1
        return [
            errors[i] if i in errors else Generated(
                tuple(done[i, s] for s in range(chooser.sequences)),
                tuple(rows for rows, _ in kept[i]), tuple(whole for _, whole in kept[i]))
            for i in range(len(self._prompts))
        ]  # fmt: skip

    def score(
        self, candidates: Sequence[Sequence[Candidate]], *, keep: Keep = "none"
    ) -> list[Scored | FocusError]:
        """Log-probabilities of the candidates of each prompt, in their order.

        The first tokens come from the one prefill; a candidate of several tokens then goes on by
        itself, behind keys and values that all candidates of its prompt read.
        """
        lanes, logits = self._lanes(1)
        errors = self._non_finite(lanes, logits, 0)
        combined = self._combined(lanes, logits).log_softmax(dim=-1)
        branches = [part.log_softmax(dim=-1) for part in logits.split([b.rows for b in lanes])]
        totals = [[combined[i, c[0]] for c in each] for i, each in enumerate(candidates)]
        told = [[[branches[i][:, c[0]]] for c in each] for i, each in enumerate(candidates)]
        firsts = [kept(each, keep) for each in branches]

        longer = [(i, j) for i, each in enumerate(candidates) for j, c in enumerate(each)
                  if len(c) > 1 and i not in errors]  # fmt: skip
        starts = torch.tensor([0, *(lane.rows for lane in lanes)]).cumsum(0).tolist()
        if longer:
            rows = [starts[i] + r for i, _ in longer for r in range(lanes[i].rows)]
            self._rows.select(rows)
        lanes = [Lane(i, j, lanes[i].rows, [candidates[i][j][0]]) for i, j in longer]
        while lanes:
            logits = self._step(lanes, [lane.tokens[-1] for lane in lanes])
            errors |= self._non_finite(lanes, logits, len(lanes[0].tokens))
            whole = self._combined(lanes, logits).log_softmax(dim=-1)
            parts = logits.split([lane.rows for lane in lanes])
            for lane, row, part in zip(lanes, whole, parts, strict=True):
                i, j = lane.prompt, lane.sequence
                token = candidates[i][j][len(lane.tokens)]
                totals[i][j] = totals[i][j] + row[token]
                told[i][j].append(part.log_softmax(dim=-1)[:, token])
                lane.tokens.append(token)
            over = [len(lane.tokens) == len(candidates[lane.prompt][lane.sequence])
                    for lane in lanes]  # fmt: skip
            lanes = self._select(lanes, over)
        return [
            errors[i] if i in errors else Scored(
                torch.stack(totals[i]), tuple(torch.stack(each, dim=1) for each in told[i]),
                *firsts[i])
            for i in range(len(self._prompts))
        ]  # fmt: skip

    def _lanes(self, sequences: int) -> tuple[list[Lane], Tensor]:
        """The sequences of all prompts behind their prefill, and the logits of their rows."""
        logits = self._rows.prefill()
        lanes = [
            Lane(i, s, len(prompt.plan.rows))
            for i, prompt in enumerate(self._prompts)
            for s in range(sequences)
        ]
        if sequences > 1:
            numbers = [len(prompt.plan.rows) for prompt in self._prompts]
            starts = torch.tensor([0, *numbers]).cumsum(0).tolist()
            rows = [starts[lane.prompt] + r for lane in lanes for r in range(lane.rows)]
            self._rows.select(rows)
            logits = logits[rows]
        return lanes, logits

    def _given_up(self, lanes: Sequence[Lane], combined: Tensor) -> set[int]:
        """Prompts that end at their first step without an answer."""
        over = set()
        for lane, row in zip(lanes, combined, strict=True):
            give_up = self._prompts[lane.prompt].give_up
            if lane.sequence == 0 and give_up is not None and give_up(row):
                over.add(lane.prompt)
        return over

    def _combined(self, lanes: Sequence[Lane], logits: Tensor) -> Tensor:
        """One distribution for each lane, ``[lanes, vocab]``; lanes of one rule in one call."""
        starts = torch.tensor([0, *(lane.rows for lane in lanes)]).cumsum(0).tolist()
        alike: dict[Hashable, list[int]] = {}
        for at, lane in enumerate(lanes):
            alike.setdefault((self._prompts[lane.prompt].combine, lane.rows), []).append(at)
        combined = logits.new_empty(len(lanes), logits.shape[1])
        for places in alike.values():
            first = lanes[places[0]]
            rows = [[starts[at] + r for at in places] for r in range(first.rows)]
            combined[places] = self._prompts[first.prompt].combine(logits[torch.tensor(rows)])
        return combined

    def _step(self, lanes: Sequence[Lane], tokens: Sequence[int]) -> Tensor:
        repeated = [token for lane, token in zip(lanes, tokens, strict=True)
                    for _ in range(lane.rows)]  # fmt: skip
        return self._rows.step(torch.tensor(repeated, device=self._device))

    def _select(self, lanes: Sequence[Lane], over: Sequence[bool]) -> list[Lane]:
        """Those lanes that are not over, and their rows alone in flight."""
        if not any(over):
            return list(lanes)
        if not all(over):
            self._rows.select(_rows_of(lanes, over))
        return [lane for lane, ended in zip(lanes, over, strict=True) if not ended]

    def _without(
        self, lanes: Sequence[Lane], logits: Tensor, errors: Mapping[int, FocusError]
    ) -> tuple[list[Lane], Tensor]:
        failed = [lane.prompt in errors for lane in lanes]
        if not any(failed):
            return list(lanes), logits
        logits = logits[_rows_of(lanes, failed)]
        return self._select(lanes, failed), logits

    def _non_finite(
        self, lanes: Sequence[Lane], logits: Tensor, step: int
    ) -> dict[int, FocusError]:
        """The error of every prompt with a row that went wrong; the others go on."""
        errors: dict[int, FocusError] = {}
        if bool(logits.isfinite().all()):
            return errors
        for lane, part in zip(lanes, logits.split([lane.rows for lane in lanes]), strict=True):
            try:
                check_finite(part[:, None], self._prompts[lane.prompt].plan, step)
            except NonFiniteLogitsError as error:
                errors[lane.prompt] = error
        return errors

    def _keep(
        self,
        lanes: Sequence[Lane],
        logits: Tensor,
        combined: Tensor,
        kept: list[list[tuple[Tensor, Tensor]]],
        step: int,
    ) -> None:
        """Logits of the steps that prompts ask for, ``[rows, sequences, vocab]``."""
        mine: dict[int, list[tuple[Tensor, Tensor]]] = {}
        parts = logits.split([lane.rows for lane in lanes])
        for lane, part, row in zip(lanes, parts, combined, strict=True):
            wanted = self._prompts[lane.prompt].keep_logits
            if wanted == "all" or (wanted == "first" and step == 0):
                mine.setdefault(lane.prompt, []).append((part, row))
        for prompt, found in mine.items():
            rows = torch.stack([part for part, _ in found], dim=1)
            kept[prompt].append((rows, torch.stack([row for _, row in found])))


def _rows_of(lanes: Sequence[Lane], over: Sequence[bool]) -> list[int]:
    """Rows in flight of the lanes that are not over."""
    rows: list[int] = []
    at = 0
    for lane, ended in zip(lanes, over, strict=True):
        rows += [] if ended else range(at, at + lane.rows)
        at += lane.rows
    return rows
