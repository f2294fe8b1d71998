"""Where models run: many prompts at once, see `focus.engines.base`."""

from focus.engines.base import AbstractEngine, Candidate, Generated, Scored
from focus.engines.local import LocalEngine
from focus.engines.vllm import VllmEngine

__all__ = ["AbstractEngine", "Candidate", "Generated", "LocalEngine", "Scored", "VllmEngine"]
