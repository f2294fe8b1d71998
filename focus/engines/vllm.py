"""The engine of servers: vLLM on any number of GPUs and machines, asked row by row over HTTP.

A row of a prompt is a request of its own: token ids and the images of that row. A server's answer
is the log-probability of every token of the vocabulary, which differs from the logits by a constant
per row; a combination of rows that such constants do not change (sum, mean, contrast, routing) is
therefore exact, and one that they change is refused. Every step of a prompt is one round of
requests for all its rows, which servers batch with those of other prompts; what rows and steps have
in common is in their prefix caches.

There is one road: ``/inference/v1/generate``, which takes ids and images together. In
``/v1/chat/completions`` an answer would go back as text, which may be cut into tokens otherwise
than it was said, and ``/v1/completions`` drops images without a word. Images are sent as the model
sees them, resized by our own processor, since vLLM resizes otherwise (0.25 nats); and a server must
say which ids it has read, which are compared with ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any, TypeVar, final

import torch
from torch import Tensor

from focus.engines.asking import RowAsker
from focus.engines.base import AbstractEngine, Candidate, Generated, Keep, Scored, check_score, kept
from focus.engines.choosing import TokenChooser, decidable
from focus.engines.serving import Connection, Servers
from focus.errors import (
    ContextLengthError,
    FocusError,
    InvalidValueError,
    NonFiniteLogitsError,
    PromptError,
    UnsupportedGenerationError,
)
from focus.generate import BranchedPrompt, Combine, check_context, check_finite
from focus.models.loading import VisionLanguageModel
from focus.settings import GenerationSettings

Result = TypeVar("Result")

#: Rows may differ by this much from what constants would leave: rounding in double precision.
INVARIANT = 1e-6
#: What is wrong with one prompt and not with the server.
PROMPT_ERRORS = (ContextLengthError, NonFiniteLogitsError, PromptError)


@final
class VllmEngine(AbstractEngine):
    """See the head of this file.

    `Generated.branch_logits` hold log-probabilities here, and `combined_logits` what they combine
    to; softmax and ranking are those of logits.

    Args:
        vlm: makes the prompts; needs no weights.
        base_url: of one server or of several, which are used in turn, prompt by prompt.
        model: the name under which they serve it.
        batch: prompts at once.
        concurrency, timeout, retries: see `focus.engines.serving.Servers`.

    Raises:
        InvalidValueError: a setting out of range.
        UnsupportedGenerationError: a family whose images a server would see otherwise.
        MissingExtraError: the `openai` client is not installed.
    """

    needs_weights = False

    def __init__(
        self,
        vlm: VisionLanguageModel,
        *,
        base_url: str | Sequence[str],
        model: str,
        batch: int = 64,
        concurrency: int = 128,
        timeout: float = 600.0,
        retries: int = 5,
    ) -> None:
        if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
            raise InvalidValueError("batch", batch, "a positive integer")
        if vlm.family.name == "llava_onevision":
            raise UnsupportedGenerationError(
                "llava_onevision cannot be had of a vLLM server: it cuts several images into tiles "
                "(108 prompt tokens where there are 64 here), so answers would not be comparable; "
                "use the engine of this process (engine=local)"
            )
        self.vlm, self.batch = vlm, batch
        urls = [base_url] if isinstance(base_url, str) else list(base_url)
        self.servers = Servers(
            urls, model, concurrency=concurrency, timeout=timeout, retries=retries
        )
        self._asker = RowAsker(vlm)
        self._invariant: dict[tuple[Combine, int], bool] = {}

    def supports(self, settings: GenerationSettings) -> bool:
        config = self.vlm.model.generation_config
        # A repetition penalty scales logits, so that a constant added to them matters.
        penalised = "repetition_penalty" in settings.resolved(config)
        return decidable(settings, config) and not penalised

    def facts(self) -> dict[str, Any]:
        return {"engine": {"model": self.servers.model, **vars(self.servers.usage)}}

    def generate(
        self, prompts: Sequence[BranchedPrompt], settings: GenerationSettings
    ) -> list[Generated | FocusError]:
        chooser = TokenChooser(settings, self.vlm.model.generation_config, prompts)

        async def answer(connection: Connection, i: int) -> Generated:
            return await self._said(connection, i, prompts[i], chooser)

        return self._together(prompts, answer, new_tokens=settings.max_new_tokens)

    def score(
        self,
        prompts: Sequence[BranchedPrompt],
        candidates: Sequence[Sequence[Candidate]],
        *,
        keep: Keep = "none",
    ) -> list[Scored | FocusError]:
        check_score(prompts, candidates, keep)

        async def answer(connection: Connection, i: int) -> Scored:
            return await self._scored(connection, i, prompts[i], candidates[i], keep)

        longest = max((len(c) for each in candidates for c in each), default=1)
        return self._together(prompts, answer, new_tokens=longest)

    async def _said(
        self, connection: Connection, i: int, prompt: BranchedPrompt, chooser: TokenChooser
    ) -> Generated:
        told: list[list[int]] = [[] for _ in range(chooser.sequences)]
        unfinished = list(range(chooser.sequences))
        steps: list[tuple[Tensor, Tensor]] = []
        for step in count():
            # The sequences of a prompt begin alike.
            asked = [told[s] for s in unfinished] if step else [[]]
            rows = await asyncio.gather(
                *(self._asker.rows(connection, i, prompt, t) for t in asked)
            )
            logits = torch.stack(rows, dim=1).expand(-1, len(unfinished), -1)
            check_finite(logits, prompt.plan, step)
            combined = prompt.combine(logits)
            if prompt.keep_logits == "all" or (prompt.keep_logits == "first" and step == 0):
                steps.append((logits.clone(), combined))
            if step == 0 and prompt.give_up is not None and prompt.give_up(combined[0]):
                break
            lanes = [(i, s) for s in unfinished]
            tokens = chooser.choose(combined, lanes, [told[s] for s in unfinished])
            for s, token in zip(unfinished, tokens, strict=True):
                told[s].append(token)
            unfinished = [s for s in unfinished if not chooser.ended(told[s])]
            if not unfinished:
                break
        return Generated(
            tuple(map(tuple, told)), tuple(rows for rows, _ in steps), tuple(c for _, c in steps)
        )

    async def _scored(
        self,
        connection: Connection,
        i: int,
        prompt: BranchedPrompt,
        candidates: Sequence[Candidate],
        keep: Keep,
    ) -> Scored:
        """What follows every beginning of a candidate is known beforehand, and asked together."""
        begun = {c[:n] for c in candidates for n in range(len(c))}
        rows = await asyncio.gather(*(self._asker.rows(connection, i, prompt, b) for b in begun))
        after = dict(zip(begun, rows, strict=True))
        whole = {}
        for beginning, logits in after.items():
            check_finite(logits[:, None], prompt.plan, len(beginning))
            whole[beginning] = prompt.combine(logits[:, None])[0].log_softmax(dim=-1)
        combined = [torch.stack([whole[c[:n]][c[n]] for n in range(len(c))]).sum()
                    for c in candidates]  # fmt: skip
        told = [torch.stack([after[c[:n]][:, c[n]] for n in range(len(c))], dim=1)
                for c in candidates]  # fmt: skip
        return Scored(torch.stack(combined), tuple(told), *kept(after[()], keep))

    def _together(
        self,
        prompts: Sequence[BranchedPrompt],
        answer: Callable[[Connection, int], Awaitable[Result]],
        *,
        new_tokens: int,
    ) -> list[Result | FocusError]:
        """Answers of all prompts, or what is wrong with one of them."""
        for prompt in prompts:
            self._check_combination(prompt)

        async def attempted(connection: Connection, i: int) -> Result | FocusError:
            try:
                check_context(self.vlm.model, prompts[i], new_tokens)
                return await answer(connection, i)
            except PROMPT_ERRORS as error:
                return error

        async def everything() -> list[Result | FocusError]:
            async with self.servers.connected() as connection:
                await self._asker.find_out(connection)
                places = range(len(prompts))
                return await asyncio.gather(*(attempted(connection, i) for i in places))

        return _run(everything())

    def _check_combination(self, prompt: BranchedPrompt) -> None:
        """Raises `UnsupportedGenerationError` where constants added to rows change the choice."""
        key = prompt.combine, len(prompt.plan.rows)
        if key not in self._invariant:
            self._invariant[key] = invariant(*key)
        if not self._invariant[key]:
            raise UnsupportedGenerationError(
                f"{prompt.combine} compares the logits of different rows, of which a server gives "
                "log-probabilities only: they differ by a constant for each row; use the engine of "
                "this process (engine=local)"
            )


def invariant(combine: Combine, num_rows: int) -> bool:
    """Whether a combination gives the same distribution when a constant is added to each row."""
    random = torch.Generator().manual_seed(0)
    shape = (num_rows, 3, 64)
    logits = 4 * torch.randn(shape, generator=random, dtype=torch.float64)
    shifts = 9 * torch.randn(num_rows, 3, 1, generator=random, dtype=torch.float64)
    before, after = (combine(each).log_softmax(dim=-1) for each in (logits, logits + shifts))
    return torch.allclose(before, after, rtol=0, atol=INVARIANT)


def _run(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """The result of a coroutine, also where a loop is running already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()
