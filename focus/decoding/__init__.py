"""Decoding strategies: one file each, all with the interface of `AbstractDecoding`."""

from focus.decoding.base import AbstractDecoding, Decoded, GenerationSettings, Request
from focus.decoding.focus import Focus, official_settings
from focus.decoding.vanilla import Vanilla

#: Every strategy by the name that records and tables use.
STRATEGIES: dict[str, type[AbstractDecoding]] = {cls.name: cls for cls in (Vanilla, Focus)}

__all__ = [
    "STRATEGIES",
    "AbstractDecoding",
    "Decoded",
    "Focus",
    "GenerationSettings",
    "Request",
    "Vanilla",
    "official_settings",
]
