"""Where a benchmark's rows come from: hub or local copy, checked against a schema, never guessed.

A local copy is a folder written by `datasets.save_to_disk`, a downloaded hub snapshot, or parquet,
arrow or JSON-lines files (alone or in a folder). Images stay undecoded until a row is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from focus.benchmarks.schema import check_schema
from focus.errors import DatasetUnavailableError
from focus.hub import hub_answers

if TYPE_CHECKING:
    import datasets

_SUFFIXES = (".parquet", ".arrow", ".jsonl", ".json")
_INFO_FILES = frozenset({"dataset_info.json", "dataset_dict.json", "state.json", "metadata.json"})


@dataclass(frozen=True)
class DataSource:
    """A data set and what is known of it.

    Args:
        name: of the benchmark, for messages.
        repo: hub id; empty for data that is read from `path` alone.
        revision: pinned commit of the hub repository; None where none could be verified.
        splits: those that can be scored; the first is the default.
        fields: required fields and their kinds, see `focus.benchmarks.schema`.
        optional: further fields, checked only where they exist.
        configs: configurations to load and join; empty for the only one.
        size: published number of rows per split, over all configurations.
        licence: as stated by its card or repository.
        gated: whether the hub asks for accepted conditions.
        paper: link.
    """

    name: str
    repo: str
    revision: str | None
    splits: tuple[str, ...]
    fields: Mapping[str, str]
    paper: str
    licence: str
    optional: Mapping[str, str] = field(default_factory=dict)
    configs: tuple[str, ...] = ()
    size: Mapping[str, int] = field(default_factory=dict)
    gated: bool = False

    @property
    def card(self) -> str:
        """Address of the data set's card."""
        return f"https://huggingface.co/datasets/{self.repo}"


class Rows:
    """Rows of a loaded data set; reading one does not touch the others.

    Args:
        parts: the data sets to read one after the other, each with the folder that relative image
            paths in it start from.
        images: fields that hold images.
    """

    def __init__(
        self, parts: Sequence[tuple[datasets.Dataset, Path | None]], images: Sequence[str]
    ) -> None:
        self._tables = [(dataset.with_format("arrow"), base) for dataset, base in parts]
        self._images = tuple(images)

    def __len__(self) -> int:
        return sum(len(table) for table, _ in self._tables)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One row; images as ``{"bytes", "path"}`` or a path."""
        for table, base in self._tables:
            if index < len(table):
                row = table[index].to_pylist()[0]
                return row | {n: _placed(row[n], base) for n in self._images if n in row}
            index -= len(table)
        raise IndexError("no such row")

    def select(self, columns: Sequence[str]) -> list[dict[str, Any]]:
        """Every row, but only some of its fields: no image is read for them."""
        rows: list[dict[str, Any]] = []
        for table, _ in self._tables:
            known = [name for name in columns if name in table.column_names]
            rows += table.select_columns(known)[:].to_pylist()
        return rows


def _placed(cell: Any, base: Path | None) -> Any:
    """An image cell with its path below `base`; cells that hold bytes stay as they are."""
    if isinstance(cell, list):
        return [_placed(each, base) for each in cell]
    if isinstance(cell, Mapping):
        path = cell.get("path")
        return cell if cell.get("bytes") or not path else {"path": _placed(path, base)}
    return str(base / cell) if isinstance(cell, str) and base else cell


def load_rows(
    source: DataSource,
    *,
    split: str,
    configs: Sequence[str] = (),
    path: str | None = None,
    revision: str | None = None,
    offline: bool = False,
) -> Rows:
    """Loads one split and checks its schema.

    Args:
        source: the data set.
        split: one of its splits.
        configs: configurations to join; empty for the only one.
        path: local copy to read instead of the hub.
        revision: commit to read instead of the pinned one.
        offline: never ask the hub; take the snapshot in the local cache.

    Raises:
        DatasetUnavailableError: it cannot be had: gated, offline, misspelt, no such folder.
        DatasetSchemaError: a field is missing or has another type.
    """
    revision = revision or source.revision
    parts: list[tuple[datasets.Dataset, Path | None]] = []
    for config in configs or (None,):
        # Without a network the snapshot is read as well: asking the hub would only take long.
        if path is None and not source.repo:
            raise DatasetUnavailableError(f"{source.name}: no data. {_instead(source, revision)}")
        if path is None and not offline and hub_answers():
            parts.append((_from_hub(source, split, config, revision), None))
        else:
            root = Path(path).expanduser() if path else _snapshot(source, revision, offline)
            parts.append(_from_folder(source, root, split, config))
        check_schema(parts[-1][0].features, source.fields, source.optional, source.name)
    rows = Rows(parts, [name for name, kind in source.fields.items() if kind.startswith("image")])
    published = source.size.get(split)
    whole = tuple(configs) == source.configs and published is not None
    if parts[0][1] and path is None and whole and len(rows) != published:
        raise DatasetUnavailableError(
            f"{source.name}: the local cache holds {len(rows)} of {published} rows of "
            f"{source.repo}; download the rest with {_download(source, revision)}"
        )
    return rows


def _from_hub(
    source: DataSource, split: str, config: str | None, revision: str | None
) -> datasets.Dataset:
    import datasets
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return datasets.load_dataset(source.repo, config, split=split, revision=revision)
    except (OSError, ValueError, DatasetsError, HfHubHTTPError) as error:
        raise DatasetUnavailableError(
            f"{source.name} ({source.repo}, split {split}"
            + (f", configuration {config}" if config else "")
            + (f", revision {revision}" if revision else "")
            + f") cannot be loaded: {_why(source, error, revision)}. {_instead(source, revision)}"
        ) from error


def _why(source: DataSource, error: BaseException, revision: str | None) -> str:
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    names = {type(one).__name__ for one in chain}
    text = " ".join(str(one) for one in chain)
    if "GatedRepoError" in names or "gated dataset" in text:
        return f"it is gated: accept its conditions at {source.card}, then run `hf auth login`"
    if "RevisionNotFoundError" in names or re.search(r"Revision '.*' doesn't exist", text):
        return f"the hub has no revision {revision} of it; choose one with benchmark.revision=..."
    if {
        "OfflineModeIsEnabled",
        "ConnectionError",
        "ConnectError",
        "LocalEntryNotFoundError",
    } & names:
        return (
            "the hub cannot be reached (no network, or HF_HUB_OFFLINE is set) and it is not cached"
        )
    if {"DatasetNotFoundError", "RepositoryNotFoundError"} & names:
        gated = f"; it is gated, so log in with `hf auth login` ({source.card})"
        return "the hub shows no data set of that name" + (gated if source.gated else "")
    return (str(error).splitlines() or [type(error).__name__])[0]


def _download(source: DataSource, revision: str | None) -> str:
    pinned = f" --revision {revision}" if revision else ""
    return f"`hf download {source.repo} --repo-type dataset{pinned}`"


def _instead(source: DataSource, revision: str | None) -> str:
    if not source.repo:
        return "It is on no hub: pass its folder or file as benchmark.path=/path/to/it"
    return (
        f"Elsewhere, download it with {_download(source, revision)} and pass the folder as "
        "benchmark.path=/path/to/it (folders of datasets.save_to_disk and parquet files work too)"
    )


def _snapshot(source: DataSource, revision: str | None, offline: bool) -> Path:
    import huggingface_hub

    try:
        folder = huggingface_hub.snapshot_download(
            source.repo, repo_type="dataset", revision=revision, local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise DatasetUnavailableError(
            f"{source.name}: {source.repo}"
            + (f" at revision {revision}" if revision else "")
            + " is not in the local cache, and "
            + (
                "offline=true asks for no other place. "
                if offline
                else "the hub cannot be reached (no network, or HF_HUB_OFFLINE is set). "
            )
            + _instead(source, revision)
        ) from error
    return Path(folder)


def _from_folder(
    source: DataSource, root: Path, split: str, config: str | None
) -> tuple[datasets.Dataset, Path]:
    import datasets

    if not root.exists():
        raise DatasetUnavailableError(
            f"{source.name}: there is no file or folder {str(root)!r}; " + _instead(source, None)
        )
    for folder in (root, *sorted(p for p in root.glob("*") if p.is_dir())):
        if (folder / "dataset_dict.json").exists():
            saved = datasets.load_from_disk(str(folder))
            if split not in saved:
                known = ", ".join(sorted(saved))
                raise DatasetUnavailableError(
                    f"{source.name}: {str(folder)!r} has no split {split!r}; it has {known}"
                )
            return saved[split], folder
    if (root / "state.json").exists():
        return datasets.load_from_disk(str(root)), root
    files = data_files(root, split, config)
    if not files:
        raise DatasetUnavailableError(
            f"{source.name}: {str(root)!r} holds no data of split {split!r}"
            + (f" and configuration {config!r}" if config else "")
            + f" (looked for {', '.join(_SUFFIXES)} and datasets.save_to_disk)"
        )
    names, kind = [str(file) for file in files], files[0].suffix
    if kind == ".parquet":
        return datasets.Dataset.from_parquet(names), root
    if kind == ".arrow":
        parts = [datasets.Dataset.from_file(name) for name in names]
        return datasets.concatenate_datasets(parts), root
    return datasets.Dataset.from_json(names), files[0].parent


def data_files(root: Path, split: str, config: str | None) -> list[Path]:
    """Files of one split and configuration, of the first format that there is.

    A file belongs to a split that its name starts with or its folder is called, and to a
    configuration that a folder above it is called; where nothing is called so, every file does.
    """
    if root.is_file():
        return [root] if root.suffix in _SUFFIXES else []
    found = sorted(
        path
        for depth in ("*", "*/*", "*/*/*")
        for path in root.glob(depth)
        if path.suffix in _SUFFIXES and path.name not in _INFO_FILES
    )
    if config:
        own = [p for p in found if config in p.relative_to(root).parts[:-1]]
        foldered = any(len(p.relative_to(root).parts) > 1 for p in found)
        found = own if own or (foldered and root.name != config) else found
    named = re.compile(rf"{re.escape(split)}(?:[-_.]|$)")
    of_split = [p for p in found if named.match(p.name) or p.parent.name == split]
    found = of_split or [p for p in found if not re.match(r"(train|val|dev|test)[-_.]", p.name)]
    kinds = [suffix for suffix in _SUFFIXES if any(p.suffix == suffix for p in found)]
    return [p for p in found if p.suffix == kinds[0]] if kinds else []
