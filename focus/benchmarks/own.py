"""Questions of one's own, for everything that asks a benchmark: probes, rows, figures."""

from __future__ import annotations

from typing import final

from focus.benchmarks.base import AbstractBenchmark, Example


@final
class Own(AbstractBenchmark):
    """Examples that are given.

    Args:
        examples: the questions, of different ids.
        name: how records and tables call them.
    """

    def __init__(self, *examples: Example, name: str = "own") -> None:
        self._examples, self._name = examples, name

    @property
    def name(self) -> str:
        return self._name

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Example:
        return self._examples[index]
