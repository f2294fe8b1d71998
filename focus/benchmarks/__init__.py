"""Benchmarks: one file each; every one serves `Example`s."""

from focus.benchmarks.base import IMAGE_PLACEHOLDER, AbstractBenchmark, Example

__all__ = ["IMAGE_PLACEHOLDER", "AbstractBenchmark", "Example"]
