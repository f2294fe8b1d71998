"""Whether the hub answers, asked once per process and not once per file."""

from __future__ import annotations

import functools

import httpx2
from huggingface_hub import constants, get_session


@functools.cache
def hub_answers() -> bool:
    """Whether the hub can be reached; one attempt, whose result holds for the whole process.

    Without a network its clients try every file of a checkpoint six times, which takes half a
    minute. With HF_HUB_OFFLINE=1 nothing is tried. How long to wait is HF_HUB_ETAG_TIMEOUT.
    """
    if constants.is_offline_mode():
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except httpx2.HTTPError:
        return False
    return True
