"""Records of a run: one JSON line per answered question, written once and never again.

A folder holds `run.json` (what was run, with what) and `records.jsonl`. The lines are flushed one
by one; an interrupted run is opened again and goes on with the first key that is missing. A last
line that was cut off while being written is dropped on opening: its question was not finished.
Several processes may share the questions of a run in shards.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from filelock import FileLock, Timeout

from focus.environment import environment
from focus.errors import RecordsConflictError, RecordsLockedError
from focus.records.files import (
    RECORDS,
    Record,
    drop_torn_line,
    read_records,
    write_json,
    write_records,
)
from focus.records.settings import Shard, differences, digest, identity

#: What makes a record unique; a second one with the same values is refused.
KEY_FIELDS = ("model", "benchmark", "decoding", "id", "order", "seed")
#: What records of the same key agree on, where they have it: the question is still the same.
QUESTION_FIELDS = ("prompt_hash", "images_hash", "answer")


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
                drop_torn_line(self.path)
                if retry_failed:
                    self._forget_failed()
                self.records = _each_once([*self._merged(), *read_records(self.path)])
                self._file = self.path.open("a", encoding="utf-8")
        except BaseException:
            self._lock.release()
            raise
        self._by_key: dict[tuple[Any, ...], Record] = {}
        self._ids: dict[tuple[Any, ...], str] = {}  # of the question at each place
        for record in self.records:
            self._note(record)

    def _note(self, record: Record) -> None:
        self._by_key[record_key(record)] = record
        if "index" in record and not record.get("error"):  # else it may have had no id
            self._ids[_place(record)] = record["id"]

    def __contains__(self, record: Mapping[str, Any]) -> bool:
        """Whether there is a record of this key.

        Raises:
            RecordsConflictError: there is, of a question that has changed since (as in a local data
                set that was edited), or another question stood at its place.
        """
        before = self._ids.get(_place(record), record["id"])
        if before != record["id"]:
            raise RecordsConflictError(
                f"{self.folder} holds answers to other questions: {before!r} stood where "
                f"{record['id']!r} stands now (number {record['index']}); remove that folder to "
                "ask anew"
            )
        known = self._by_key.get(record_key(record))
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
            raise RecordsConflictError(
                f"{self.path} already holds a record of {record_key(record)}"
            )
        self._file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self._file.flush()
        self._note(record)
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
            write_json(self._run_path, run)
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
                    f"{differences(identity(known), identity(config))}"
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
        write_json(self._run_path, run)

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
            cells.setdefault(record_key(record, without="id"), len(cells))
        records.sort(key=lambda record: (cells[record_key(record, without="id")], record["index"]))
        write_records(self.folder / RECORDS, records)
        for path in paths:
            path.unlink(missing_ok=True)
        self.records = records


def _each_once(records: list[Record]) -> list[Record]:
    """The first record of every key."""
    return list({record_key(record): record for record in reversed(records)}.values())[::-1]


def record_key(record: Mapping[str, Any], *, without: str = "") -> tuple[Any, ...]:
    """Values of `KEY_FIELDS`, but for one."""
    return tuple(record.get(field) for field in KEY_FIELDS if field != without)


def _place(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """Where its question stands among those of its cell."""
    return (*record_key(record, without="id"), record.get("index"))
