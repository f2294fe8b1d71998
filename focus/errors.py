"""Typed errors: each names the bad value, what is accepted and, where it helps, what to do.

Every error derives from `FocusError`, so a caller can catch all of them at once, and from the
builtin a Python user would expect (`ValueError`, `OSError`, ...).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FocusError(Exception):
    """Base class of every error raised on purpose by this package."""


class InvalidValueError(FocusError, ValueError):
    """A setting lies outside its range or has the wrong type."""

    def __init__(self, name: str, value: object, accepted: str) -> None:
        self.name, self.value, self.accepted = name, value, accepted
        super().__init__(f"{name}={value!r} is not accepted; {name} must be {accepted}")


class UnknownNameError(FocusError, KeyError):
    """A noise type, aggregation, strategy, model or benchmark that does not exist."""

    def __init__(self, kind: str, name: object, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, tuple(sorted(known))
        close = difflib.get_close_matches(str(name), self.known, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        self.message = f"unknown {kind} {name!r}{hint}; known: {', '.join(self.known)}"
        super().__init__(self.message)

    def __str__(self) -> str:  # KeyError would print the repr of its argument
        return self.message


class ImageError(FocusError, ValueError):
    """An image that cannot be used: unreadable, truncated, empty, animated, too large."""


class PromptError(FocusError, ValueError):
    """A prompt that cannot be used: empty, no images, or placeholders that do not match them."""


class ContextLengthError(FocusError, ValueError):
    """The images and the text do not fit into the model's context."""


class UnsupportedGenerationError(FocusError, ValueError):
    """A generation setting without meaning for several branches (beams, padded batches, ...)."""


class NonFiniteLogitsError(FocusError, FloatingPointError):
    """A branch produced NaN or infinity; text sampled from it would be garbage."""


class BranchMemoryError(FocusError, MemoryError):
    """The branches did not fit into memory."""


class CheckpointUnavailableError(FocusError, OSError):
    """A checkpoint cannot be had here (offline, gated, or misspelt)."""


class DatasetUnavailableError(FocusError, OSError):
    """A data set cannot be had here (offline, gated, misspelt, or no such folder)."""


class DatasetSchemaError(FocusError, ValueError):
    """A data set is there, but not as its benchmark expects: a field missing or of another type."""


class MissingExtraError(FocusError, ImportError):
    """A package of an optional extra is not installed."""


class ServingError(FocusError, RuntimeError):
    """A server that does not answer, or refuses what it must be able to do."""


class RecordsConflictError(FocusError, RuntimeError):
    """A results folder already holds records of another configuration."""


class AssumptionWarning(UserWarning):
    """A checkpoint that is not known here was loaded with settings that nobody named."""


class RecordsLockedError(FocusError, RuntimeError):
    """Another process is writing these records."""


class TooManyFailuresError(FocusError, RuntimeError):
    """More questions of a run could not be processed than a result can bear."""
