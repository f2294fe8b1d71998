"""What all benchmarks made of a public data set share: rows, parts, identities, image decoding."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image, ImageOps

from focus.benchmarks.base import AbstractBenchmark, Example
from focus.benchmarks.source import DataSource, Rows, load_rows
from focus.checks import NotEmpty, Positive, check_fields
from focus.errors import DatasetSchemaError, ImageError, InvalidValueError
from focus.images import load_image
from focus.randomness import key_to_seed
from focus.scoring import Scorer, score_answer

PARTS = ("dev", "test", "all")
DEV_FRACTION = 0.1
"""Share of a split that is for tuning; reports are on the rest."""


@dataclass(frozen=True)
class Item:
    """One row and who it is.

    Args:
        position: index of the row in the data set.
        id: stable name of the row, without the benchmark's name.
        cluster: rows that share images have the same.
    """

    position: int
    id: str
    cluster: str


def part_of(benchmark: str, cluster: str) -> str:
    """The part that a row belongs to, by the hash of its cluster: "dev" or "test".

    It depends on nothing else, so it is the same for every protocol, split order and subset, and
    rows that share images are never torn apart.
    """
    draw = key_to_seed("part", benchmark, cluster) / 2**128
    return "dev" if draw < DEV_FRACTION else "test"


@dataclass(frozen=True)
class AbstractHubBenchmark(AbstractBenchmark):
    """A benchmark whose rows are a public data set.

    The data set is loaded when the first example or the length is asked for; images are decoded
    one row at a time. Item ids depend on the row alone.

    Args:
        split: split of the data set.
        part: "dev" (a tenth, for tuning), "test" (the rest, for reports) or "all". Most of these
            data sets have a test split only; tuning on what is reported would be leakage too.
        protocol: "official" (published prompts and parser, defects included) or "strict" (the
            benchmark's own prompts, anchored parser, what cannot be read is wrong).
        path: local copy to read instead of the hub, see `focus.benchmarks.source`.
        offline: never ask the hub; read the snapshot in the local cache.
        revision: commit to read instead of the pinned one.
        max_items: at most so many rows, chosen by hash: a larger number only adds rows.
        order: see `AbstractBenchmark.orders`.
    """

    split: str = "test"
    part: str = "test"
    protocol: str = "strict"
    path: NotEmpty | Path | None = None
    offline: bool = False
    revision: NotEmpty | None = None
    max_items: Positive | None = None
    order: int = 0

    name: ClassVar[str]
    source: ClassVar[DataSource]
    #: Fields that `_identity` and `_keeps` read; none of them an image.
    index_fields: ClassVar[tuple[str, ...]]
    questions_per_row: ClassVar[int] = 1
    #: How the benchmark averages: over "items", or first within each "category".
    average: ClassVar[str] = "items"

    def __post_init__(self) -> None:
        _one_of("split", self.split, self.source.splits)
        _one_of("part", self.part, PARTS)
        _one_of("protocol", self.protocol, tuple(self.parsers()))
        check_fields(self)
        if isinstance(self.order, bool) or self.order not in range(self.orders):
            raise InvalidValueError("order", self.order, f"an integer from 0 to {self.orders - 1}")

    def __len__(self) -> int:
        return len(self.items) * self.questions_per_row

    def __getitem__(self, index: int) -> Example:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} examples")
        place, member = divmod(index % len(self), self.questions_per_row)
        item = self.items[place]
        try:
            return self._example(self.rows[item.position], item, member)
        except KeyError as error:
            raise DatasetSchemaError(f"{self.name}, row {item.id!r}: no field {error}") from error

    @cached_property
    def rows(self) -> Rows:
        """All rows of the split, whatever the part.

        Raises:
            DatasetUnavailableError, DatasetSchemaError: see `focus.benchmarks.source.load_rows`.
        """
        return self._load()

    @cached_property
    def items(self) -> tuple[Item, ...]:
        """The rows of this part, in the order of the data set."""
        seen: Counter[str] = Counter()
        items = []
        for position, row in enumerate(self.rows.select(self.index_fields)):
            identity, cluster = self._identity(row)
            seen[identity] += 1
            if seen[identity] > 1:  # rows that the data set gives the same name
                identity += f"~{seen[identity]}"
            in_part = self.part == "all" or part_of(self.name, cluster) == self.part
            if in_part and self._keeps(row):
                items.append(Item(position, identity, cluster))
        if self.max_items is not None:
            chosen = sorted(items, key=lambda item: key_to_seed("order", self.name, item.id))
            items = sorted(chosen[: self.max_items], key=lambda item: item.position)
        return tuple(items)

    def _load(self) -> Rows:
        return load_rows(
            self.source,
            split=self.split,
            configs=self._configs(),
            path=None if self.path is None else str(self.path),
            revision=self.revision,
            offline=self.offline,
        )

    @classmethod
    def parsers(cls) -> Mapping[str, Scorer]:
        """By protocol; benchmarks that the authors evaluated, or that ask for letters, say more."""
        return {"strict": score_answer}

    def _configs(self) -> tuple[str, ...]:
        return self.source.configs

    @abstractmethod
    def _identity(self, row: Mapping[str, Any]) -> tuple[str, str]:
        """Id and cluster of a row, from its `index_fields`."""

    def _keeps(self, row: Mapping[str, Any]) -> bool:
        """Whether a row belongs to the chosen subset, from its `index_fields`."""
        return True

    @abstractmethod
    def _example(self, row: dict[str, Any], item: Item, member: int) -> Example:
        """One of the questions of a row."""

    def image(self, cell: Any, item: Item) -> Image.Image:
        """RGB image of a cell. The official protocol drops transparency, as `convert` does."""
        content = cell.get("bytes") or cell.get("path") if isinstance(cell, Mapping) else cell
        if not content:
            raise DatasetSchemaError(f"{self.name}, row {item.id!r} has an empty image")
        try:
            image = load_image(content)
        except ImageError as error:
            raise ImageError(f"{self.name}, row {item.id!r}: {error}") from error
        if self.protocol == "official":
            with Image.open(BytesIO(content) if isinstance(content, bytes) else content) as raw:
                if raw.has_transparency_data:
                    return ImageOps.exif_transpose(raw).convert("RGB")
        return image


def _one_of(name: str, value: object, accepted: tuple[str, ...]) -> None:
    if value not in accepted:
        raise InvalidValueError(name, value, f"one of {', '.join(accepted)}")


def option_index(answer: str, count: int, row: str) -> int:
    """Index that an answer such as "B", "(B)" or "B. a dog" stands for.

    Raises:
        DatasetSchemaError: it is no letter, or beyond the options.
    """
    text = answer.strip("() \n")
    letter = text if len(text) == 1 else next((c for c in text if c.isalpha()), "")
    index = ord(letter.upper()) - ord("A") if letter else -1
    if not 0 <= index < count:
        raise DatasetSchemaError(f"{row}: answer {answer!r} is none of its {count} options")
    return index
