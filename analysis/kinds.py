"""Which kind each embedded model is, by its record, and the order of models in tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from analysis.ablations import Record, of_kind
from analysis.zoo import kind_of, read_models

ABSTAINING, ANSWERING, GUESSING = KINDS = ("abstaining", "answering", "guessing")


def names_of(records: Iterable[Record]) -> list[str]:
    """Models that answered."""
    return sorted({line["model"] for line in of_kind(records, "answers")})


def card_kinds(weights: Path) -> dict[str, str]:
    """What each stored model learned to say where the asked image of several is noise."""

    def kind(said: str) -> str:
        if "among several" in said:
            return ABSTAINING
        return GUESSING if said == "guesses" else ANSWERING

    return {str(record["name"]): kind(kind_of(record)) for record in read_models(weights)}


def model_kinds(names: Iterable[str], cards: Mapping[str, str]) -> dict[str, str]:
    """Kind of each model: that of its card or, without one, the one in its name; any other model
    is a kind of its own.

    >>> model_kinds(["internvl-guessing-seed1", "other"], {})
    {'internvl-guessing-seed1': 'guessing', 'other': 'other'}
    """

    def of_name(name: str) -> str:
        return next((kind for kind in KINDS if kind in name.split("-")), name)

    return {name: cards.get(name) or of_name(name) for name in names}


def ordered(records: Sequence[Record], kinds: Mapping[str, str]) -> list[Record]:
    """Records with those of one kind of models together, as they stand in tables and figures."""

    def place(record: Record) -> tuple[str, str]:
        model = record.get("model", "")
        return kinds.get(model, ""), model

    return sorted(records, key=place)
