"""What FOCUS costs: ratios to plain decoding and to the published scheme, within one run.

    python -m experiments.bench num_images=[2,4] repeats=1 [vllm=http://127.0.0.1:8000/v1]

Three parts: one answer at a time, by number of images (random weights at a real shape); many
questions at once on an embedded model; several questions about one image pair. A fourth where a
vLLM server is named: the many questions, asked of that. Times depend on the machine and are never
tested; ratios measured side by side are comparable. Beside each time stands what was computed:
images encoded, tokens through the language model, tokens whose keys and values are kept, and
floating-point operations, whose ratio is the floor of the ratio of times.
"""

from __future__ import annotations

from experiments.config import check_command_line

check_command_line("bench", __name__)  # before the seconds that the other imports take

import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from omegaconf import DictConfig
from PIL import Image
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from analysis.figures import bench_figure, save_figure
from experiments.config import entry_point, plain
from experiments.evaluation import make_console, progress_bars, request_of, set_threads
from focus.benchmarks.embedded import IndexedQuestion
from focus.cache import token_bytes
from focus.decoding import AbstractDecoding, Focus, GenerationSettings, Request, Vanilla
from focus.engines import LocalEngine, VllmEngine
from focus.environment import environment
from focus.models import Checkpoint, ImageBudget, VisionLanguageModel
from focus.models.tiny import build_tiny
from focus.randomness import generator

PLAIN = "plain decoding"
PUBLISHED = "published: N(N+1) encodings, full batch"
SCHEMES: dict[str, AbstractDecoding] = {
    PLAIN: Vanilla(),
    PUBLISHED: Focus(sharing="branch", prefill="naive"),
    "noise per branch, prefixes shared": Focus(sharing="branch"),
    "noise per sample, prefixes shared (default)": Focus(sharing="sample"),
    "noise per run, prefixes shared": Focus(sharing="run"),
}
#: Strategies whose throughput is measured, one question at a time and in batches.
ASKED = {
    PLAIN: Vanilla(),
    "FOCUS, noise per sample": Focus(),
    "FOCUS, noise per run": Focus(sharing="run"),
}
#: How they are read, and how many tokens that takes at most.
READ = {"candidates": 1, "text": 4}


@dataclass
class Work:
    """What was computed: images encoded, tokens run, most tokens kept at once, operations."""

    encoded: int = 0
    tokens: int = 0
    kept: int = 0
    flops: int = 0


@entry_point("bench")
def main(config: DictConfig) -> None:
    """Times everything and prints seconds and ratios."""
    mpl.use("Agg")
    set_threads(config.threads)
    console = make_console()
    with progress_bars(console) as progress:
        total = len(config.num_images) * len(SCHEMES) + 4 * len(ASKED) + 3
        task = progress.add_task("timing", total=total)
        report = {
            "rows": answer_rows(config, lambda: progress.advance(task)),
            "throughput": throughput_rows(config, lambda: progress.advance(task)),
            "sharing": sharing_rows(config, lambda: progress.advance(task)),
            "server": server_rows(config),
        }
    for name, title in TITLES.items():
        if report[name]:
            console.print(table(report[name], title))
    folder = Path(config.results)
    folder.mkdir(parents=True, exist_ok=True)
    facts = {**report, "config": plain(config), **environment()}
    (folder / "bench.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    save_figure(bench_figure(report["rows"], report["throughput"]), folder / "bench.png")
    console.print(f"bench.json and bench.png: {folder}", soft_wrap=True)


def answer_rows(config: DictConfig, advance: Callable[[], None]) -> list[dict[str, Any]]:
    """One answer at a time under every scheme, by number of images."""
    vlm = build_model(config)
    settings = GenerationSettings(max_new_tokens=config.new_tokens)
    rows = []
    for num_images in config.num_images:
        requests = [make_request(config, num_images, k) for k in range(config.repeats + 1)]
        for scheme, decoding in SCHEMES.items():

            def decode(request: Request, decoding: AbstractDecoding = decoding) -> object:
                # Without a lower bound random weights end some answers early.
                return decoding.decode(vlm, request, settings, min_new_tokens=config.new_tokens)

            row = {"num_images": num_images, "scheme": scheme}
            rows.append(row | measured(vlm, decode, requests))
            advance()
    for row in rows:
        same = {r["scheme"]: r for r in rows if r["num_images"] == row["num_images"]}
        row["over_plain"] = row["seconds"] / same[PLAIN]["seconds"]
        row["published_over_this"] = same[PUBLISHED]["seconds"] / row["seconds"]
        row["flops_over_plain"] = row["flops"] / same[PLAIN]["flops"]
    return rows


def throughput_rows(config: DictConfig, advance: Callable[[], None]) -> list[dict[str, Any]]:
    """Questions per second on an embedded model, one at a time and in batches.

    Read as candidates (one step) and as text of at most four tokens. Both ways process every
    question anew: the model forgets what it has seen in between.
    """
    loaded, requests = many_questions(config)
    few = requests[: config.throughput.alone]
    rows = []
    speed = operations_per_second()
    for read, length in READ.items():
        settings = GenerationSettings(max_new_tokens=length)
        for scheme, decoding in ASKED.items():
            vlm = fresh(loaded)
            alone = clock(lambda: [decoding.decode(vlm, r, settings, keep_logits="first")  # noqa: B023
                                   for r in few])  # fmt: skip
            advance()
            engine = LocalEngine(fresh(loaded))
            together = clock(lambda: decoding.decode_many(engine, requests, settings,  # noqa: B023
                                                          keep_logits="first"))  # fmt: skip
            advance()
            rows.append(
                {
                    "read": read,
                    "scheme": scheme,
                    "alone_per_second": len(few) / alone,
                    "batched_per_second": len(requests) / together,
                    "faster": (alone / len(few)) / (together / len(requests)),
                    "floor_per_second": speed / operations_per_question(
                        fresh(loaded), decoding, few, settings),
                }
            )  # fmt: skip
    return rows


def server_rows(config: DictConfig) -> list[dict[str, Any]]:
    """The same questions asked of a vLLM server that serves the same model; none without one.

    What it has cached before counts for it, which is why the share of cached tokens is told.
    """
    if config.vllm is None:
        return []
    loaded, requests = many_questions(config, weights=False)
    rows = []
    for read, length in READ.items():
        settings = GenerationSettings(max_new_tokens=length)
        for scheme, decoding in ASKED.items():
            engine = VllmEngine(fresh(loaded), base_url=config.vllm, model=loaded.name)
            seconds = clock(lambda: decoding.decode_many(engine, requests, settings,  # noqa: B023
                                                         keep_logits="first"))  # fmt: skip
            usage = engine.servers.usage
            rows.append({"read": read, "scheme": scheme, "per_second": len(requests) / seconds,
                         "requests": usage.requests, "prompt_tokens": usage.prompt_tokens,
                         "cached_tokens": usage.cached_tokens})  # fmt: skip
    return rows


def many_questions(
    config: DictConfig, *, weights: bool = True
) -> tuple[VisionLanguageModel, list[Request]]:
    """An embedded model, and questions about two images each."""
    name = config.throughput.model
    loaded = Checkpoint(name, f"embedded:{name}", device="cpu").load(weights=weights)
    benchmark = IndexedQuestion(split="test", num_images=2, size=config.throughput.questions)
    return loaded, [request_of(benchmark.name, example) for example in benchmark]


def operations_per_second(size: int = 2048, width: int = 128, repeats: int = 50) -> float:
    """Of this machine, in the matrix products that the embedded models are made of."""
    inputs, weights = torch.randn(size, width), torch.randn(3 * width, width)
    seconds = clock(lambda: [torch.nn.functional.linear(inputs, weights) for _ in range(repeats)])
    return 2 * size * width * 3 * width * repeats / seconds


def operations_per_question(
    vlm: VisionLanguageModel,
    decoding: AbstractDecoding,
    requests: Sequence[Request],
    settings: GenerationSettings,
) -> float:
    """Floating-point operations of a batch, per question."""
    with counted(vlm) as work:
        decoding.decode_many(LocalEngine(vlm), requests, settings)
    return work.flops / len(requests)


def sharing_rows(config: DictConfig, advance: Callable[[], None]) -> list[dict[str, Any]]:
    """Four questions about one image pair, as a Winoground pair asks them: candidates."""
    vlm = build_model(config)
    pairs = [make_request(config, 2, k) for k in range(config.repeats + 1)]
    settings = GenerationSettings(max_new_tokens=1)

    def questions(request: Request) -> list[Request]:
        return [replace(request, question=f"{request.question} {k}") for k in "abcd"]

    ways: dict[str, Callable[[Request], object]] = {
        "four published runs": lambda r: [
            SCHEMES[PUBLISHED].decode(vlm, q, settings) for q in questions(r)
        ],
        "four runs, prefixes shared": lambda r: [
            Focus().decode(fresh(vlm), q, settings) for q in questions(r)
        ],
        "together": lambda r: Focus().decode_many(LocalEngine(fresh(vlm)), questions(r), settings),
    }
    rows = []
    for scheme, answer in ways.items():
        rows.append({"scheme": scheme} | measured(vlm, answer, pairs))
        advance()
    for row in rows:
        row["faster"] = rows[0]["seconds"] / row["seconds"]
        row["flops_ratio"] = rows[0]["flops"] / row["flops"]
    return rows


def fresh(vlm: VisionLanguageModel) -> VisionLanguageModel:
    """The same model without anything it has processed before."""
    empty = {name: type(getattr(vlm, name)) for name in ("seen", "noise_cache")}
    return replace(vlm, seen=empty["seen"](2**28, getsizeof=lambda entry: entry.nbytes),
                   noise_cache=empty["noise_cache"](64))  # fmt: skip


def measured(
    vlm: VisionLanguageModel, answer: Callable[[Request], object], requests: Sequence[Request]
) -> dict[str, Any]:
    """Median seconds over the requests after the first, which warms up and is counted."""
    with counted(vlm) as work:
        answer(requests[0])
    seconds = statistics.median(clock(lambda: answer(r)) for r in requests[1:])  # noqa: B023
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    return {
        "seconds": seconds,
        **{name: getattr(work, name) for name in ("encoded", "tokens", "kept", "flops")},
        "peak_bytes": peak,
    }


@contextmanager
def counted(vlm: VisionLanguageModel) -> Iterator[Work]:
    """Counts what a model does, by hooks that are gone afterwards."""
    work = Work()
    token = token_bytes(vlm.model)

    def ran(_: Any, args: Any, kwargs: Any, output: Any) -> None:
        rows, length = kwargs["inputs_embeds"].shape[:2] if kwargs.get("inputs_embeds") \
            is not None else kwargs["input_ids"].shape  # fmt: skip
        work.tokens += rows * length
        layer = kwargs["past_key_values"].layers[0]
        held = getattr(layer, "num_bytes", None)
        held = layer.keys.nbytes + layer.values.nbytes if held is None else held
        work.kept = max(work.kept, held // token)

    def encoded(_: Any, args: Any, kwargs: Any) -> None:
        work.encoded += len(kwargs.get("grid_thw", args[1] if len(args) > 1 else ()))

    handles = [
        vlm.model.get_decoder().register_forward_hook(ran, with_kwargs=True),
        vlm.model.model.visual.register_forward_pre_hook(encoded, with_kwargs=True),
    ]
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        with FlopCounterMode(display=False) as flops:
            yield work
        work.flops = flops.get_total_flops()
    finally:
        for handle in handles:
            handle.remove()


def clock(run: Callable[[], object]) -> float:
    """Seconds that something takes, the work of a GPU included."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


TITLES = {
    "rows": "One answer at a time (medians; ratios within this run)",
    "throughput": "Many questions on an embedded model (questions per second)",
    "sharing": "Four questions about one image pair (candidates)",
    "server": "The many questions asked of a vLLM server",
}
#: Columns of the terminal's tables that need no digits behind the point.
WHOLE = ("num_images", "encoded", "tokens", "kept", "requests", "prompt_tokens", "cached_tokens")


def table(rows: Sequence[dict[str, Any]], title: str) -> Table:
    """Rows for the terminal."""
    frame = pd.DataFrame(rows).drop(columns=["flops", "peak_bytes"], errors="ignore")
    shown = Table(title=title, title_justify="left")
    for column in frame.columns:
        text = column in ("scheme", "read")
        shown.add_column(column.replace("_", " "), justify="left" if text else "right")
    for row in frame.to_dict("records"):
        shown.add_row(*(str(v) if k in WHOLE or isinstance(v, str) else f"{v:.2f}"
                        for k, v in row.items()))  # fmt: skip
    return shown


def build_model(config: DictConfig) -> VisionLanguageModel:
    """A Qwen2.5-VL of the configured size with random weights, and the tiny model's processor."""
    tiny = build_tiny("qwen2_5_vl", seed=config.seed)
    settings = tiny.model.config.to_dict()
    heads = config.hidden // 64
    settings["text_config"] |= {
        "hidden_size": config.hidden,
        "intermediate_size": 3 * config.hidden,
        "num_hidden_layers": config.layers,
        "layer_types": None,
        "num_attention_heads": heads,
        "num_key_value_heads": max(1, heads // 4),
        "rope_parameters": {
            "rope_type": "default",
            "mrope_section": [8, 12, 12],
            "rope_theta": 10_000.0,
        },
        "max_position_embeddings": 32_768,
        "initializer_range": 0.02,
    }
    settings["vision_config"] |= {
        "hidden_size": config.vision_hidden,
        "intermediate_size": 3 * config.vision_hidden,
        "depth": config.vision_layers,
        "fullatt_block_indexes": [config.vision_layers - 1],
        "out_hidden_size": config.hidden,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(**settings)).eval()
    model.generation_config = tiny.model.generation_config
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tiny.family.set_budget(tiny.processor, ImageBudget(max_pixels=config.image_size**2))
    return VisionLanguageModel(model.to(device), tiny.processor, tiny.family, "bench")


def make_request(config: DictConfig, num_images: int, index: int) -> Request:
    """A prompt with random images and some text between and behind them."""
    random = generator(config.seed, "bench", num_images, index)
    shape = (config.image_size, config.image_size, 3)
    images = tuple(
        Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)) for _ in range(num_images)
    )
    text = "which image shows the red circle in the second " * 5
    question = " ".join(["image : <image>"] * num_images) + f" {text} ?"
    return Request(images, question, sample_id=f"bench-{num_images}-{index}")


if __name__ == "__main__":
    main()
