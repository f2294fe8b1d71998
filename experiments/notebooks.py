"""Executes notebooks and renews their outputs: the part ``notebooks`` of `experiments.report`.

    python -m experiments.report 'parts=[notebooks]'       (make notebooks)

Where nothing has changed the files stay as they are, to the byte: no times are kept.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from focus.parsing.optional import optional_module


def notebooks_of(root: Path) -> list[Path]:
    """All of them, the largest first: those with figures take longest."""
    return sorted((root / "notebooks").glob("*.ipynb"), key=lambda path: -path.stat().st_size)


def renew_notebook(path: Path) -> None:
    """Executes a notebook from the top, in a kernel of its own, and keeps what it shows.

    Raises:
        MissingExtraError: Jupyter is not installed.
        nbclient.exceptions.CellExecutionError: a cell fails; the file stays as it was.
    """
    purpose = "execute notebooks"
    nbformat = optional_module("nbformat", extra="notebooks", purpose=purpose)
    client = optional_module("nbclient", extra="notebooks", purpose=purpose).NotebookClient
    notebook: Any = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
    # The code beside the notebooks, whatever is installed.
    paths = os.pathsep.join(
        [str(path.resolve().parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    quiet = ["--IPKernelApp.log_level=ERROR"]
    # Merged: how lines of output come in pieces is chance, and would change the file.
    settings = {"record_timing": False, "coalesce_streams": True, "extra_arguments": quiet}
    client(notebook, timeout=600, **settings).execute(
        cwd=str(path.parent), env={**os.environ, "PYTHONPATH": paths}
    )
    nbformat.write(notebook, path)
