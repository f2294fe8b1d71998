"""A server in this process that answers as vLLM did, and what it is asked.

It replays `vllm_exchanges.json.gz`, recorded from a real server (vLLM 0.32, CPU, float32) with

    .venv/bin/python tests/vllm_server.py --record

A request is known by its token ids and the pixels of its images.
"""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import io
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from PIL import Image

from focus.benchmarks.embedded import IndexedQuestion
from focus.decoding import (
    AdaptiveFocus,
    Focus,
    GenerationSettings,
    Plain,
    Request,
    RoutedFocus,
    SingleImage,
    Vcd,
)
from focus.engines.serving import ROUTE
from focus.evaluation import request_of

RECORDED = Path(__file__).with_name("vllm_exchanges.json.gz")
MODELS = ("qwen2_5_vl-abstaining", "qwen3_vl-abstaining", "internvl-abstaining")
#: A command that is run over HTTP, and how many questions of its own it asks.
QUESTIONS = 4
EVALUATED = (
    *("benchmark=indexed", "model=qwen2_5_vl_abstaining", "decoding=focus", "threads=1"),
    *(f"limit={QUESTIONS}", "settings.max_new_tokens=2", "engine=vllm", "engine.batch=2"),
    *(f"engine.model={MODELS[0]}", "benchmark.num_images=3"),
)
GREEDY = GenerationSettings(max_new_tokens=3)
SAMPLED = GenerationSettings(max_new_tokens=3, temperature=1.5, num_return_sequences=2)
ASKED = (
    *((Plain(), GREEDY), (Focus(), GREEDY), (Focus(sharing="run"), GREEDY)),
    *((RoutedFocus(), GREEDY), (AdaptiveFocus(threshold=0.1), GREEDY), (Vcd(), GREEDY)),
    *((SingleImage(), GREEDY), (Focus(), SAMPLED)),
)


def questions(number: int = 2, num_images: int = 3) -> list[Request]:
    """The first ones of a benchmark."""
    benchmark = IndexedQuestion(world="scenes", size=number, num_images=num_images)
    return [request_of(benchmark, benchmark[index]) for index in range(number)]


def key_of(body: dict) -> str:
    """Equal for requests that a model cannot tell apart; PNG files of equal pixels may differ."""
    digest = hashlib.blake2b(json.dumps(body["token_ids"]).encode(), digest_size=9)
    for part in body.get("content_parts") or ():
        file = io.BytesIO(base64.b64decode(part["url"].partition(",")[2]))
        pixels = np.asarray(Image.open(file))
        digest.update(str(pixels.shape).encode() + pixels.tobytes())
    return digest.hexdigest()


def exchange_of(answer: dict) -> dict:
    """What is kept of an answer: log-probabilities by token id, and two numbers."""
    (content,) = answer["choices"][0]["logprobs"]["content"]
    by_id = {entry["token_id"]: entry["logprob"] for entry in content["top_logprobs"]}
    return {
        "read": answer["prompt_token_ids"],
        "cached": answer["usage"]["prompt_tokens_details"]["cached_tokens"],
        "logprobs": [round(by_id[token], 6) for token in range(len(by_id))],
    }


def answer_of(exchange: dict) -> dict:
    """Inverse of `exchange_of`, up to what no client needs."""
    values = exchange["logprobs"]
    order = sorted(range(len(values)), key=lambda token: -values[token])
    entries = [{"token_id": t, "logprob": values[t], "rank": r + 1} for r, t in enumerate(order)]
    content = {**entries[0], "top_logprobs": entries}
    return {
        "prompt_token_ids": [*exchange["read"]],
        "usage": {
            "prompt_tokens": len(exchange["read"]),
            "prompt_tokens_details": {"cached_tokens": exchange["cached"]},
        },
        "choices": [{"index": 0, "token_ids": order[:1], "logprobs": {"content": [content]}}],
    }


@functools.cache
def recorded() -> dict[str, dict]:
    """Exchanges by `key_of`, for each model."""
    return json.loads(gzip.decompress(RECORDED.read_bytes()))


def array_of(answer: dict, body: dict) -> dict:
    """The same answer as an array, as vLLM's newer model runner gives it (in its own sources)."""
    read = [*answer["prompt_token_ids"], body["token_ids"][-1]]
    asked = body["sampling_params"]
    (tokens,) = asked["prompt_logprob_token_ids"]
    assert asked["prompt_logprob_start"] == len(read) - 2  # the only place with tokens to score
    (content,) = answer["choices"][0]["logprobs"]["content"]
    values = {entry["token_id"]: entry["logprob"] for entry in content["top_logprobs"]}
    file = io.BytesIO()
    np.save(file, np.array([[values[token] for token in tokens]], dtype=np.float32))
    sent = base64.b64encode(file.getvalue()).decode()
    choice = {**answer["choices"][0], "logprobs": None}
    return {**answer, "prompt_token_ids": read, "choices": [choice],
            "prompt_token_id_logprobs": sent}  # fmt: skip


#: From the how manyeth request and the answer that is due, to status, headers and what is sent.
Fault = Callable[[int, dict], tuple[int, dict[str, str], object] | None]


class Stub:
    """What a server has been asked, and what is to go wrong.

    Args:
        model: which one it serves.
        fault: None for an answer that is left as it is; see `Fault`.
        arrays: whether it gives log-probabilities as arrays; otherwise it refuses as vLLM on a CPU.
    """

    def __init__(self, model: str, fault: Fault | None = None, *, arrays: bool = False) -> None:
        self.model, self.fault, self.arrays = model, fault, arrays
        self.asked: Counter[str] = Counter()  # that were answered
        self.number = 0  # of all requests
        self.refused: list[
            list
        ] = []  # images of requests for arrays, which vLLM then takes for known
        self.lock = threading.Lock()

    def answer(self, path: str, body: dict) -> tuple[int, dict[str, str], object]:
        if path != ROUTE:
            return 404, {}, {"detail": "Not Found"}
        if body["model"] != self.model:
            said = f"The model `{body['model']}` does not exist. Valid aliases: {self.model}."
            return 404, {}, {"error": {"message": said, "type": "NotFoundError", "code": 404}}
        array = "prompt_logprob_token_ids" in body["sampling_params"]
        if array and not self.arrays:
            self.refused.append(body["content_parts"])
            return refusal(400, "prompt_logprob_token_ids requires the V2 model runner "
                                "(VLLM_USE_V2_MODEL_RUNNER=1).")  # fmt: skip
        if array and not body["content_parts"]:  # does it give arrays at all?
            return 200, {}, {"choices": [{"index": 0, "token_ids": [0]}]}
        ids = body["token_ids"]
        key = key_of({**body, "token_ids": ids[:-1] if array else ids})
        due = answer_of(recorded()[self.model][key])
        due = array_of(due, body) if array else due
        with self.lock:
            self.number += 1
            number = self.number
        wrong = self.fault and self.fault(number, due)
        if not wrong or wrong[0] == 200:
            with self.lock:
                self.asked[key] += 1
        return wrong or (200, {}, due)


def refusal(status: int, said: str) -> tuple[int, dict[str, str], object]:
    """An error as vLLM words it; `openai` waits as long as the header says before it asks again."""
    return status, {"retry-after-ms": "1"}, {"error": {"message": said, "code": status}}


def late(seconds: float, answer: dict) -> tuple[int, dict[str, str], object]:
    """An answer that takes its time."""
    time.sleep(seconds)
    return 200, {}, answer


@contextmanager
def stub(
    model: str, fault: Fault | None = None, port: int = 0, *, arrays: bool = False
) -> Iterator[tuple[str, Stub]]:
    """Base URL of a server, and what it was asked."""
    own = Stub(model, fault, arrays=arrays)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, headers, answer = own.answer(self.path, body)
            if status == 0:  # dies in the middle of its answer
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n{")
                self.close_connection = True
                return
            sent = json.dumps(answer).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(sent))}.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *_: object) -> None:
            pass

        def handle(self) -> None:
            with suppress(OSError):  # a client that did not wait
                super().handle()

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", own
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
