"""A benchmark as a Hugging Face `datasets.Dataset`, and its rows as examples again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets

from focus.benchmarks.base import AbstractBenchmark, Example

#: What has no fixed shape (nested targets, attributes of a world) is JSON text.
FEATURES = datasets.Features(
    {
        "id": datasets.Value("string"),
        "images": datasets.List(datasets.Image()),
        "question": datasets.Value("string"),
        "answer": datasets.Value("string"),
        "choices": datasets.List(datasets.Value("string")),
        "distractors": datasets.List(datasets.Value("string")),
        "targets": datasets.Value("string"),
        "group": datasets.Value("string"),
        "cluster": datasets.Value("string"),
        "category": datasets.Value("string"),
        "truths": datasets.Value("string"),
        "metadata": datasets.Value("string"),
        "system": datasets.Value("string"),
        "permutation": datasets.List(datasets.Value("int64")),
    }
)
_SAMPLED = 8  # examples whose content tells whether a cached copy is still the benchmark


def as_dataset(
    benchmark: AbstractBenchmark, *, cache_dir: str | Path | None = None
) -> datasets.Dataset:
    """The whole benchmark in Arrow files, written one example at a time.

    `datasets` keeps the files and takes them again for an equal benchmark. It cannot see that the
    code behind has changed, so a sample of the examples is part of the key.

    Args:
        benchmark: any; hub benchmarks must be loadable.
        cache_dir: where the files go; None for the cache of `datasets`.
    """
    return datasets.Dataset.from_generator(
        _rows,
        features=FEATURES,
        cache_dir=None if cache_dir is None else str(cache_dir),
        gen_kwargs={"benchmark": benchmark, "sample": _sample(benchmark)},
        split=datasets.NamedSplit(benchmark.split),
    )


def as_example(row: Mapping[str, Any]) -> Example:
    """One row of `as_dataset` as the example that it was."""
    return Example(
        id=row["id"],
        images=tuple(image.convert("RGB") for image in row["images"]),
        question=row["question"],
        answer=row["answer"],
        choices=tuple(row["choices"]),
        distractors=tuple(row["distractors"]),
        targets=tuple(
            tuple(unit) if isinstance(unit, list) else unit for unit in json.loads(row["targets"])
        ),
        group=row["group"],
        cluster=row["cluster"],
        category=row["category"],
        truths=tuple(json.loads(row["truths"])),
        metadata=json.loads(row["metadata"]),
        system=row["system"],
        permutation=tuple(row["permutation"]),
    )


def _rows(benchmark: AbstractBenchmark, sample: str) -> Iterator[dict[str, Any]]:
    return (_row(example) for example in benchmark)


def _row(example: Example) -> dict[str, Any]:
    return {
        "id": example.id,
        "images": list(example.images),
        "question": example.question,
        "answer": example.answer,
        "choices": list(example.choices),
        "distractors": list(example.distractors),
        "targets": json.dumps(example.targets),
        "group": example.group,
        "cluster": example.cluster,
        "category": example.category,
        "truths": json.dumps([dict(truth) for truth in example.truths]),
        "metadata": json.dumps(dict(example.metadata)),
        "system": example.system,
        "permutation": list(example.permutation),
    }


def _sample(benchmark: AbstractBenchmark) -> str:
    """Digest of a few examples, evenly spread, pixels included."""
    digest = hashlib.sha256()
    for index in range(0, len(benchmark), max(1, len(benchmark) // _SAMPLED)):
        row = _row(benchmark[index])
        for image in row.pop("images"):
            digest.update(image.tobytes())
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()
