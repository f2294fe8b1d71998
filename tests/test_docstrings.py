"""Examples in docstrings are run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from importlib.util import find_spec
from pathlib import Path

import pytest

import analysis
import experiments
import focus

MODULES = [
    module.name
    for package in (analysis, experiments, focus)
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not module.name.endswith("__main__")
]


def has_examples(name: str) -> bool:
    return ">>> " in Path(find_spec(name).origin).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", filter(has_examples, MODULES))
def test_examples_come_out_as_written(name):
    failed, attempted = doctest.testmod(importlib.import_module(name))
    assert attempted > 0  # none is hidden where no docstring is
    assert failed == 0


def test_there_are_examples():
    assert sum(map(has_examples, MODULES)) > 20


def test_every_module_can_be_imported():
    for name in MODULES:
        importlib.import_module(name)
