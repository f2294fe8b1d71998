"""Records of a run: one JSON line per answered question, written once and never again.

A folder holds `run.json` (what was run, with what) and `records.jsonl`. The lines are flushed one
by one; an interrupted run is opened again and goes on with the first key that is missing. A last
line that was cut off while being written is dropped on opening: its question was not finished.
Several processes may share the questions of a run in shards.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import platform
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from focus.environment import environment
from focus.errors import InvalidValueError, RecordsConflictError, RecordsLockedError

Record = dict[str, Any]
#: What makes a record unique; a second one with the same values is refused.
KEY_FIELDS = ("model", "benchmark", "decoding", "id", "order", "seed")
#: What records of the same key agree on, where they have it: the question is still the same.
QUESTION_FIELDS = ("prompt_hash", "answer")
#: Settings of speed and place: they say how and where results are computed, not which.
SPEED = (
    *("encode_batch", "device", "device_map", "offload_folder", "threads"),
    *("path", "videos", "offline"),
)
RECORDS = "records.jsonl"


def identity(config: Any) -> Any:
    """The settings that determine the results: all but those of speed and place.

    >>> identity({"decoding": {"alpha": 0.3, "encode_batch": 8}})
    {'decoding': {'alpha': 0.3}}
    """
    if isinstance(config, Mapping):
        return {key: identity(value) for key, value in config.items() if key not in SPEED}
    return [identity(value) for value in config] if isinstance(config, list) else config


@dataclass(frozen=True)
class Shard:
    """One of several parts of a run's questions: every `count`-th, from `index` (from 0)."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: object) -> Shard | None:
        """Shard of a setting such as ``0/4``; None for none.

        Raises:
            InvalidValueError: not of that form, or no such part.
        """
        if text is None:
            return None
        found = re.fullmatch(r"(\d+)/(\d+)", str(text))
        if not found or not int(found[1]) < int(found[2]):
            accepted = "k/n with k from 0 to n - 1, such as 0/4, or null"
            raise InvalidValueError("shard", text, accepted)
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def __contains__(self, position: int) -> bool:
        return position % self.count == self.index

    @property
    def file_name(self) -> str:
        """Of its records."""
        return f"records-{self.index}-of-{self.count}.jsonl"


def digest(value: object) -> str:
    """Short, stable hash of any JSON-serialisable value."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class RecordFile:
    """The records of one run, or of one shard of it, open for appending by one process.

    Args:
        folder: created if need be.
        config: resolved settings; a folder that was begun with others is refused, but for those
            that `identity` leaves out.
        shard: this process's part of the questions; None for all of them. A shard has a file of its
            own, and the last one to finish merges all into the file that one process would have
            written.
        wait: wait for a process that holds the file, instead of refusing.
        retry_failed: forget this process's records of questions that could not be processed.

    Raises:
        RecordsConflictError: the folder belongs to another configuration (the message shows the
            difference) or is divided otherwise, or a line in the middle of the file is damaged.
        RecordsLockedError: another process is writing this file, or is at all the questions of
            which this is a shard; the message says which process.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        config: Mapping[str, Any],
        *,
        shard: Shard | None = None,
        wait: bool = False,
        retry_failed: bool = False,
    ) -> None:
        self.folder, self.shard = Path(folder), shard
        self._settings = json.loads(json.dumps(config))  # as it is read back, tuples as lists
        self.folder.mkdir(parents=True, exist_ok=True)
        self.path = self.folder / (shard.file_name if shard else RECORDS)
        self.config_hash = digest(identity(config))
        self._lock = self._acquired(self.path, wait=wait)
        try:
            with self._folder_lock():
                if shard:  # a process at all the questions would answer those of this shard, too
                    self._acquired(self.folder / RECORDS).release()
                self._begin()
                _drop_torn_line(self.path)
                if retry_failed:
                    self._forget_failed()
                self.records = _each_once([*self._merged(), *read_records(self.path)])
                self._file = self.path.open("a", encoding="utf-8")
        except BaseException:
            self._lock.release()
            raise
        self._by_key = {_key(record): record for record in self.records}

    def __contains__(self, record: Mapping[str, Any]) -> bool:
        """Whether there is a record of this key.

        Raises:
            RecordsConflictError: there is, of a question that has changed since (as in a local data
                set that was edited).
        """
        known = self._by_key.get(_key(record))
        for field in QUESTION_FIELDS:
            if known and len({k[field] for k in (known, record) if field in k}) > 1:
                raise RecordsConflictError(
                    f"{self.folder} holds an answer to question {record['id']!r} from before it "
                    f"changed ({field}); remove that folder to ask anew"
                )
        return known is not None

    def append(self, record: Record) -> None:
        """Writes one finished record.

        Raises:
            RecordsConflictError: a record of this key is there already.
        """
        if record in self:
            raise RecordsConflictError(f"{self.path} already holds a record of {_key(record)}")
        self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._file.flush()
        self._by_key[_key(record)] = record
        self.records.append(record)

    def close(self) -> None:
        """Closes the file; the records stay readable."""
        self._file.close()
        self._lock.release()

    def finish(self, facts: Record, *, asked: Record | None = None) -> bool:
        """Adds facts about the finished run (seconds, peak memory) to the run record.

        They are one entry per session, since an interrupted run is finished by a later one. The
        last shard to finish merges all of them; `records` then holds those of the whole run.

        Args:
            facts: about this session, beside its settings.
            asked: what the answers were limited to; shards that were asked the same go together.

        Returns:
            Whether the run is complete; False while other shards are not.
        """
        with self._folder_lock():
            run = self._read_run()
            name = {"shard": str(self.shard)} if self.shard else {}
            session = {**name, "settings": self._settings, **facts}
            run.setdefault("sessions", []).append(session)
            complete = True
            if self.shard:
                finished = run.setdefault("shards_done", {})
                work = json.dumps(asked or {}, sort_keys=True)
                done = {*finished.get(work, ()), str(self.shard)}
                finished[work] = sorted(done)
                complete = len(done) == self.shard.count
                if complete:
                    self._merge()
            _write_json(self._run_path, run)
        return complete

    def __enter__(self) -> RecordFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def _run_path(self) -> Path:
        return self.folder / "run.json"

    def _read_run(self) -> Record:
        run: Record = json.loads(self._run_path.read_text(encoding="utf-8"))
        return run

    def _folder_lock(self) -> FileLock:
        """Held for a moment by whoever opens, finishes or merges records of this folder."""
        return FileLock(self.folder / "run.json.lock")

    def _acquired(self, path: Path, *, wait: bool = False) -> FileLock:
        """Lock of a file of records; the system frees it when its process ends, however it does."""
        lock = FileLock(f"{path}.lock")
        try:
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            writers = self._read_run().get("writers", {}) if self._run_path.exists() else {}
            raise RecordsLockedError(
                f"{writers.get(path.name, 'another process')} is writing {path}; wait for it, or "
                "let several processes share the questions: shard=0/2 in one, shard=1/2 in the "
                "other"
            ) from None
        return lock

    def _begin(self) -> None:
        """Checks that this process may write here, and notes that it does."""
        config, merged = self._settings, self.folder / RECORDS
        if self._run_path.exists():
            run = self._read_run()
            known = run["config"]
            if identity(known) != identity(config):
                raise RecordsConflictError(
                    f"{self.folder} holds records of another configuration; choose another "
                    "folder or remove it. Differences (there -> here): "
                    f"{_differences(identity(known), identity(config))}"
                )
        elif merged.exists() and merged.stat().st_size:
            raise RecordsConflictError(f"{merged} has records but no run.json says of what run")
        else:
            run = {"config": config, "config_hash": self.config_hash, **environment()}
        count = self.shard.count if self.shard else None
        for path in self.folder.glob("records-*-of-*.jsonl"):
            if path.stem.rpartition("-")[2] != str(count):
                raise RecordsConflictError(
                    f"{self.folder} is divided into shards ({path.name}); finish them with "
                    f"shard=0/{path.stem.rpartition('-')[2]} and so on, or remove those files"
                )
        process = f"process {os.getpid()} on {platform.node()}"
        run.setdefault("writers", {})[self.path.name] = process
        # At work again: others must not merge, and with it remove, a file that is being written.
        done = run.get("shards_done", {}).items()
        run["shards_done"] = {w: [s for s in names if s != str(self.shard)] for w, names in done}
        _write_json(self._run_path, run)

    def _forget_failed(self) -> None:
        """Drops the records with an error that this process would have written."""
        for path in {self.path, self.folder / RECORDS}:
            records = list(read_records(path))
            kept = [
                record
                for record in records
                if not record.get("error") or (self.shard and record["index"] not in self.shard)
            ]
            if len(kept) < len(records):
                write_records(path, kept)

    def _merged(self) -> Iterator[Record]:
        """Records of the whole run, where this is a shard of one that was merged before."""
        return read_records(self.folder / RECORDS) if self.shard else iter(())

    def _merge(self) -> None:
        """All shards in the order in which one process would have written them."""
        assert self.shard is not None
        self._file.flush()
        shards = [Shard(k, self.shard.count) for k in range(self.shard.count)]
        paths = [self.folder / shard.file_name for shard in shards]
        files = (self.folder / RECORDS, *paths)
        # Once each: an earlier merge may have been interrupted before it removed the shards.
        records = _each_once([record for path in files for record in read_records(path)])
        cells: dict[tuple[Any, ...], int] = {}
        for record in records:  # a cell of few questions may miss some shards, but not the first
            cells.setdefault(_key(record, without="id"), len(cells))
        records.sort(key=lambda record: (cells[_key(record, without="id")], record["index"]))
        write_records(self.folder / RECORDS, records)
        for path in paths:
            path.unlink(missing_ok=True)
        self.records = records


def _each_once(records: list[Record]) -> list[Record]:
    """The first record of every key."""
    return list({_key(record): record for record in reversed(records)}.values())[::-1]


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


def _drop_torn_line(path: Path) -> None:
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


def _write_json(path: Path, content: Record) -> None:
    """Replaces the file at once: an interruption leaves the old one or the new one, never half."""
    partial = path.with_suffix(".json.part")
    partial.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)


def _key(record: Mapping[str, Any], *, without: str = "") -> tuple[Any, ...]:
    return tuple(record.get(field) for field in KEY_FIELDS if field != without)


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
