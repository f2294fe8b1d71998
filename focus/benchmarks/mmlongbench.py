"""MMLongBench: long contexts of images and text, in five kinds of tasks at 8K to 128K tokens.

Paper: https://arxiv.org/abs/2505.10610 (Wang et al., NeurIPS 2025).
Data: https://huggingface.co/datasets/ZhaoweiWang/MMLongBench (code `EdinburghNLP/MMLongBench`,
MIT), tar files that must be downloaded and unpacked; not gated. Licence: the repository states MIT
for its code. No revision could be verified.

    for file in 0_mmlb_data 1_vrag_image 2_vh_image 2_mm-niah_image 3_icl_image 4_summ_image \\
                5_docqa_image; do
      hf download ZhaoweiWang/MMLongBench $file.tar.gz --repo-type dataset --local-dir .
      tar -xzf $file.tar.gz
    done

`path` is the folder that then holds ``mmlb_data`` and ``mmlb_image``. One `task` is one run, and
the published score of a kind is the mean over its tasks. Scores are fractional for documents (F1
and the like) and summaries (ROUGE-L F1): see `Score.credit`.

``strict`` interleaves the images as the benchmark does and closes with its prefix ("Answer:"),
which its harness puts into the model's turn; sampled exemplars (ICL) come in an order keyed by the
row. ``official`` is `eval/mmlongbench.py` of the authors of FOCUS: images first, the same metrics.
Deviations: placeholders that they leave in the text as text are removed; a missing image is an
error, theirs becomes grey; the benchmark's judges (GPT-4o for summaries and, from v1.1 on, for
documents) are not asked. Texts are read with `json`, images by path, one row at a time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, final

from focus.benchmarks.base import Example
from focus.benchmarks.hub import AbstractHubBenchmark, Item, option_index
from focus.benchmarks.longbench_scoring import score_official, score_strict
from focus.benchmarks.longbench_tasks import TASKS, Content
from focus.benchmarks.prompting import images_first, interleaved, letters
from focus.benchmarks.source import DataSource, Rows
from focus.errors import DatasetSchemaError, DatasetUnavailableError, InvalidValueError
from focus.parsing.longbench import last_yes_no
from focus.scoring import Scorer

LENGTHS = (4, 8, 16, 32, 64, 128)
#: What the harness answers where a haystack answer says neither, by row.
_DEFAULTS = (0, 1, 1, 0)


class JsonRows(Rows):
    """Rows of a JSON-lines file, parsed when asked for; ICL files (one JSON object) as a whole.

    Args:
        file: the file.
        fields: required fields and their types.
        name: of benchmark and task, for messages.
    """

    def __init__(self, file: Path, fields: Mapping[str, tuple[type, ...]], name: str) -> None:
        self._file, self._fields, self._name = file, fields, name
        self._rows: list[dict[str, Any]] = []
        self._offsets: list[int] = []
        if file.suffix == ".json":
            self._rows = _icl_rows(json.loads(file.read_text(encoding="utf-8")), name)
            for index, row in enumerate(self._rows):
                self._check(row, index)
            return
        with file.open("rb") as lines:
            while line := lines.readline():
                if line.strip():
                    row = json.loads(line)
                    self._check(row, len(self._offsets))
                    if '"' not in str(row.get("image", "")):  # as in the harness: unusable names
                        self._offsets.append(lines.tell() - len(line))

    def __len__(self) -> int:
        return len(self._rows) or len(self._offsets)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self._rows:
            return self._rows[index]
        with self._file.open("rb") as lines:
            lines.seek(self._offsets[index])
            return dict(json.loads(lines.readline()))

    def select(self, columns: Sequence[str]) -> list[dict[str, Any]]:
        return [
            {name: row[name] for name in columns if name in row}
            for row in (self[index] for index in range(len(self)))
        ]

    def _check(self, row: Mapping[str, Any], index: int) -> None:
        problems = [
            f"{field!r} is missing" if field not in row else
            f"{field!r} is {type(row[field]).__name__}, expected "
            + " or ".join(kind.__name__ for kind in kinds)
            for field, kinds in self._fields.items()
            if not isinstance(row.get(field), kinds) or isinstance(row[field], bool)
        ]  # fmt: skip
        if problems:
            there = ", ".join(f"{field}: {type(value).__name__}" for field, value in row.items())
            raise DatasetSchemaError(
                f"{self._name}, row {index} of {str(self._file)!r}: {'; '.join(problems)}. "
                f"It has {there}"
            )


def _icl_rows(domains: Any, name: str) -> list[dict[str, Any]]:
    if not isinstance(domains, dict):
        raise DatasetSchemaError(f"{name}: expected an object of domains in the file")
    rows = []
    for domain, content in domains.items():
        if not {"exemplar_list", "test_example"} <= set(content):
            there = ", ".join(content)
            raise DatasetSchemaError(
                f"{name}: domain {domain!r} lacks exemplar_list or test_example; it has {there}"
            )
        shared = {"domain": domain, "exemplar_list": content["exemplar_list"]}
        rows += [{**example, **shared} for example in content["test_example"]]
    return rows


@final
@dataclass(frozen=True)
class MMLongBench(AbstractHubBenchmark):
    """One task of MMLongBench; see the module for data and licence. The category is the task.

    Args:
        task: one of `TASKS`.
        length: context length in thousands of tokens; the authors of FOCUS use 8.
    """

    task: str = "vh_single"
    length: int = 8

    name: ClassVar[str] = "mmlongbench"
    average: ClassVar[str] = "category"
    source: ClassVar[DataSource] = DataSource(
        name="mmlongbench",
        repo="ZhaoweiWang/MMLongBench",
        revision=None,  # no revision was verified
        splits=("test",),
        fields={},
        paper="https://arxiv.org/abs/2505.10610",
        licence="MIT (code)",
    )
    longest_answer: ClassVar[int] = 512
    index_fields: ClassVar[tuple[str, ...]] = ("id", "image", "doc_name", "domain")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.task not in TASKS:
            raise InvalidValueError("task", self.task, f"one of {', '.join(TASKS)}")
        if self.length not in LENGTHS:
            accepted = f"one of {', '.join(map(str, LENGTHS))}"
            raise InvalidValueError("length", self.length, accepted)

    def _load(self) -> Rows:
        name = f"{self.name}, task {self.task}"
        how = (
            f"download and unpack the tar files of {self.source.card} and pass the folder of "
            "mmlb_data and mmlb_image as benchmark.path=/path/to/it"
        )
        if self.path is None:
            raise DatasetUnavailableError(f"{name}: its files are not fetched by themselves; {how}")
        root = Path(self.path).expanduser()
        file = root / "mmlb_data" / TASKS[self.task].file.format(k=self.length)
        if not file.is_file():
            raise DatasetUnavailableError(f"{name}: there is no {str(file)!r}; {how}")
        return JsonRows(file, TASKS[self.task].fields, name)

    def _identity(self, row: Mapping[str, Any]) -> tuple[str, str]:
        domain = f"{row['domain']}-" if "domain" in row else ""
        identity = f"{self.task}-K{self.length}-{domain}{row['id']}"
        shared = TASKS[self.task].cluster
        return identity, f"{self.task}-{domain}{row[shared] if shared else row['id']}"

    def _example(self, row: dict[str, Any], item: Item, member: int) -> Example:
        task = TASKS[self.task]
        content = task.content(row)
        base = Path(str(self.path)).expanduser() / "mmlb_image"
        images = tuple(self.image(str(base / path), item) for path in content.images)
        official = self.protocol == "official"
        prompt = task.prompt(content, prefix=not official)
        choices, answer = self._answer(content, item)
        return Example(
            id=item.id,
            images=images,
            question=(images_first if official else interleaved)(prompt, len(images)),
            answer=answer,
            choices=choices,
            group=item.id,
            cluster=item.cluster,
            category=self.task,
            metadata={
                "metric": task.metric,
                "prefix": task.prefix,
                "golds": _flat(content.gold),
                "default": _DEFAULTS[item.position % len(_DEFAULTS)],
                "task": self.task,
                "num_images": len(images),
                **content.extra,
            },
        )

    def _answer(self, content: Content, item: Item) -> tuple[tuple[str, ...], str]:
        metric, where = TASKS[self.task].metric, f"{self.name}, row {item.id!r}"
        if metric == "yes_no":
            label = last_yes_no(str(content.gold))
            if label not in (0, 1):
                raise DatasetSchemaError(f"{where}: answer {content.gold!r} is neither yes nor no")
            return ("yes", "no"), "yes" if label else "no"
        if metric == "letter":
            choices = letters(content.extra["num_options"])
            letter = chr(ord("A") + content.gold)
            return choices, choices[option_index(letter, len(choices), where)]
        return (), str(sum(content.gold) if metric == "sum" else _flat(content.gold)[0])

    @classmethod
    def parsers(cls) -> Mapping[str, Scorer]:
        return {"official": score_official, "strict": score_strict}


def _flat(gold: Any) -> list[Any]:
    """The right answers as one list; they come alone, as a list, or as lists in a list."""
    if not isinstance(gold, list):
        return [gold]
    return [answer for part in gold for answer in (part if isinstance(part, list) else [part])]
