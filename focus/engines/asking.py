"""Rows of a prompt as requests, and what servers answer as log-probabilities.

There are two ways to have those of a whole vocabulary. As one array of numbers: vLLM scores any
tokens as continuations of any place in a prompt (``prompt_logprob_token_ids``), here all of them
behind the prompt proper, which a filler follows, since behind its last token nothing is scored.
Servers with the older of vLLM's two model runners refuse that, and are asked for a list with an
object for each token (``logprobs: -1``), which costs them some sixty times as much.
"""

from __future__ import annotations

import asyncio
import base64
import io
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from cachetools import LRUCache
from torch import Tensor

from focus.engines.serving import Connection
from focus.errors import ContextLengthError, ServingError, UnsupportedGenerationError
from focus.generate import BranchedPrompt
from focus.models.base import ImageInputs
from focus.models.loading import VisionLanguageModel

log = logging.getLogger(__name__)

#: Bytes of images that are kept in the form in which they are sent.
SENT_BYTES = 2**28
#: What vLLM writes for minus infinity and for NaN, which JSON does not have.
NOTHING = -9999.0


class RowAsker:
    """Puts the rows of prompts into words that servers understand.

    Args:
        vlm: made the prompts.
    """

    def __init__(self, vlm: VisionLanguageModel) -> None:
        self._vlm = vlm
        self._vocabulary = int(vlm.model.config.get_text_config().vocab_size)
        self._sent: LRUCache = LRUCache(maxsize=SENT_BYTES, getsizeof=len)
        self._arrays: bool | None = None  # None until a server was asked

    async def find_out(self, connection: Connection) -> None:
        """Learns whether servers give arrays, from two tokens without an image.

        One that refuses a prompt has already noted its images as known, and fails on them when they
        are shown again (vLLM 0.32: "Multi-modal cache miss").
        """
        if self._arrays is None:
            self._arrays = True
            ids = [int(self._vlm.processor.tokenizer.eos_token_id or 0)] * 2
            asked = {"prompt_logprob_token_ids": [[0]], "prompt_logprob_start": 0}
            try:
                await connection.post(0, _body(ids, [], **asked))
            except ServingError as error:
                self._refused(error)

    def _refused(self, error: ServingError) -> None:
        """Goes on without arrays, if it is they that were refused.

        Raises:
            ServingError: it was something else.
        """
        if "prompt_logprob_token_ids" not in str(error):
            raise error
        if self._arrays:
            log.warning("no arrays of log-probabilities, which makes answers slow: %s", error)
        self._arrays = False

    async def rows(
        self, connection: Connection, i: int, prompt: BranchedPrompt, told: Sequence[int]
    ) -> Tensor:
        """Log-probabilities ``[rows, vocab]`` of what follows a prompt and some tokens.

        Raises:
            ServingError: see `Connection.post`; or the answer is about other tokens, or incomplete.
            ContextLengthError: the prompt is too long for the servers.
            UnsupportedGenerationError: an image of several tiles.
        """
        ids = [*prompt.prompt.input_ids[0].tolist(), *told]
        sent = [*self._sent_ids(prompt), *told]

        async def one(images: Sequence[ImageInputs]) -> Tensor:
            parts = [{"type": "image_url", "url": self._data_url(image)} for image in images]
            values = await self._array(connection, i, sent, parts, ids) if self._arrays else None
            if values is None:
                answer = await connection.post(i, _body(sent, parts, logprobs=-1))
                values = self._listed(answer, ids)
            # Where nothing is possible, the row was not finite.
            return values if bool((values > NOTHING).any()) else torch.full_like(values, torch.nan)

        shown = [[prompt.images[content] for content in row] for row in prompt.plan.rows]
        return torch.stack(await asyncio.gather(*(one(images) for images in shown)))

    async def _array(
        self,
        connection: Connection,
        i: int,
        sent: Sequence[int],
        parts: Sequence[dict[str, str]],
        ids: Sequence[int],
    ) -> Tensor | None:
        """Log-probabilities ``[vocab]`` as an array; None where a server has none."""
        filler = ids[-1]
        # A place that is cached is not scored, in which case it is computed anew.
        for fresh in (False, True):
            asked = {
                "prompt_logprob_token_ids": [[*range(self._vocabulary)]],
                "prompt_logprob_start": len(ids) - 1,
                "skip_reading_prefix_cache": fresh,
            }
            try:
                answer = await connection.post(i, _body([*sent, filler], parts, **asked))
            except ContextLengthError:
                return None  # it may be the filler that is too much
            except ServingError as error:  # another one than that which was asked first
                self._refused(error)
                return None
            _check_read(answer, [*ids, filler])
            found = answer.get("prompt_token_id_logprobs")
            if found is not None:
                (values,) = np.load(io.BytesIO(base64.b64decode(found)), allow_pickle=False)
                return torch.from_numpy(values.astype(np.float32)).clamp(min=NOTHING)
        return None

    def _listed(self, answer: dict[str, Any], ids: Sequence[int]) -> Tensor:
        """Log-probabilities ``[vocab]`` out of an answer that lists them."""
        _check_read(answer, ids)
        content = (answer["choices"][0].get("logprobs") or {}).get("content") or [{}]
        entries = content[0].get("top_logprobs") or []
        values = torch.full((self._vocabulary,), torch.nan)
        values[[entry["token_id"] for entry in entries]] = torch.tensor(
            [float(entry["logprob"]) for entry in entries]
        )
        missing = int(values.isnan().sum())
        if missing:
            raise ServingError(
                f"the server gives log-probabilities of {len(values) - missing} tokens, not of all "
                f"{len(values)} of the vocabulary; start it with --max-logprobs -1"
            )
        return values

    def _sent_ids(self, prompt: BranchedPrompt) -> list[int]:
        """The ids of a prompt with one token per image, which a server widens as its own do."""
        ids = prompt.prompt.input_ids[0].tolist()
        first = [prompt.images[content] for content in prompt.plan.rows[0]]
        sent, used = [], 0
        for (start, end), image in zip(prompt.prompt.spans, first, strict=True):
            placeholder = self._vlm.processor.tokenizer(image.placeholder, add_special_tokens=False)
            before = placeholder["input_ids"].index(ids[start])  # delimiters that widening adds
            after = len(placeholder["input_ids"]) - before - image.num_tokens
            sent += [*ids[used : start - before], ids[start]]
            used = end + after
        return sent + ids[used:]

    def _data_url(self, image: ImageInputs) -> str:
        """An image as the model sees it, as a PNG."""
        if image.key not in self._sent:
            views = self._vlm.family.views(self._vlm.processor, image)
            if len(views) > 1:
                raise UnsupportedGenerationError(
                    f"an image of {len(views)} tiles cannot be sent to a vLLM server, which would "
                    "cut it otherwise; set model.budget=compact (one tile), or use the engine of "
                    "this process (engine=local)"
                )
            file = io.BytesIO()
            views[0].save(file, "PNG", compress_level=1)
            url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
            if len(url) > SENT_BYTES:
                return url
            self._sent[image.key] = url
        return self._sent[image.key]


def _body(
    ids: Sequence[int], parts: Sequence[dict[str, str]], **sampling: object
) -> dict[str, Any]:
    """A request for one token more, behind these ids and images."""
    return {
        "token_ids": ids,
        "content_parts": parts,
        "return_token_ids": True,
        "sampling_params": {"max_tokens": 1, "temperature": 0.0, "detokenize": False, **sampling},
    }


def _check_read(answer: dict[str, Any], ids: Sequence[int]) -> None:
    """Raises `ServingError` unless an answer is about the prompt `ids`."""
    read = answer.get("prompt_token_ids")
    if read != ids:
        saw = "does not say which" if read is None else f"has read {len(read)}"
        raise ServingError(
            f"the server {saw} tokens, of a prompt of {len(ids)}; it must serve the same "
            "checkpoint, with the image budget of its own files or one that includes ours"
        )
