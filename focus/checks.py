"""Values are checked against their annotations, and never converted; pydantic says what is wrong.

A Literal, a type, or a range such as `Share`. True is no number, and NaN is in no range.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Annotated, Any, get_type_hints

from pydantic import Field, InstanceOf, TypeAdapter, ValidationError

from focus.errors import InvalidValueError

Positive = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
NotEmpty = Annotated[str, Field(min_length=1)]


def check_fields(settings: object) -> None:
    """To be called by a dataclass when it is made: raises for a field that its type refuses.

    Raises:
        InvalidValueError: names the first such field, its value and what is accepted.
    """
    for name, adapter in _adapters(type(settings)).items():  # type: ignore[arg-type]
        _check(name, getattr(settings, name), adapter)


def check(name: str, value: object, kind: Any) -> None:
    """The same for one value: `kind` is a type, perhaps with a range.

    >>> check("step", 0.5, Positive)
    Traceback (most recent call last):
    focus.errors.InvalidValueError: step=0.5 is not accepted; step must be a valid integer
    """
    _check(name, value, _adapter(kind))


def _check(name: str, value: object, adapter: TypeAdapter[Any]) -> None:
    try:
        adapter.validate_python(value, strict=True)
    except ValidationError as error:
        said = dict.fromkeys(e["msg"].removeprefix("Input should be ") for e in error.errors())
        raise InvalidValueError(name, value, ", or ".join(said)) from None


@cache
def _adapters(kind: type) -> dict[str, TypeAdapter[Any]]:
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: _adapter(hints[field.name]) for field in dataclasses.fields(kind)}


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    if dataclasses.is_dataclass(kind):  # and not a mapping of its fields
        kind = InstanceOf[kind]  # type: ignore[misc]
    return TypeAdapter(kind)
