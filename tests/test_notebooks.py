"""Every notebook runs from its first cell to its last, and its assertions hold.

In this process, with IPython's shell and what is imported already: a kernel of its own takes longer
to import than a notebook takes. `make notebooks` runs each in one, and so does every test run the
notebook on nnsight, which changes what it is imported beside (`testpaths` in pyproject.toml).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest
from IPython.core.interactiveshell import InteractiveShell

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
NOTEBOOKS = sorted(path.stem for path in FOLDER.glob("*.ipynb") if "nnsight" not in path.stem)


@pytest.fixture
def shell(monkeypatch, tmp_path):
    monkeypatch.chdir(FOLDER)  # as Jupyter does
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # the shell has its own
    monkeypatch.setattr(sys, "path", list(sys.path))
    with mpl.rc_context({"backend": "agg"}):
        yield InteractiveShell()


def run(shell: InteractiveShell, cells: Sequence[str]) -> None:
    """Raises what the first cell that fails raises."""
    for cell in cells:
        shell.run_cell(cell).raise_error()
        for number in plt.get_fignums():  # shown below the cell
            plt.figure(number).canvas.draw()
        plt.close("all")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_and_its_assertions_hold(shell, name):
    notebook = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    assert "assert " in cells[-1]
    run(shell, cells)
    with pytest.raises(AssertionError, match="planted"):
        run(shell, ["assert False, 'planted'"])
