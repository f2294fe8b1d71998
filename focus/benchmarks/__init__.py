"""Benchmarks: one file each; every one serves `Example`s."""

from focus.benchmarks.base import AbstractBenchmark, Example

__all__ = ["AbstractBenchmark", "Example"]
