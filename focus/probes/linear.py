"""States for linear probes: what can be read of an image, and where?

The question stays, and each image but the first is one of another question (of the j-th next for
image j): what an image shows says nothing about the others, so that whatever is read of an image
from elsewhere has got there through attention. States are means over groups of tokens: each image,
the delimiters, the question, the last token. They go to disk, one file for each question with a
tensor for each place, so that one place of all questions can be read at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
from safetensors.torch import save_file

from focus.errors import UnknownNameError
from focus.hooks import captured
from focus.probes.base import (
    AbstractProbe,
    Observation,
    Question,
    check_count,
    digits,
    group_means,
    spread,
)
from focus.reading import Reader, Reading

TEXT = ("delimiters", "question", "last token")


@final
@dataclass(frozen=True)
class Linear(AbstractProbe):
    """States by place and group of tokens, with what each image shows.

    Cost: one pass over a question. Disk: a vector for each place and group.

    Args:
        attribute: of `Example.truths`; None for the first. Where there are no truths, how bright an
            image is.
        places: of the residual stream, at most so many, evenly spread; None for all.
    """

    attribute: str | None = None
    places: int | None = None

    name: ClassVar[str] = "linear"
    one_per_cluster: ClassVar[bool] = True
    borrows: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_count("places", self.places, 2, optional=True)

    def observe(
        self, reader: Reader, questions: Sequence[Question], chunk: Sequence[int], folder: Path
    ) -> list[list[Observation]]:
        mixed = [self._mixed(questions, i) for i in chunk]
        readings = [
            reader.reading(replace(questions[i].request, images=images, targets=None))
            for i, (images, _) in zip(chunk, mixed, strict=True)
        ]
        found: list[list[Observation]] = [[] for _ in chunk]
        places = spread(reader.num_places, self.places)
        for indices in reader.batches(readings):
            part = [readings[i] for i in indices]
            names = [_names(reading) for reading in part]
            most = max(map(len, names))
            groups = [list(_groups(reading).values()) for reading in part]
            nothing = groups[0][0] & False
            means = group_means([[*g, *[nothing] * (most - len(g))] for g in groups])
            with captured(reader.vlm, means, places=places) as states:
                reader.logits(part)
            for row, i in enumerate(indices):
                path = Path("states") / reader.vlm.name / f"{questions[chunk[i]].index}.safetensors"
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                own = {
                    str(place): states[place][row, : len(names[row])].contiguous().float()
                    for place in places
                }
                save_file(own, folder / path)
                found[i].append(
                    {
                        "states": str(path),
                        "places": list(places),
                        "tokens": names[row],
                        **mixed[i][1],
                    }
                )
        return found

    def _mixed(self, questions: Sequence[Question], i: int) -> tuple[tuple[Any, ...], Observation]:
        """Images of different questions, and what each shows."""
        own = questions[i]
        images: list[Any] = []
        values: list[str | float] = []
        types: list[str] = []
        for slot, image in enumerate(own.request.images):
            other = questions[(i + slot) % len(questions)]
            there = other.request.images
            shown = there[slot % len(there)] if slot else image
            truths = other.example.truths
            view = (slot % len(there)) * len(truths) // len(there)
            if truths:
                values.append(self._value(truths[view]))
                types.append(" ".join(truths[view].values()))
            else:
                values.append(digits(float(np.asarray(shown).mean())))
                types.append(hashlib.blake2b(shown.tobytes(), digest_size=8).hexdigest())
            images.append(shown)
        return tuple(images), {"values": values, "types": types}

    def _value(self, truth: Any) -> str:
        name = self.attribute or next(iter(truth))
        if name not in truth:
            raise UnknownNameError("attribute", name, truth)
        return str(truth[name])


def _names(reading: Reading) -> list[str]:
    return list(_groups(reading))


def _groups(reading: Reading) -> dict[str, Any]:
    images = {f"image {k + 1}": reading.image(k) for k in range(len(reading.images))}
    return images | {name: reading.groups[name] for name in TEXT}
