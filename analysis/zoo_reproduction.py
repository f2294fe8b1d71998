"""A model that was trained again, held to the card of the stored one."""

from __future__ import annotations

import pandas as pd

from analysis.zoo import LABELS, Record, Row, answer_rows
from focus.errors import InvalidValueError


def reproduction(stored: Record, again: Record) -> pd.DataFrame:
    """Every rate of a card beside that of another training run of the same recipe.

    Args:
        stored: record of the model in the repository.
        again: record of the other run, measured on the same questions.

    Returns:
        Columns `LABELS`, then value, low and high (95% interval, of the stored model), again (rate
        of the other run), n, and inside: whether ``again`` lies in the interval. Rates without an
        interval are left out.

    Raises:
        InvalidValueError: the two were trained by different recipes or asked different questions.
    """
    if stored["recipe_key"] != again["recipe_key"]:
        raise InvalidValueError("recipe_key", again["recipe_key"], stored["recipe_key"])
    rows = [_by_label(record) for record in (stored, again)]
    if rows[0].keys() != rows[1].keys():
        different = sorted(rows[0].keys() ^ rows[1].keys(), key=str)[0]
        raise InvalidValueError("rates", different, "the same rates in both records")
    found = []
    for key, row in rows[0].items():
        other = rows[1][key]
        if row["n"] != other["n"]:
            raise InvalidValueError("n", other["n"], f"{row['n']} questions, as stored, for {key}")
        if row["low"] is None:
            continue
        values = {name: row[name] for name in ("value", "low", "high")}
        inside = row["low"] <= other["value"] <= row["high"]
        found.append(
            dict(zip(LABELS, key, strict=True))
            | values
            | {"again": other["value"], "n": row["n"], "inside": inside}
        )
    return pd.DataFrame(found)


def reproduced_sentence(entry: Record) -> str:
    """How a model that was trained again compares with the stored one.

    Args:
        entry: model, rates, inside (of these), largest_difference and equal_weights.

    >>> entry = {"model": "m", "rates": 200, "inside": 199, "largest_difference": 0.0312}
    >>> reproduced_sentence({**entry, "equal_weights": False}).split("; ")[1:]
    ['largest difference 0.031', 'weights differ']
    """
    return (
        f"{entry['model']}: {entry['inside'] / entry['rates']:.1%} of {entry['rates']} rates "
        f"within the 95% interval of the card; largest difference "
        f"{entry['largest_difference']:.3f}; "
        f"weights {'equal to the bit' if entry['equal_weights'] else 'differ'}"
    )


def _by_label(record: Record) -> dict[tuple[object, ...], Row]:
    return {tuple(row[name] for name in LABELS): row for row in answer_rows(record["results"])}
