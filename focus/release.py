"""Records and weights of a release: repositories of the Hugging Face hub, pinned by hash.

`push` uploads a part of the repository with the SHA-256 sums of its files, and says how to pin it;
`pull` has that pin's files, or fails. A folder can stand in for the hub, offline and for tests.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from focus.errors import DatasetUnavailableError, InvalidValueError, UnknownNameError
from focus.hub import hub_answers

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Part:
    """What of the repository one hub repository carries.

    Args:
        kind: of the hub repository: ``dataset`` or ``model``.
        folder: of the files, from the root.
        patterns: of their names.
    """

    kind: str
    folder: str
    patterns: Sequence[str]


PARTS = {
    "records": Part("dataset", "docs", ("**/*.jsonl.gz", "**/*.json", "**/*.csv")),
    "weights": Part("model", "focus/zoo/weights", ("*/*",)),
}


@dataclass(frozen=True)
class Pin:
    """One state of a part, to be kept in the repository.

    Args:
        part: key of `PARTS`.
        repo: ``owner/name`` on the hub, or a folder, which begins with ``.`` or ``/``.
        revision: commit of the hub repository; of a folder, what it is called in there.
        sha256: of the manifest, which has the sums of all files.
    """

    part: str
    repo: str
    revision: str
    sha256: str


def push(part: str, repo: str, *, root: str | Path = ".") -> Pin:
    """Uploads a part, and says how to pin it; on the hub this needs ``hf auth login``.

    Args:
        part: ``records`` or ``weights``.
        repo: ``owner/name``, made if need be, or a folder that begins with ``.`` or ``/``.
        root: of this repository.

    Raises:
        UnknownNameError: no such part.
        InvalidValueError: there is nothing to upload.
    """
    known = _part(part)
    source = Path(root) / known.folder
    files = sorted({p for pattern in known.patterns for p in source.glob(pattern) if p.is_file()})
    if not files:
        raise InvalidValueError("root", str(root), f"a repository with files in {known.folder}")
    sums = {path.relative_to(source).as_posix(): _sha256(path) for path in files}
    text = json.dumps(sums, indent=1) + "\n"
    digest = hashlib.sha256(text.encode()).hexdigest()
    with tempfile.TemporaryDirectory() as folder:
        staged = Path(folder)
        for name in sums:
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, staged / name)
        (staged / MANIFEST).write_text(text, encoding="utf-8")
        if _is_folder(repo):
            shutil.copytree(staged, Path(repo) / digest[:40], dirs_exist_ok=True)
            return Pin(part, repo, digest[:40], digest)
        from huggingface_hub import HfApi

        api = HfApi()
        api.create_repo(repo, repo_type=known.kind, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo, repo_type=known.kind, folder_path=staged, commit_message=f"Add {part}"
        )
    return Pin(part, repo, commit.oid, digest)


def pull(pin: Pin) -> Path:
    """Folder with exactly the files of a pin: those of the local cache, else downloaded.

    Raises:
        UnknownNameError: no such part.
        DatasetUnavailableError: the repository or this state of it cannot be had.
        InvalidValueError: a file is missing or differs from what was pinned.
    """
    known = _part(pin.part)
    folder = Path(pin.repo) / pin.revision
    if not _is_folder(pin.repo):
        from huggingface_hub import snapshot_download

        try:
            folder = Path(
                snapshot_download(
                    pin.repo, repo_type=known.kind, revision=pin.revision,
                    local_files_only=not hub_answers(),
                )
            )  # fmt: skip
        except (OSError, ValueError) as error:
            raise DatasetUnavailableError(
                f"{pin.part}: {pin.repo} at {pin.revision} cannot be had. Elsewhere, download it "
                f"with `hf download {pin.repo} --repo-type {known.kind} --revision {pin.revision}`"
            ) from error
    if not folder.is_dir():
        raise DatasetUnavailableError(f"{pin.part}: there is no folder {str(folder)!r}")
    _check(folder, MANIFEST, pin.sha256)
    sums: dict[str, str] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    for name, expected in sums.items():
        _check(folder, name, expected)
    return folder


def _part(name: str) -> Part:
    if name not in PARTS:
        raise UnknownNameError("part of a release", name, PARTS)
    return PARTS[name]


def _is_folder(repo: str) -> bool:
    return repo.startswith((".", "/"))


def _check(folder: Path, name: str, expected: str) -> None:
    path = folder / name
    found = _sha256(path) if path.is_file() else "no such file"
    if found != expected:
        raise InvalidValueError(f"SHA-256 of {path}", found, f"{expected}, as pinned")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
