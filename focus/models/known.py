"""The checkpoints that this package knows: what they are called, and how they are meant to load.

The files in conf/model give the same values to commands, with licences and sizes.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KnownCheckpoint:
    """Settings of a hub repository; its image budget is the checkpoint's own.

    Args:
        name: how records and tables call it.
        revision: pinned commit.
        dtype: that of the published weights.
    """

    name: str
    revision: str
    dtype: str = "bfloat16"


KNOWN: dict[str, KnownCheckpoint] = {
    "OpenGVLab/InternVL3-2B-hf": KnownCheckpoint(
        "internvl3-2b", "cb57a075cb75a2e6d1b668b128d48bb00ae321d2"
    ),
    "OpenGVLab/InternVL3-8B-hf": KnownCheckpoint(
        "internvl3-8b", "259a3b64a14623c0ec91a045cb43f7c5af5fa6af"
    ),
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": KnownCheckpoint(
        "llava-onevision-0.5b", "74dd0bf867a4cda7950c17663794267c60cf4b40"
    ),
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": KnownCheckpoint(
        "llava-onevision-7b", "0d50680527681998e456c7b78950205bedd8a068"
    ),
    "Qwen/Qwen2.5-VL-3B-Instruct": KnownCheckpoint(
        "qwen2.5-vl-3b", "66285546d2b821cf421d4f5eb2576359d3770cd3"
    ),
    "Qwen/Qwen2.5-VL-7B-Instruct": KnownCheckpoint(
        "qwen2.5-vl-7b", "cc594898137f460bfe9f0759e9844b3ce807cfb5"
    ),
    "Qwen/Qwen3-VL-30B-A3B-Instruct": KnownCheckpoint(
        "qwen3-vl-30b-a3b", "9c4b90e1e4ba969fd3b5378b57d966d725f1b86c"
    ),
    "Qwen/Qwen3-VL-32B-Instruct": KnownCheckpoint(
        "qwen3-vl-32b", "0cfaf48183f594c314753d30a4c4974bc75f3ccb"
    ),
    "Qwen/Qwen3-VL-4B-Instruct": KnownCheckpoint(
        "qwen3-vl-4b", "ebb281ec70b05090aa6165b016eac8ec08e71b17"
    ),
    "Qwen/Qwen3-VL-8B-Instruct": KnownCheckpoint(
        "qwen3-vl-8b", "0c351dd01ed87e9c1b53cbc748cba10e6187ff3b"
    ),
}
