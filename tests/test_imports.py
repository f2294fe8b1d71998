"""Rooms know only those below them: no package imports another that imports it."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("focus", "analysis", "experiments")


def module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path) -> set[str]:
    """Modules that a file imports when it runs; those for the type checker alone do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{each.name}" for each in node.names)}
        elif isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
    return found


def rooms() -> dict[str, set[str]]:
    """What each package or lone module of the top level imports of the others."""
    paths = {module(path): path for room in ROOMS for path in (ROOT / room).rglob("*.py")}

    def room(name: str) -> str:
        return ".".join(name.split(".")[:2])

    graph: dict[str, set[str]] = {room(name): set() for name in paths}
    for name, path in paths.items():
        graph[room(name)] |= {room(other) for other in imported(path) if other in paths}
    return {name: others - {name, *ROOMS} for name, others in graph.items() if name not in ROOMS}


def test_no_package_imports_one_that_imports_it():
    graph = rooms()
    assert "focus.images" in graph["focus.benchmarks"]  # it sees what there is
    TopologicalSorter(graph).prepare()
    with pytest.raises(CycleError):  # control: it would be noticed
        TopologicalSorter(graph | {"focus.images": {"focus.benchmarks"}}).prepare()


def test_the_method_knows_nothing_of_analyses_and_commands():
    for name, others in rooms().items():
        above = {"focus": ("analysis", "experiments"), "analysis": ("experiments",)}
        for other in others:
            assert not other.startswith(above.get(name.partition(".")[0], ("no room",))), name
