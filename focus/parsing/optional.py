"""Packages that only some benchmarks need."""

from __future__ import annotations

import importlib
from types import ModuleType

from focus.errors import MissingExtraError


def optional_module(name: str, *, extra: str, purpose: str) -> ModuleType:
    """Imports a package of an optional extra.

    Args:
        name: module to import.
        extra: the extra of this project that installs it.
        purpose: what it is needed for, to end "... is needed to".

    Raises:
        MissingExtraError: it is not installed; says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise MissingExtraError(
            f"{package!r} is needed to {purpose} but cannot be imported ({error}); install it with "
            f"pip install -e '.[{extra}]' in the checkout"
        ) from error
