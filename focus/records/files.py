"""Files of records: one JSON value a line, whole or not at all."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from focus.errors import InvalidValueError, RecordsConflictError

Record = dict[str, Any]
RECORDS = "records.jsonl"


def write_records(path: str | os.PathLike[str], records: Iterable[Mapping[str, Any]]) -> None:
    """Replaces a file of records at once, gzipped if its name ends in ``.gz``; equal records give
    equal bytes."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    data = "".join(lines).encode()
    partial = path.with_name(f"{path.name}.part")
    if path.suffix == ".gz":
        with partial.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
            file.write(data)
    else:
        partial.write_bytes(data)
    partial.replace(path)


def drop_torn_line(path: Path) -> None:
    """Drops a last line that was cut off while being written."""
    if not path.exists():
        return
    data = path.read_bytes()
    complete = data.rfind(b"\n") + 1
    if complete < len(data):
        with path.open("r+b") as file:
            file.truncate(complete)


def read_records(path: str | os.PathLike[str]) -> Iterator[Record]:
    """Records of a file, gzipped if its name ends in ``.gz``, in the order of writing; none if
    there is no file. A last line that is not finished is left out.

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
                if not line.endswith("\n"):
                    return  # cut off, or being written at this moment
                raise RecordsConflictError(f"{path}, line {number} is damaged: {error}") from error


def read_run(folder: Path) -> tuple[dict[str, Any], list[Record]]:
    """Settings and records of a run, gzipped or not.

    Raises:
        InvalidValueError: the folder holds no run.
        RecordsConflictError: its records are damaged.
    """
    run = folder / "run.json"
    if not run.is_file():
        raise InvalidValueError("folder", str(folder), "a folder with run.json and records.jsonl")
    settings = json.loads(run.read_text(encoding="utf-8"))["config"]
    names = (RECORDS, f"{RECORDS}.gz")
    return settings, [record for name in names for record in read_records(folder / name)]


def write_json(path: Path, content: Record) -> None:
    """Replaces the file at once: an interruption leaves the old one or the new one, never half."""
    partial = path.with_suffix(".json.part")
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)
