"""A value is what its annotation says, or refused by name."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import pytest

from focus.checks import Natural, NotEmpty, Positive, Share, check, check_fields
from focus.errors import InvalidValueError

ACCEPTED = [
    (Positive, (1, 10**9), (0, -1, True, 1.0, "1", None)),
    (Natural, (0, 3), (-1, False, 0.0)),
    (Positive | None, (None, 2), (0, True)),
    (Share, (0, 1, 0.3), (-0.1, 1.1, math.nan, math.inf, True, "0.3")),
    (NotEmpty, ("a",), ("", 1, b"a")),
    (bool, (True, False), (1, None, "true")),
    (Literal["a", "b"], ("a",), ("c", None, ["a"])),
]


@pytest.mark.parametrize(("kind", "good", "bad"), ACCEPTED, ids=lambda value: str(value)[:30])
def test_what_is_no_such_value_is_refused_by_name(kind, good, bad):
    for value in good:
        check("setting", value, kind)
    for value in bad:
        with pytest.raises(InvalidValueError, match=r"^setting=.* must be ") as caught:
            check("setting", value, kind)
        assert caught.value.value is value


@dataclass(frozen=True)
class Inner:
    size: Positive = 1

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Outer(Inner):
    inner: Inner = field(default_factory=Inner)
    share: Share = 1


def test_a_class_checks_its_own_fields_and_those_that_it_inherits():
    assert Outer(size=2, share=1).share == 1
    assert type(Outer(share=1).share) is int  # nothing is converted
    for wrong in ({"size": 0}, {"share": 2}, {"inner": {"size": 1}}):
        with pytest.raises(InvalidValueError, match=f"^{next(iter(wrong))}="):
            Outer(**wrong)
