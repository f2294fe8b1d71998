"""Tiny random models and seeded images, shared by the tests; no network, one thread.

Tests may run in several processes at once (`make test`), so each computes with one thread and what
it shares with others on disk is its own `tmp_path`. The process that hands them out reads this file
too and needs nothing of what takes seconds to import, so that fixtures import it.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when huggingface_hub is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of commands in processes of their own, too

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from PIL import Image

    from focus.decoding import Request
    from focus.models import VisionLanguageModel

#: Those of `focus.models.tiny.BUILDERS`, which a test compares.
ARCHITECTURES = ("internvl", "llava_onevision", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe")
#: Unequal on purpose: where images differ in their number of tokens, a wrong span shows.
SIZES = ((40, 28), (64, 48), (24, 72), (56, 56))
#: Text between the images, so that a cut at an image start never falls on the image before it.
PARTS = {
    1: ("what is ", None, " ?"),
    2: ("first ", None, " and second ", None, " which is red ?"),
    3: ("a ", None, " b ", None, " c ", None, " which is green ?"),
    4: ("a ", None, " b ", None, " c d ", None, " e ", None, " which shows the blue circle ?"),
}


@pytest.fixture(scope="session", params=ARCHITECTURES)
def any_vlm(request: pytest.FixtureRequest) -> VisionLanguageModel:
    """A tiny model of every architecture in turn; tests must leave it as it is."""
    from focus.models.tiny import build_tiny

    return build_tiny(request.param)


@pytest.fixture(scope="session")
def vlm() -> VisionLanguageModel:
    """A tiny model for tests of what is the same for all families; must be left as it is."""
    from focus.models.tiny import build_tiny

    return build_tiny("internvl")


@pytest.fixture
def own_vlm() -> VisionLanguageModel:
    """A tiny model that the test may change."""
    from focus.models.tiny import build_tiny

    return build_tiny("internvl")


@pytest.fixture(scope="session")
def images() -> tuple[Image.Image, ...]:
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    return tuple(
        Image.fromarray(rng.integers(0, 256, size=(height, width, 3), dtype=np.uint8))
        for width, height in SIZES
    )


@pytest.fixture(scope="session")
def ask(images: tuple[Image.Image, ...]) -> Callable[..., Request]:
    """``ask(2)``: a request about the first two images, with text before, between and after."""
    from focus.decoding import Request

    def request(num_images: int, **kwargs: object) -> Request:
        question = "".join(part or "<image>" for part in PARTS[num_images])
        known = {"sample_id": "sample", **kwargs}
        return Request(images[:num_images], question, **known)

    return request


@pytest.fixture(scope="session")
def words_only() -> dict[str, list[int]]:
    """`generate` argument that rules out the end token and image tokens: full length, any model."""
    from focus.models.tiny import SPECIAL_TOKENS

    return {"suppress_tokens": list(range(len(SPECIAL_TOKENS)))}


@pytest.fixture
def transformers_log() -> Iterator[list[str]]:
    """Warnings that `transformers` logs during the test (its logger hides them from caplog)."""
    from transformers.utils import logging as transformers_logging

    messages: list[str] = []
    transformers_logging.warning_once.cache_clear()  # "once" would hide what an earlier test saw

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    # A command that ran in this process may have configured logging and silenced the others.
    for name, logger in logging.root.manager.loggerDict.items():
        if name.startswith("transformers") and isinstance(logger, logging.Logger):
            logger.disabled = False
    handler = Keep(logging.WARNING)
    logging.getLogger("transformers").addHandler(handler)
    yield messages
    logging.getLogger("transformers").removeHandler(handler)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def streams_stay_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra's logging set-up closes all handlers, and absl's (of rouge_score) closes its stream.

    That stream is pytest's own where a test captures what a command prints.
    """
    monkeypatch.setattr(logging, "shutdown", lambda *_: None)


def pytest_collection_modifyitems(items):
    """Notebooks of an extra that is not installed are skipped."""
    if find_spec("nnsight") is None:
        for item in items:
            if item.path.name == "knockout_with_nnsight.ipynb":
                item.add_marker(pytest.mark.skip(reason="needs the extra nnsight"))
