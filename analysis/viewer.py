"""One page with the questions of a run: images, answers, and what every row would have said.

A single HTML file that opens without a network or a server: `viewer.html` beside this module, with
the data inside as JSON and the images as data URLs. Its content policy forbids everything else.
"""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any

from PIL import Image

from analysis.leakage import ABSTENTION, kind_of_word
from analysis.summary import BASELINE
from focus.benchmarks.base import Example
from focus.images import IMAGE_PLACEHOLDER
from focus.records import Record

#: What answers are filtered by, and how the page calls it; `{}` is the strategy.
TAGS = {
    "leaked": "plain leaks",
    "right": "plain is right",
    "changed": "changed by {}",
    "put right": "put right by {}",
    "spoilt": "spoilt by {}",
    "leaks after": "{} leaks",
}
#: Words of the page, by kind of `analysis.leakage.KINDS`.
CLASSES = {
    "right answer": "right",
    "abstains": "abstains",
    "another image's answer": "leaked",
    "other": "other",
}
#: Of the stream at the last token, by (model, benchmark, question): see `focus.probes.Lens`.
Lenses = Mapping[tuple[str, str, str], Sequence[Mapping[str, Any]]]


def tags(plain: Mapping[str, Any], other: Mapping[str, Any] | None) -> list[str]:
    """Which of `TAGS` an answer has.

    Args:
        plain: record of plain decoding.
        other: record of another strategy on the same question; None where there is none.
    """
    found = [tag for tag, name in (("leaked", "leaked"), ("right", "correct")) if plain[name]]
    if other is None:
        return found
    after = {
        "changed": other["text"] != plain["text"],
        "put right": other["correct"] and not plain["correct"],
        "spoilt": plain["correct"] and not other["correct"],
        "leaks after": other["leaked"],
    }
    return found + [tag for tag, holds in after.items() if holds]


def chosen(records: Iterable[Record], limit: int) -> list[list[Record]]:
    """Records of the questions to show, one list for each: as many of each benchmark.

    The first order and noise seed of every question that plain decoding has answered.

    Args:
        records: of a run.
        limit: questions, at most.
    """
    questions: dict[str, dict[str, list[Record]]] = {}
    for record in records:
        if not record.get("order") and not record.get("seed") and not record.get("error"):
            own = questions.setdefault(record["benchmark"], {})
            own.setdefault(record["id"], []).append(record)
    known = [
        [each for each in own.values() if any(r["decoding"] == BASELINE for r in each)]
        for own in questions.values()
    ]
    left, found = limit, dict[int, list[list[Record]]]()
    for k in sorted(range(len(known)), key=lambda k: len(known[k])):
        found[k] = known[k][: left // (len(known) - len(found))]
        left -= len(found[k])
    return [question for k in sorted(found) for question in found[k]]


def page_data(
    questions: Sequence[tuple[Example, Sequence[Record]]],
    *,
    title: str,
    lenses: Lenses | None = None,
    thumbnail: int = 160,
) -> dict[str, Any]:
    """What the page shows, JSON-serialisable.

    Args:
        questions: each with its records of every model and strategy.
        title: of the page.
        lenses: what each layer would say, where that is known.
        thumbnail: longest side of an image, in pixels.
    """
    images: dict[str, int] = {}
    shown = []
    for example, records in questions:
        first = records[0]
        shown.append(
            {
                "id": example.id,
                "benchmark": first["benchmark"],
                "images": [
                    images.setdefault(data_url(image, thumbnail), len(images))
                    for image in example.images
                ],
                "asked": sorted(_flat(example.targets)),
                "question": example.question.split(IMAGE_PLACEHOLDER),
                "answer": example.answer,
                "choices": [
                    {"text": choice, "kind": _kind(choice, example)} for choice in example.choices
                ],
                "answers": _answers(example, records, lenses or {}),
            }
        )
    return {"title": title, "tags": TAGS, "images": list(images), "questions": shown}


def page(data: Mapping[str, Any]) -> str:
    """The HTML file; nothing in the data can end its script or become markup."""
    template = resources.files("analysis").joinpath("viewer.html").read_text(encoding="utf-8")
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return template.replace("__DATA__", text)


def data_url(image: Image.Image, thumbnail: int) -> str:
    """An image no larger than `thumbnail` pixels a side: as it is if small, else as a JPEG."""
    small = image.convert("RGB")
    small.thumbnail((thumbnail, thumbnail))
    file, form = io.BytesIO(), "PNG" if max(image.size) <= 64 else "JPEG"
    small.save(file, form, quality=80, optimize=True)
    encoded = base64.b64encode(file.getvalue()).decode()
    return f"data:image/{form.lower()};base64,{encoded}"


def _answers(example: Example, records: Sequence[Record], lenses: Lenses) -> list[dict[str, Any]]:
    """One for every model and strategy beside plain decoding; that alone where there is none."""
    by_model: dict[str, dict[str, Record]] = {}
    for record in records:
        by_model.setdefault(record["model"], {})[record["decoding"]] = record
    found = []
    for model, own in by_model.items():
        plain = own.get(BASELINE)
        if plain is None:
            continue
        for name in [name for name in own if name != BASELINE] or [""]:
            other = own.get(name)
            both = [("plain", plain)] + ([(name, other)] if other else [])
            found.append(
                {
                    "model": model,
                    "strategy": name or None,
                    "tags": tags(plain, other),
                    "said": [_said(label, record, example) for label, record in both],
                    "rows": [
                        row for label, record in both for row in _rows(label, record, example)
                    ],
                    "lens": [
                        {key: seen[key] for key in ("place", "right", "leaked")}
                        for seen in lenses.get((model, plain["benchmark"], example.id), ())
                    ],
                }
            )
    return found


def _said(label: str, record: Mapping[str, Any], example: Example) -> dict[str, Any]:
    """The text of a strategy, and what it is: what a parser has read counts, not how it reads."""
    kind = "abstains" if record["text"] == ABSTENTION else "other"
    for name, found in (("right", record["correct"]), ("leaked", record["leaked"])):
        kind = name if found else kind
    ranked = record.get("choice_answer")
    return {
        "by": label,
        "text": record["text"],
        "kind": kind,
        "ranked": ranked if ranked not in (None, record["text"], record["parsed"]) else None,
    }


def _rows(label: str, record: Mapping[str, Any], example: Example) -> list[dict[str, Any]]:
    """Rows of one record, and their combination where there are several."""
    tops, likely = record.get("row_tops") or {}, record.get("row_logprobs") or {}
    rows = [
        {
            "label": name,
            "shows": _shows(name, len(example.images)),
            "top": top,
            "kind": _kind(top, example),
            "p": _probabilities(likely.get(name)),
        }
        # The reference last, as it is what is subtracted.
        for name, top in sorted(tops.items(), key=lambda each: each[0] == "reference")
    ]
    if len(rows) == 1:
        return [{**rows[0], "label": label}]
    combined = {
        "label": label,
        "shows": None,
        "top": record["text"],
        "kind": _said(label, record, example)["kind"],
        "p": _probabilities(record.get("choice_logprobs")),
    }
    return [*rows, combined] if rows else []


def _shows(label: str, number: int) -> list[bool] | None:
    """Which images a row of that name shows: `focus.branches.BranchPlan.labels`."""
    if label == "reference":
        return [False] * number
    named = re.fullmatch(r"image (\d+(?:\+\d+)*)", label)
    return [str(k + 1) in named[1].split("+") for k in range(number)] if named else None


def _probabilities(values: Sequence[float | None] | None) -> list[float]:
    """Of the choices, in the order of the question; none where a record has none."""
    return [0.0 if v is None else round(math.exp(v), 3) for v in values or ()]


def _kind(word: str, example: Example) -> str:
    return CLASSES[kind_of_word(word, example.answer, example.distractors)]


def _flat(targets: Iterable[int | Iterable[int]]) -> list[int]:
    return [k for unit in targets for k in ([unit] if isinstance(unit, int) else unit)]
