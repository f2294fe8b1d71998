"""Keyed randomness: a draw depends on what it is for, never on when it is made.

A global generator would make every result depend on the order of the samples, so that a resumed,
sharded or limited run could not reproduce a complete one. Here each draw has a key such as
``(seed, sample id, image index, "noise")``.
"""

from __future__ import annotations

import hashlib

import numpy as np

Key = str | int | None


def key_to_seed(*key: Key) -> int:
    """128-bit integer that depends on every part of `key` and on nothing else.

    The parts are length-prefixed, so ``("ab", "c")`` and ``("a", "bc")`` differ; so do ``1`` and
    ``"1"``. Stable across processes and platforms (unlike `hash`).
    """
    digest = hashlib.sha256()
    for part in key:
        text = f"{type(part).__name__}:{part}".encode()
        digest.update(len(text).to_bytes(8, "little") + text)
    return int.from_bytes(digest.digest()[:16], "little")


def generator(*key: Key) -> np.random.Generator:
    """NumPy generator of its own for `key`: equal keys give equal streams, others independent ones.

    >>> bool(generator(0, "a", 1).integers(100) == generator(0, "a", 1).integers(100))
    True
    """
    return np.random.Generator(np.random.PCG64(key_to_seed(*key)))
