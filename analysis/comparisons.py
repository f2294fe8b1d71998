"""Any two settings of the ablations compared on the same questions, and the words for the outcome.

A comparison selects two kinds of lines by their settings (FOCUS and plain decoding, two noise
types, the sum and the maximum over branches) and pairs them by model, questions and reading.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.ablations import HEADLINE, Record, of_kind, pool_units
from analysis.resampling import difference_row
from focus.errors import InvalidValueError
from focus.marks import TEXT

#: What an interval can say of a claim; `MIXED` is not known to a single interval.
HOLDS, REVERSED, OPEN = "holds", "reversed", "open"
ABOVE, BELOW, ALIKE = "above", "below", "alike"
#: Differences smaller than this count as none where a claim is that two settings are alike.
MARGIN = 0.05


def selected(line: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether a line has these settings; a list stands for any of its values.

    >>> selected({"rule": "sum", "num_images": 2}, {"rule": ["sum", "max"], "seed": None})
    True
    """
    return all(
        line.get(name) in (value if isinstance(value, list | tuple) else (value,))
        for name, value in settings.items()
    )


def compare(
    records: Iterable[Record],
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    *,
    by: Sequence[str] = ("model",),
    reading: str = TEXT,
    metric: str = HEADLINE,
    bounded: bool = True,
    tested: bool = True,
) -> pd.DataFrame:
    """Paired differences, first minus second, of all lines that have a partner.

    Args:
        records: of one experiment.
        first, second: settings of the two; greedy decoding unless they name a temperature. There
            must be one line of `second` for each model and set of questions.
        by: settings of `first` that rows are apart by; everything else is put together.
        reading: of the answers.
        metric: see `analysis.ablations.answers_frame`; the default is the accuracy or, of minimal
            pairs, the image score.
        bounded, tested: with intervals, with p-values; see `analysis.resampling.difference_row`.

    Returns:
        Columns `by`, first, second (means), delta, delta_low and delta_high, p_value, n
        and clusters; a cluster that several lines share stays one, such as a question asked to
        several models. Empty where nothing has a partner.
    """
    records = list(records)
    questions = {r["questions"]: r for r in of_kind(records, "questions")}
    common = {"temperature": None, "reading": reading}
    lines = of_kind(records, "answers")
    partners: dict[tuple[Any, ...], Record] = {}
    for line in lines:
        if selected(line, {**common, **second}):
            key = (line["model"], line["questions"])
            if partners.setdefault(key, line) is not line:
                raise InvalidValueError("second", dict(second), f"settings of one line of {key}")
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for line in lines:
        if selected(line, {**common, **first}) and (line["model"], line["questions"]) in partners:
            groups.setdefault(tuple(line.get(name) for name in by), []).append(line)
    rows = []
    for key, members in groups.items():
        base = [partners[line["model"], line["questions"]] for line in members]
        values, labels = pool_units(members, questions, metric)
        other, _ = pool_units(base, questions, metric)
        row = {**dict(zip(by, key, strict=True)), "n": len(values)}
        row |= {"clusters": len(set(labels)), "first": values.mean(), "second": other.mean()}
        rows.append(row | difference_row(values, other, labels, bounded=bounded, tested=tested))
    return pd.DataFrame(rows)


def word(low: float, high: float, aim: str = ABOVE) -> str:
    """What an interval of a difference says of the claim that it is above, below or near zero.

    >>> [word(0.01, 0.2), word(-0.2, -0.1), word(-0.1, 0.1)]
    ['holds', 'reversed', 'open']
    >>> [word(-0.02, 0.04, "alike"), word(0.06, 0.1, "alike"), word(0.0, 0.1, "alike")]
    ['holds', 'reversed', 'open']

    Raises:
        InvalidValueError: an aim that there is not.
    """
    if aim == BELOW:
        return word(-high, -low)
    if aim == ABOVE:
        return HOLDS if low > 0 else REVERSED if high < 0 else OPEN
    if aim == ALIKE:
        inside, outside = low > -MARGIN and high < MARGIN, low > MARGIN or high < -MARGIN
        return HOLDS if inside else REVERSED if outside else OPEN
    raise InvalidValueError("aim", aim, f"one of {ABOVE}, {BELOW}, {ALIKE}")


def overall(words: Sequence[str]) -> str:
    """One word for several conditions that must all hold: the worst of them.

    >>> overall(["holds", "open"]), overall(["reversed", "open"]), overall(["holds"])
    ('open', 'reversed', 'holds')
    """
    return next(word for word in (REVERSED, OPEN, HOLDS) if word in words)


def verdict(words: Mapping[str, str], kinds: Mapping[str, str]) -> str:
    """In how many models a claim holds, all together and for each kind of model.

    Args:
        words: by model.
        kinds: by model.

    >>> verdict({"a": "holds", "b": "reversed"}, {"a": "abstaining", "b": "answering"})
    'holds on 1 of 2 models, reversed on 1 (abstaining: 1 of 1 hold; answering: 0 of 1 hold, 1 reversed)'
    """  # noqa: E501
    if not words:
        return "nothing to compare"
    text = _counts(list(words.values()), "holds on {} of {} models", " on {}")
    groups = {kind: [w for m, w in words.items() if kinds[m] == kind] for kind in
              sorted({kinds[model] for model in words})}  # fmt: skip
    if len(groups) < 2:
        return text
    parts = [f"{kind}: {_counts(each, '{} of {} hold', None)}" for kind, each in groups.items()]
    return f"{text} ({'; '.join(parts)})"


WORDS = (HOLDS, REVERSED, OPEN)
#: Heading of `word_counts`.
WORDS_TITLE = " / ".join(WORDS)


def word_counts(words: Sequence[str]) -> str:
    """How many there are of each word, in the order of `WORDS`.

    >>> word_counts(["holds", "open", "holds"])
    '2 / 0 / 1'
    """
    return " / ".join(str(words.count(each)) for each in WORDS)


def by_kind(models: Iterable[str], kinds: Mapping[str, str]) -> list[str]:
    """Models in the order of all tables and figures: those that abstain first, then by name.

    >>> by_kind(["b", "a", "c"], {"a": "answering", "b": "answering", "c": "abstaining"})
    ['c', 'a', 'b']
    """
    return sorted(models, key=lambda name: (kinds[name], name))


def _counts(words: Sequence[str], first: str, more: str | None) -> str:
    text = first.format(words.count(HOLDS), len(words))
    for name in (REVERSED, OPEN):
        if words.count(name):
            number = words.count(name)
            text += f", {name}{more.format(number)}" if more else f", {number} {name}"
    return text
