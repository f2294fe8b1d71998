"""Requests to servers that speak the OpenAI API with vLLM's extensions.

What goes wrong is of two kinds. A server that does not answer (refused connections, time-outs,
429, 500) is asked again by the `openai` client, later and later; when that does not help it is left
out, and what it was asked goes to the others. A server that says no (another model, too few
log-probabilities or images) would do so again: that is an error that says how to start it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from focus.errors import ContextLengthError, FocusError, InvalidValueError, ServingError
from focus.parsing.optional import optional_module

log = logging.getLogger(__name__)

#: Where vLLM takes token ids and images and gives log-probabilities, beside ``/v1``.
ROUTE = "/inference/v1/generate"
#: How a server is started that can all that is asked of it.
START = (
    "vllm serve <model> --enable-scale-out --max-logprobs -1 --limit-mm-per-prompt "
    '\'{"image": 16, "video": 0}\' --enable-prompt-tokens-details'
)


@dataclass
class Usage:
    """What servers were asked so far, in requests and tokens.

    Args:
        requests: that were answered.
        prompt_tokens: of their prompts.
        cached_tokens: how many of those servers had keys and values of; None where one does not
            say (vLLM needs ``--enable-prompt-tokens-details``).
    """

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int | None = 0

    def add(self, usage: dict[str, Any]) -> None:
        """Counts one answer."""
        self.requests += 1
        self.prompt_tokens += usage.get("prompt_tokens", 0)
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
        if cached is None or self.cached_tokens is None:
            self.cached_tokens = None
        else:
            self.cached_tokens += cached


@dataclass
class Servers:
    """Servers of one model.

    Args:
        base_urls: such as ``http://127.0.0.1:8000/v1``.
        model: the name under which they serve it.
        concurrency: requests under way at once, to all of them together.
        timeout: seconds that one attempt may take.
        retries: further attempts at a server before it is left out.

    A key, if they want one, is that in the environment variable `VLLM_API_KEY`, as for vLLM itself.

    Raises:
        InvalidValueError: a setting out of range, or no server.
        MissingExtraError: the `openai` client is not installed.
    """

    base_urls: Sequence[str]
    model: str
    concurrency: int = 64
    timeout: float = 600.0
    retries: int = 5
    usage: Usage = field(default_factory=Usage)

    def __post_init__(self) -> None:
        for name, least in (("concurrency", 1), ("retries", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InvalidValueError(name, value, f"an integer of at least {least}")
        if isinstance(self.timeout, bool) or not self.timeout > 0:
            raise InvalidValueError("timeout", self.timeout, "a positive number of seconds")
        self.base_urls = [url.rstrip("/") for url in self.base_urls]
        if not self.base_urls or not all(url.startswith("http") for url in self.base_urls):
            accepted = "at least one URL such as http://127.0.0.1:8000/v1"
            raise InvalidValueError("base_url", list(self.base_urls), accepted)
        self._openai: Any = optional_module("openai", extra="vllm", purpose="ask a vLLM server")
        #: Servers that are not left out, and of those that are, why.
        self._in_use, self._failed = list(self.base_urls), dict[str, str]()

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Connection]:
        """Connections for one event loop."""
        if not self._in_use:  # all had failed: whoever comes back has started some again
            self._in_use, self._failed = list(self.base_urls), {}
        async with AsyncExitStack() as stack:
            clients = {}
            for url in self._in_use:
                client = self._openai.AsyncOpenAI(
                    base_url=url,
                    api_key=os.environ.get("VLLM_API_KEY", "none"),
                    timeout=self.timeout,
                    max_retries=self.retries,
                )
                clients[url] = await stack.enter_async_context(client)
            yield Connection(self, clients, asyncio.Semaphore(self.concurrency))

    def chosen(self, place: int) -> str:
        """The server whose turn it is.

        Raises:
            ServingError: all are left out.
        """
        if not self._in_use:
            why = "; ".join(f"{url}: {reason}" for url, reason in self._failed.items())
            raise ServingError(
                f"no server answers ({why}); what was answered before is kept: start one with "
                f"{START}, then run the same command again"
            )
        return self._in_use[place % len(self._in_use)]

    def leave_out(self, url: str, reason: str) -> None:
        """Asks a server nothing more."""
        if url in self._in_use:
            self._in_use.remove(url)
            self._failed[url] = reason
            log.warning("%s is left out: %s; %d left", url, reason, len(self._in_use))


class Connection:
    """Clients of the servers, see `Servers.connected`."""

    def __init__(self, servers: Servers, clients: dict[str, Any], slots: asyncio.Semaphore) -> None:
        self._servers, self._clients, self._slots = servers, clients, slots

    async def post(self, place: int, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request.

        Args:
            place: requests of equal place go to the same server, which has cached what they share.
            body: without the name of the model.

        Raises:
            ServingError: the servers refuse it, none of them answers, or with no such thing.
            ContextLengthError: the prompt is too long for them.
        """
        servers, openai = self._servers, self._servers._openai
        body = {"model": servers.model, **body}
        async with self._slots:
            while True:
                url = servers.chosen(place)
                route = url.removesuffix("/v1") + ROUTE
                try:
                    answer = await self._clients[url].post(route, body=body, cast_to=object)
                except (openai.APIConnectionError, openai.InternalServerError,
                        openai.RateLimitError) as error:  # fmt: skip
                    servers.leave_out(url, " ".join(_reason(error).split())[:200])
                except openai.APIStatusError as error:
                    raise self._refused(url, error) from error
                except (openai.APIError, ValueError) as error:
                    raise ServingError(f"{url} answers with no JSON: {error}") from error
                else:
                    if not isinstance(answer, dict) or not answer.get("choices"):
                        raise ServingError(f"{url} answers without choices: {str(answer)[:200]}")
                    servers.usage.add(answer.get("usage") or {})
                    return answer

    def _refused(self, url: str, error: Any) -> FocusError:
        """A refusal, with what helps against it."""
        said = _reason(error)
        if "model" in said and ("does not exist" in said or "not found" in said.lower()):
            help_ = "engine.model must be a name that `GET /v1/models` lists"
        elif error.status_code in (404, 405):
            help_ = f"it has no {ROUTE}, which vLLM of at least 0.32 has with --enable-scale-out"
        elif "logprobs" in said:
            help_ = "start it with --max-logprobs -1"
        elif "image" in said and "at most" in said.lower():
            help_ = "start it with a higher --limit-mm-per-prompt '{\"image\": 16}'"
        elif "maximum" in said and ("length" in said or "context" in said):
            return ContextLengthError(f"the prompt is too long for {url}: {said}")
        elif error.status_code in (401, 403):
            help_ = "set VLLM_API_KEY"
        else:
            help_ = f"it should run as {START}"
        name = self._servers.model
        return ServingError(f"{url} refuses what {name!r} is asked: {said} ({help_})")


def _reason(error: Any) -> str:
    """What a server said, without the wrapping."""
    body = getattr(error, "body", None)
    said = body.get("message") or body.get("detail") if isinstance(body, dict) else None
    return str(said or error.__cause__ or error)
