"""The oldest `transformers` that is allowed does the same as the one that is installed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
#: What the numbers hang on: rows, caches, engine, families.
TESTS = ("test_prefill.py", "test_engine.py", "test_families.py", "test_generate.py")


@pytest.mark.slow
def test_the_oldest_version_that_is_allowed(tmp_path):
    """Installed beside the environment from the package index, which this test needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (allowed,) = (each for each in project["dependencies"] if each.startswith("transformers"))
    oldest = re.search(r">=([\d.]+)", allowed)[1]
    wanted = (f"transformers=={oldest}.0", "huggingface-hub<2")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", tmp_path)
    subprocess.run([*pip, *wanted], check=True)
    own = {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        [sys.executable, "-c", "import transformers; print(transformers.__version__)"],
        env=os.environ | own, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.strip() == f"{oldest}.0"  # not the installed one
    tests = [str(ROOT / "tests" / name) for name in TESTS]
    finished = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", *tests],
        env=os.environ | own, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stdout[-3000:]
