"""Small embedded benchmarks of every kind, world and dial."""

from __future__ import annotations

import hashlib

import numpy as np
from PIL import Image

from focus.benchmarks.embedded import (
    AbstractEmbedded,
    Counting,
    Draft,
    IndexedQuestion,
    LeakageProbe,
    MinimalPair,
    OddOneOut,
    SameOrDifferent,
    WhichImage,
)
from focus.benchmarks.registry import EMBEDDED
from focus.worlds import Truth, world_of
from focus.worlds.questions import MAX_IMAGES

SEVERAL = (IndexedQuestion, WhichImage, OddOneOut, SameOrDifferent, Counting, LeakageProbe)
GROUPS = (OddOneOut, SameOrDifferent, Counting)  # about all views
#: Of models that are built in a moment and learn nothing.
SIZES = {
    "hidden": 32,
    "layers": 2,
    "heads": 2,
    "vision_hidden": 32,
    "vision_layers": 2,
    "vision_heads": 2,
    "expansion": 2,
}


def made(name: str, size: int, **settings) -> AbstractEmbedded:
    """The benchmark of a registered name; pairs are asked in both directions."""
    if EMBEDDED[name] is MinimalPair:
        settings["direction"] = "both"
    return EMBEDDED[name](world=name.split("_")[0], size=size, **settings)


def chosen(name: str) -> list[str]:
    """Arguments of a command that choose the benchmark of a name."""
    if name not in EMBEDDED:
        return [f"benchmark={name}"]
    world, kind = name.split("_")
    return [f"benchmark={kind}", f"benchmark.world={world}"]


def dials(kind: type, world: str, images=(2, 3, 5, MAX_IMAGES)) -> list[dict[str, int]]:
    """Settings of a kind that has dials, the extremes of each among them."""
    most = len(world_of(world).attributes) - kind.least_changes
    return [
        {"num_images": number, "similarity": similarity}
        for number in images
        if number >= kind.least_images
        for similarity in range(most + 1)
    ]


def drafts(benchmark: AbstractEmbedded) -> list[Draft]:
    return [benchmark.draft(index) for index in range(len(benchmark))]


def digest(image: Image.Image) -> str:
    return hashlib.sha256(np.asarray(image).tobytes()).hexdigest()


def difference(a: Truth, b: Truth) -> set[str]:
    return {name for name in a if a[name] != b[name]}
