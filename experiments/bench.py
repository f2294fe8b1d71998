"""What FOCUS costs: ratios to plain decoding and to the published scheme, within one run.

    python -m experiments.bench num_images=[2,4] repeats=1

Times depend on the machine and are never tested; ratios measured side by side are comparable.
"""

from __future__ import annotations

from experiments.config import check_command_line

check_command_line("bench", __name__)  # before the seconds that the other imports take

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image
from rich.table import Table
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from experiments.config import entry_point, plain
from experiments.evaluation import make_console, progress_bars, set_threads
from focus.decoding import AbstractDecoding, Focus, GenerationSettings, Request, Vanilla
from focus.environment import environment
from focus.models import ImageBudget, VisionLanguageModel
from focus.models.tiny import build_tiny
from focus.randomness import generator

SCHEMES: dict[str, AbstractDecoding] = {
    "plain decoding": Vanilla(),
    "published: N(N+1) encodings, full batch": Focus(sharing="branch", prefill="naive"),
    "noise per branch, prefixes shared": Focus(sharing="branch"),
    "noise per sample, prefixes shared (default)": Focus(sharing="sample"),
    "noise per run, prefixes shared": Focus(sharing="run"),
}


@entry_point("bench")
def main(config: DictConfig) -> None:
    """Times every scheme on the same prompts and prints seconds and ratios."""
    set_threads(config.threads)
    vlm = build_model(config)
    console = make_console()
    rows = []
    with progress_bars(console) as progress:
        task = progress.add_task("timing", total=len(config.num_images) * len(SCHEMES))
        for num_images in config.num_images:
            requests = [make_request(config, num_images, k) for k in range(config.repeats + 1)]
            for scheme, decoding in SCHEMES.items():
                seconds = median_seconds(_decoder(vlm, decoding, config), requests)
                rows.append({"num_images": num_images, "scheme": scheme, "seconds": seconds})
                progress.advance(task)
    add_ratios(rows)
    console.print(ratio_table(rows))
    folder = Path(config.results)
    folder.mkdir(parents=True, exist_ok=True)
    report = {"rows": rows, "config": plain(config), **environment()}
    (folder / "bench.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    console.print(f"bench.json: {folder}", soft_wrap=True)


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


def median_seconds(decode: Callable[[Request], object], requests: list[Request]) -> float:
    """Median over the requests after the first, which warms up."""
    seconds = []
    for request in requests:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        started = time.perf_counter()
        decode(request)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def add_ratios(rows: list[dict]) -> None:
    """Adds to each row its time over that of plain decoding and of the published scheme."""
    schemes = list(SCHEMES)
    for row in rows:
        same = {r["scheme"]: r["seconds"] for r in rows if r["num_images"] == row["num_images"]}
        row["over_plain"] = row["seconds"] / same[schemes[0]]
        row["published_over_this"] = same[schemes[1]] / row["seconds"]


def ratio_table(rows: list[dict]) -> Table:
    """Seconds per answer and both ratios, one block per number of images."""
    table = Table(title="Cost of FOCUS (medians; ratios within this run)", title_justify="left")
    for header in ("N", "scheme", "seconds", "x plain decoding", "faster than published"):
        table.add_column(header, justify="left" if header == "scheme" else "right")
    previous = None
    for row in rows:
        if previous not in (None, row["num_images"]):
            table.add_section()
        previous = row["num_images"]
        table.add_row(
            str(row["num_images"]),
            row["scheme"],
            f"{row['seconds']:.2f}",
            f"{row['over_plain']:.2f}",
            f"{row['published_over_this']:.2f}",
        )
    return table


def _decoder(
    vlm: VisionLanguageModel, decoding: AbstractDecoding, config: DictConfig
) -> Callable[[Request], object]:
    settings = GenerationSettings(max_new_tokens=config.new_tokens)
    # Without a lower bound random weights end some answers early, and times would not compare.
    return lambda request: decoding.decode(vlm, request, settings, min_new_tokens=config.new_tokens)


if __name__ == "__main__":
    main()
