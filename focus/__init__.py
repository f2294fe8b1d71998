"""FOCUS: training-free decoding against cross-image information leakage in LVLMs.

An independent implementation and reproduction of arXiv 2508.13744.

Names are imported when they are first used: `focus.errors` and `focus.records` are there at once,
without the seconds that PyTorch and `transformers` take.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from focus.decoding import Focus, GenerationSettings, Plain, official_settings
    from focus.errors import FocusError
    from focus.generate import decode_branches
    from focus.models import Checkpoint, VisionLanguageModel, wrap
    from focus.noise import NoiseConfig
    from focus.pipeline import answer, load

__version__ = "0.1.0"

__all__ = [
    "Checkpoint",
    "Focus",
    "FocusError",
    "GenerationSettings",
    "NoiseConfig",
    "Plain",
    "VisionLanguageModel",
    "answer",
    "decode_branches",
    "load",
    "official_settings",
    "wrap",
]

_HOMES = {
    "decoding": ("Focus", "GenerationSettings", "Plain", "official_settings"),
    "errors": ("FocusError",),
    "generate": ("decode_branches",),
    "models": ("Checkpoint", "VisionLanguageModel", "wrap"),
    "noise": ("NoiseConfig",),
    "pipeline": ("answer", "load"),
}


def __getattr__(name: str) -> Any:
    """A public name, or a module of this package, on first use (PEP 562)."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    if name in _HOMES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
