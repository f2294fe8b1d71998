"""The one call most users need: images and a question in, an answer out."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from focus.decoding.base import AbstractDecoding, Decoded, GenerationSettings, Request, Targets
from focus.decoding.branching import BranchSettings
from focus.decoding.focus import Focus
from focus.errors import InvalidValueError
from focus.generate import KeepLogits
from focus.images import ImageSource
from focus.models.known import KNOWN
from focus.models.loading import Checkpoint, VisionLanguageModel


def load(source: str | os.PathLike[str], **checkpoint_kwargs: Any) -> VisionLanguageModel:
    """Loads a model by hub id, folder, or ``embedded:<name>``.

    Args:
        source: see `focus.models.Checkpoint`, which also takes the other arguments.

    Raises:
        CheckpointUnavailableError: it cannot be had here; the message says why and what to do.
    """
    source = os.fspath(source)
    last = source.rstrip("/").rsplit("/", 1)[-1].removeprefix("embedded:")
    name = checkpoint_kwargs.pop("name", KNOWN[source].name if source in KNOWN else last)
    return Checkpoint(name=name, source=source, **checkpoint_kwargs).load()


def answer(
    vlm: VisionLanguageModel,
    images: Sequence[ImageSource],
    question: str,
    *,
    decoding: AbstractDecoding | None = None,
    settings: GenerationSettings | None = None,
    targets: Targets | None = None,
    system: str | None = None,
    sample_id: str | None = None,
    keep_logits: KeepLogits = "none",
    **generate_kwargs: Any,
) -> Decoded:
    """Answers a question about several images.

    Args:
        vlm: from `load`, or `focus.models.wrap` around a model and processor of your own.
        images: paths, bytes, arrays or PIL images, in the order in which the prompt shows them.
        question: text with one ``<image>`` where each image stands, or none to put images first.
        decoding: the strategy; `Focus()` by default.
        settings: length, temperature and number of answers; greedy by default.
        targets: images to focus on (indices from 0; nested: one unit), instead of all; for
            strategies with branches, and those that keep the target images alone.
        system: system prompt.
        sample_id: key of the noise; a digest of question and pixels by default.
        keep_logits: ``first`` or ``all`` to return the logits of every row.
        generate_kwargs: passed on to `model.generate` (``logits_processor``,
            ``stopping_criteria``, ``streamer``, ``min_new_tokens``, ...).

    Raises:
        FocusError: images, prompt or settings that cannot be used; see `focus.errors`.
    """
    known = {} if sample_id is None else {"sample_id": sample_id}
    request = Request.create(images, question, system=system, targets=targets, **known)
    decoding = decoding or Focus()
    if targets and isinstance(decoding, BranchSettings):
        decoding = dataclasses.replace(decoding, targets="named")
    elif targets and not decoding.uses_targets:
        accepted = f"left out for {decoding.name}, which shows the model all images alike"
        raise InvalidValueError("targets", targets, accepted)
    return decoding.decode(
        vlm, request, settings or GenerationSettings(), keep_logits=keep_logits, **generate_kwargs
    )
