"""FOCUS: training-free decoding against cross-image information leakage in LVLMs.

An independent implementation and reproduction of arXiv 2508.13744.
"""

from focus.decoding import Focus, GenerationSettings, Vanilla, official_settings
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
    "Vanilla",
    "VisionLanguageModel",
    "answer",
    "decode_branches",
    "load",
    "official_settings",
    "wrap",
]
