"""Settings of a run: which part of it this process has, and what tells two runs apart."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from focus.errors import InvalidValueError

#: Settings of speed and place: they say how and where results are computed, not which.
SPEED = (
    *("encode_batch", "device", "device_map", "offload_folder", "threads"),
    *("path", "videos", "offline"),
)


def identity(config: Any) -> Any:
    """The settings that determine the results: all but those of speed and place.

    >>> identity({"decoding": {"alpha": 0.3, "encode_batch": 8}})
    {'decoding': {'alpha': 0.3}}
    """
    if isinstance(config, Mapping):
        return {key: identity(value) for key, value in config.items() if key not in SPEED}
    return [identity(value) for value in config] if isinstance(config, list) else config


def digest(value: object) -> str:
    """Short, stable hash of any JSON-serialisable value."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Shard:
    """One of several parts of a run's questions: every `count`-th, from `index` (from 0)."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: object) -> Shard | None:
        """Shard of a setting such as ``0/4``; None for none.

        Raises:
            InvalidValueError: not of that form, or no such part.
        """
        if text is None:
            return None
        found = re.fullmatch(r"(\d+)/(\d+)", str(text))
        if not found or not int(found[1]) < int(found[2]):
            accepted = "k/n with k from 0 to n - 1, such as 0/4, or null"
            raise InvalidValueError("shard", text, accepted)
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def __contains__(self, position: int) -> bool:
        return position % self.count == self.index

    @property
    def file_name(self) -> str:
        """Of its records."""
        return f"records-{self.index}-of-{self.count}.jsonl"


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        items: Sequence[tuple[Any, Any]] = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    else:
        return {prefix: value}
    return {
        k: v
        for key, part in items
        for k, v in _flatten(part, f"{prefix}.{key}".lstrip(".")).items()
    }


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """What differs between two settings, in words."""
    old, new = _flatten(there), _flatten(here)
    changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    return "; ".join(f"{key}: {old.get(key)!r} -> {new.get(key)!r}" for key in changed)
