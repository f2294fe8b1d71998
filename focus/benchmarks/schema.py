"""Whether the fields of a data set are those that a benchmark was written for.

Kinds: ``string``, ``integer``, ``id`` (string or integer), ``image``, ``images`` (a list) and
``strings`` (a list). An image may also be stored as ``{bytes, path}`` or as the path of a file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from focus.errors import DatasetSchemaError


def check_schema(
    features: Mapping[str, Any],
    fields: Mapping[str, str],
    optional: Mapping[str, str],
    name: str,
) -> None:
    """Compares the features of a data set with the expected kinds.

    Args:
        features: as `datasets` knows them.
        fields: required fields and their kinds.
        optional: fields that may be missing.
        name: of the benchmark, for the message.

    Raises:
        DatasetSchemaError: names every missing or retyped field, and the fields that are there.
    """
    problems = [f"{field!r} ({kind}) is missing" for field, kind in fields.items()
                if field not in features]  # fmt: skip
    problems += [
        f"{field!r} is {describe(features[field])}, expected {kind}"
        for field, kind in {**fields, **optional}.items()
        if field in features
        and not (field in optional and getattr(features[field], "dtype", "") == "null")
        and not _KINDS[kind](features[field])
    ]
    if problems:
        there = ", ".join(f"{field}: {describe(feature)}" for field, feature in features.items())
        raise DatasetSchemaError(
            f"{name}: the data set does not have the expected fields: {'; '.join(problems)}. "
            f"It has {there or 'none'}"
        )


def describe(feature: Any) -> str:
    """A feature in one word or two.

    >>> import datasets
    >>> describe(datasets.List(datasets.Value("string")))
    'list of string'
    """
    inner = _inner(feature)
    if inner is not None:
        return f"list of {describe(inner)}"
    if type(feature).__name__ == "Image":
        return "image"
    if isinstance(feature, Mapping):
        return "{" + ", ".join(feature) + "}"
    return str(getattr(feature, "dtype", None) or type(feature).__name__.lower())


def _inner(feature: Any) -> Any:
    if isinstance(feature, list) and len(feature) == 1:
        return feature[0]
    return getattr(feature, "feature", None)


def _is_string(feature: Any) -> bool:
    return getattr(feature, "dtype", "") in ("string", "large_string")


def _is_integer(feature: Any) -> bool:
    dtype = getattr(feature, "dtype", None)
    return isinstance(dtype, str) and dtype.startswith(("int", "uint"))


def _is_image(feature: Any) -> bool:
    stored = isinstance(feature, Mapping) and {"bytes", "path"} <= set(feature)
    return type(feature).__name__ == "Image" or stored or _is_string(feature)


def _is_list(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda feature: (inner := _inner(feature)) is not None and check(inner)


_KINDS: dict[str, Callable[[Any], bool]] = {
    "string": _is_string,
    "integer": _is_integer,
    "id": lambda feature: _is_string(feature) or _is_integer(feature),
    "image": _is_image,
    "images": _is_list(_is_image),
    "strings": _is_list(_is_string),
}
