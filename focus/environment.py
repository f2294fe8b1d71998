"""What results may depend on beside the settings: code, packages, machine; and what a run took."""

from __future__ import annotations

import importlib.metadata
import platform
import resource
import subprocess
import time
from functools import cache
from pathlib import Path
from typing import Any

PACKAGES = (
    *("torch", "torchvision", "transformers", "tokenizers", "numpy", "pillow", "datasets"),
    "scikit-learn",
)


def environment() -> dict[str, Any]:
    """Commit, versions, device and threads of this process."""
    import torch  # here, so that records can be read without the seconds it takes

    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
    }


def session_facts(started: float) -> dict[str, float]:
    """Seconds since `started` (of `time.perf_counter`), and `peak_memory`."""
    return {"seconds": round(time.perf_counter() - started, 3), **peak_memory()}


def peak_memory() -> dict[str, float]:
    """Largest memory use of this process so far, in MiB: of the host, and of the GPU if any."""
    import torch

    # Linux counts in KiB, macOS in bytes.
    unit = 1 if platform.system() == "Darwin" else 1024
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
    found = {"peak_memory_mib": round(host, 1)}
    if torch.cuda.is_available():
        found["peak_gpu_memory_mib"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return found


@cache  # a process runs the code that it has read
def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@cache
def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None  # installed without a checkout
