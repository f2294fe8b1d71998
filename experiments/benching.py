"""What a bench is made of: models of a real shape with random weights, prompts, and counting."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from focus.cache import token_bytes
from focus.decoding import AbstractDecoding, GenerationSettings, Request
from focus.engines import LocalEngine
from focus.models import ImageBudget, VisionLanguageModel
from focus.models.tiny import build_tiny
from focus.randomness import generator

#: Pixels along the side of what becomes one token of the language model.
TOKEN_SIDE = 16


@dataclass
class Work:
    """What was computed: images encoded, tokens run, most tokens kept at once, operations."""

    encoded: int = 0
    tokens: int = 0
    kept: int = 0
    flops: int = 0


def fresh(vlm: VisionLanguageModel) -> VisionLanguageModel:
    """The same model without anything it has processed before."""
    caches = ("seen", "noise_cache", "known_states")
    empty: dict[str, Any] = {name: copy.copy(getattr(vlm, name)) for name in caches}
    for cache in empty.values():
        cache.clear()
    return replace(vlm, **empty)


def measured(
    vlm: VisionLanguageModel, answer: Callable[[Request], object], requests: Sequence[Request]
) -> dict[str, Any]:
    """Median seconds over the requests after the first, which warms up (and brings what a whole run
    shares), and the second, which is counted."""
    answer(requests[0])
    with counted(vlm) as work:
        answer(requests[1])
    seconds = statistics.median(clock(lambda: answer(r)) for r in requests[2:])  # noqa: B023
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
        # Images of one size are frames of one entry: `focus.models.qwen_vision.as_frames`.
        work.encoded += int(kwargs.get("grid_thw", args[-1])[:, 0].sum())

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


@contextmanager
def inside(vlm: VisionLanguageModel) -> Iterator[list[float]]:
    """Seconds of every call of the model's own parts: vision tower, decoder and head.

    What is left of a measured time is ours: images, prompts, batches and the choice of tokens.
    """
    seconds: list[float] = []
    model = vlm.model
    parts = (model.model.visual, model.get_decoder(), model.get_output_embeddings())
    handles = []
    for part in parts:
        handles.append(part.register_forward_pre_hook(
            lambda *_: seconds.append(-time.perf_counter())))  # fmt: skip
        handles.append(part.register_forward_hook(_ends(seconds)))
    try:
        yield seconds
    finally:
        for handle in handles:
            handle.remove()


def _ends(seconds: list[float]) -> Callable[..., None]:
    def end(*_: Any) -> None:
        seconds[-1] += time.perf_counter()

    return end


def clock(run: Callable[[], object]) -> float:
    """Seconds that something takes, the work of a GPU included."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


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
    # Images come at the size that they are to have.
    tiny.family.set_budget(tiny.processor, ImageBudget(max_pixels=4096**2))
    return VisionLanguageModel(model.to(device), tiny.processor, tiny.family, "bench")


def make_request(config: DictConfig, num_images: int, index: int) -> Request:
    """A prompt with random images and some text between and behind them."""
    text = "which image shows the red circle in the second " * 5
    question = " ".join(["image : <image>"] * num_images) + f" {text} ?"
    images = random_images(config, num_images, index, config.image_size)
    return Request(images, question, sample_id=f"bench-{num_images}-{index}")


def sized_request(
    config: DictConfig, num_images: int, index: int, *, tokens: int, words: int
) -> Request:
    """Images of so many tokens each, and behind them so many words."""
    side = TOKEN_SIDE * round(tokens**0.5)
    text = ("which image shows the red circle in the second " * words).split()[:words]
    return Request(
        random_images(config, num_images, index, side),
        "<image>" * num_images + " ".join(text),
        sample_id=f"bench-{num_images}-{tokens}-{words}-{index}",
    )


def random_images(
    config: DictConfig, num_images: int, index: int, side: int
) -> tuple[Image.Image, ...]:
    """Square images of random pixels."""
    random = generator(config.seed, "bench", num_images, index)
    shape = (side, side, 3)
    return tuple(
        Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)) for _ in range(num_images)
    )
