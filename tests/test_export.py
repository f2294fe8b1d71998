"""Benchmarks as `datasets` data sets: everything comes back, and nothing stale."""

from __future__ import annotations

from dataclasses import fields

import datasets
import numpy as np
import pytest

from focus.benchmarks.embedded import IndexedQuestion, LeakageProbe, MinimalPair, SameOrDifferent
from focus.benchmarks.export import FEATURES, as_dataset, as_example
from focus.worlds import Scenes

datasets.disable_progress_bars()


@pytest.mark.parametrize(
    "benchmark",
    [
        IndexedQuestion(world="photos", size=5, num_images=3, split="dev"),
        LeakageProbe(size=5, order=2),
        SameOrDifferent(world="digits", size=5),
        MinimalPair(world="clips", size=2, direction="both", order=1),
    ],
    ids=lambda benchmark: benchmark.name,
)
def test_rows_are_the_examples_that_they_were(tmp_path, benchmark):
    rows = as_dataset(benchmark, cache_dir=tmp_path)
    assert rows.features == FEATURES
    assert rows.split == benchmark.split
    assert len(rows) == len(benchmark)
    for row, example in zip(rows, benchmark, strict=True):
        again = as_example(row)
        for field in fields(example):
            if field.name != "images":
                assert getattr(again, field.name) == getattr(example, field.name), field.name
        assert again.reference == example.reference
        for a, b in zip(again.images, example.images, strict=True):
            assert (np.asarray(a) == np.asarray(b)).all()


def test_an_equal_benchmark_is_not_written_again(tmp_path):
    benchmark = SameOrDifferent(size=3)
    first, second = (as_dataset(benchmark, cache_dir=tmp_path) for _ in range(2))
    assert first.cache_files == second.cache_files != []
    other = as_dataset(SameOrDifferent(size=3, seed=1), cache_dir=tmp_path)
    assert other.cache_files != first.cache_files


def test_a_world_that_draws_otherwise_is_written_again(tmp_path, monkeypatch):
    """The cache of `datasets` goes by settings and would serve the pictures of older code."""
    benchmark = SameOrDifferent(size=3)
    as_dataset(benchmark, cache_dir=tmp_path)
    view = Scenes.view

    def mirrored(self, *args, **kwargs):
        return tuple(image.transpose(0) for image in view(self, *args, **kwargs))

    monkeypatch.setattr(Scenes, "view", mirrored)
    row = as_dataset(benchmark, cache_dir=tmp_path)[0]
    assert (np.asarray(as_example(row).images[0]) == np.asarray(benchmark[0].images[0])).all()
