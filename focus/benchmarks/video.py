"""Frames of a video file as images, decoded with PyAV."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from types import ModuleType

from PIL import Image

from focus.checks import Positive, check
from focus.errors import DatasetUnavailableError, ImageError
from focus.parsing.optional import optional_module

FrameIndices = Callable[[int, int], list[int]]
"""From the number of frames there are and the number wanted to the indices to take."""


def evenly_from_start(total: int, wanted: int) -> list[int]:
    """The authors' choice (`utils/video_utils.py`): the start of each of `wanted` equal stretches.

    >>> evenly_from_start(10, 4)
    [0, 2, 5, 7]
    """
    return [min(int(i * total / wanted), total - 1) for i in range(wanted)]


def first_to_last(total: int, wanted: int) -> list[int]:
    """Equal steps from the first to the last frame (Vinoground's `np.linspace`, truncated).

    >>> first_to_last(10, 4)
    [0, 3, 6, 9]
    """
    if wanted == 1:
        return [0]
    return [(total - 1) * i // (wanted - 1) for i in range(wanted)]


def sample_frames(
    path: str | os.PathLike[str], wanted: int, indices: FrameIndices = first_to_last
) -> tuple[Image.Image, ...]:
    """RGB frames of a video; the last one is repeated where there are fewer than its file claims.

    Args:
        path: the file; the frames of the last few are kept.
        wanted: number of frames, from 1.
        indices: which ones.

    Raises:
        DatasetUnavailableError: there is no such file.
        ImageError: it holds no frame that can be decoded.
        MissingExtraError: PyAV is not installed.
    """
    check("num_frames", wanted, Positive)
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise DatasetUnavailableError(f"there is no video {path!r}")
    return _frames(path, os.path.getmtime(path), wanted, indices)


@lru_cache(maxsize=8)
def _frames(
    path: str, modified: float, wanted: int, indices: FrameIndices
) -> tuple[Image.Image, ...]:
    av = optional_module("av", extra="video", purpose=f"decode {path!r}")
    try:
        total = _count(av, path)
        chosen = indices(total, wanted) if total else []
        taken = _decode(av, path, chosen)
    except (av.error.FFmpegError, IndexError) as error:  # IndexError: no video stream
        raise ImageError(f"video {path!r} cannot be decoded ({error})") from error
    if not taken:
        raise ImageError(f"video {path!r} holds no frame")
    last = max(taken)
    return tuple(taken[min(index, last)] for index in chosen)


def _count(av: ModuleType, path: str) -> int:
    """Number of coded frames; the header's own count is often missing or wrong."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        return sum(1 for packet in container.demux(stream) if packet.size)


def _decode(av: ModuleType, path: str, chosen: Sequence[int]) -> dict[int, Image.Image]:
    """The chosen frames by index; where the file ends before the highest of them, its last one."""
    taken: dict[int, Image.Image] = {}
    index, frame, highest = -1, None, max(chosen, default=-1)
    with av.open(path) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index in chosen:
                taken[index] = frame.to_image()
            if index >= highest:
                break
    if frame is not None and index < highest:
        taken[index] = frame.to_image()
    return taken
