"""Records of a run: one JSON line per answered question, written once and never again.

A folder holds `run.json` (what was run, with what) and `records.jsonl`. The lines are flushed one
by one; an interrupted run is opened again and goes on with the first key that is missing. A last
line that was cut off while being written is dropped on opening: its question was not finished.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from focus.errors import RecordsConflictError

Record = dict[str, Any]
#: What makes a record unique; a second one with the same values is refused.
KEY_FIELDS = ("model", "benchmark", "decoding", "id", "order", "seed")
PACKAGES = (
    "torch",
    "torchvision",
    "transformers",
    "numpy",
    "pillow",
    "tokenizers",
    "datasets",
    "scikit-learn",
)


def digest(value: object) -> str:
    """Short, stable hash of any JSON-serialisable value."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class RecordFile:
    """The records of one run, open for appending.

    Args:
        folder: created if need be.
        config: resolved settings that determine the results; a folder that was begun with others
            is refused.

    Raises:
        RecordsConflictError: the folder belongs to another configuration (the message shows the
            difference), or a line in the middle of the file is damaged.
    """

    def __init__(self, folder: str | os.PathLike[str], config: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / "records.jsonl"
        self.config_hash = digest(dict(config))
        self._begin(dict(config))
        self._recover_torn_line()
        self.records = list(read_records(self.path))
        self._keys = {_key(record) for record in self.records}
        self._file = self.path.open("a", encoding="utf-8")

    def __contains__(self, record: Mapping[str, Any]) -> bool:
        return _key(record) in self._keys

    def append(self, record: Record) -> None:
        """Writes one finished record.

        Raises:
            RecordsConflictError: a record of this key is there already.
        """
        if record in self:
            raise RecordsConflictError(f"{self.path} already holds a record of {_key(record)}")
        self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._file.flush()
        self._keys.add(_key(record))
        self.records.append(record)

    def close(self) -> None:
        """Closes the file; the records stay readable."""
        self._file.close()

    def finish(self, **facts: Any) -> None:
        """Adds facts about the finished run (seconds, peak memory) to the run record.

        They are one entry per session, since an interrupted run is finished by a later one.
        """
        path = self.folder / "run.json"
        run = json.loads(path.read_text(encoding="utf-8"))
        run.setdefault("sessions", []).append(facts)
        _write_json(path, run)

    def __enter__(self) -> RecordFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _begin(self, config: dict[str, Any]) -> None:
        run_path = self.folder / "run.json"
        if run_path.exists():
            known = json.loads(run_path.read_text(encoding="utf-8"))["config"]
            if known != config:
                raise RecordsConflictError(
                    f"{self.folder} holds records of another configuration; choose another folder "
                    f"or remove it. Differences (there -> here): {_differences(known, config)}"
                )
            return
        if self.path.exists() and self.path.stat().st_size:
            raise RecordsConflictError(f"{self.path} has records but no run.json says of what run")
        run = {"config": config, "config_hash": self.config_hash, **environment()}
        _write_json(run_path, run)

    def _recover_torn_line(self) -> None:
        if not self.path.exists():
            return
        data = self.path.read_bytes()
        complete = data.rfind(b"\n") + 1
        if complete < len(data):
            with self.path.open("r+b") as file:
                file.truncate(complete)


def read_records(path: str | os.PathLike[str]) -> Iterator[Record]:
    """Records of a file, gzipped if its name ends in ``.gz``, in the order of writing; none if
    there is no file.

    Raises:
        RecordsConflictError: a line is not JSON.
    """
    path = Path(path)
    if not path.exists():
        return
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise RecordsConflictError(f"{path}, line {number} is damaged: {error}") from error


def environment() -> Record:
    """What the results may depend on beside the configuration: code, packages, machine."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
    }


def _write_json(path: Path, content: Record) -> None:
    """Replaces the file at once: an interruption leaves the old one or the new one, never half."""
    partial = path.with_suffix(".json.part")
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


def peak_memory() -> dict[str, float]:
    """Largest memory use of this process so far, in MiB: of the host, and of the GPU if any."""
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if platform.system() == "Darwin" else 1024
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
    found = {"peak_memory_mib": round(host, 1)}
    if torch.cuda.is_available():
        found["peak_gpu_memory_mib"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return found


def _key(record: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(record.get(field) for field in KEY_FIELDS)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None  # installed without a checkout


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        items: Sequence[tuple[Any, Any]] = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    else:
        return {prefix: value}
    return {
        k: v
        for key, part in items
        for k, v in _flatten(part, f"{prefix}.{key}".lstrip(".")).items()
    }


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    old, new = _flatten(there), _flatten(here)
    changed = [key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key)]
    return "; ".join(f"{key}: {old.get(key)!r} -> {new.get(key)!r}" for key in changed)
