"""What a check finds, and the one line that all of them come to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from focus.doctor.forecasting import interval

Status = Literal["ok", "warn", "fail"]
#: Share from which a way to behave is called that of a model.
MOSTLY = 0.5
#: Accuracy or leakage of plain decoding beyond which there is little to gain.
NEARLY_RIGHT, HARDLY_LEAKS = 0.95, 0.05
#: Forecast gain from which branches that lean to their own images are not called committed.
WORTH = 0.05


@dataclass(frozen=True)
class Check:
    """One finding.

    Args:
        name: what was checked.
        status: ``ok``, ``warn`` (works, but look at it) or ``fail``.
        lines: what was found, for the terminal.
        advice: what to do, where the status is not ok.
        data: the same in numbers, JSON-serialisable.
    """

    name: str
    status: Status
    lines: tuple[str, ...]
    advice: str = ""
    data: dict[str, Any] = field(default_factory=dict)


def attempt(name: str, check: Callable[[], Check]) -> Check:
    """The check's finding; one that raises has failed, with its error, and the others go on."""
    try:
        return check()
    except Exception as error:  # whatever is wrong with a model, the other checks still tell of it
        message = f"{type(error).__name__}: {error}"
        advice = "mend this first: what follows may come from it"
        return Check(name, "fail", (message,), advice, {"error": message})


def verdict(checks: Sequence[Check]) -> str:
    """One line out of all checks.

    A failed check decides. Else the behaviour of the branches does, as measured on embedded models
    (docs/results.md): the published sum adds up votes, so some branch has to know the answer, and
    an off-target one must not vote for what it sees. It gains where such branches abstain or do not
    commit themselves, and not where they answer from their own images; where they abstain in words,
    those words may win the text, so the measured texts are named beside the expectation. Where even
    on-target branches name no candidate first (an answer that starts as a sentence), abstention
    cannot be told from it and the verdict stays open. Nor is there much to gain where plain
    decoding hardly leaks or hardly errs. Where no labels tell what a branch answers, it is the
    forecast of `focus.forecast` that is told.
    """
    failed = [check.name for check in checks if check.status == "fail"]
    if failed:
        return f"does not work yet: {', '.join(failed)} failed"
    data = next((c.data for c in checks if c.name == "behaviour"), {})
    off, on = data.get("off_target"), data.get("on_target", {})
    if not off and "forecast" in data:
        return f"works; {_forecast(data['forecast'])}{_measured(data)}"
    if not off:
        told = "these questions, in the tokens of this model, do not tell what a branch answers"
        return f"works; whether FOCUS helps is open: {told}"
    known = max(on.get("right", 1), data.get("on_target_ranks_right", 0))
    if known < MOSTLY:
        said = f"on-target branches are right in only {known:.0%}"
        return f"runs; {said}: no branch to listen to, ask what this model can answer"
    return f"works; {_expected(data, on, off)}{_measured(data)}"


def _expected(data: Mapping[str, Any], on: Mapping[str, float], off: Mapping[str, float]) -> str:
    if data["plain"] >= NEARLY_RIGHT or data.get("leakage", 1) <= HARDLY_LEAKS:
        return "plain decoding hardly leaks here: expect little gain"
    if on.get("other", 0) >= MOSTLY:
        return "answers do not start with a candidate: whether off-target branches abstain is open"
    own, other = off["own"], off["other"]
    forecast = data.get("forecast", {})
    gain = forecast.get("sum", {}).get("estimate", 0.0) if not forecast.get("unseen") else 0.0
    if own >= MOSTLY and gain < WORTH:
        said = f"off-target branches answer from their own images in {own:.0%}"
        return f"{said}: expect no gain from the published sum"
    if other >= MOSTLY:
        said = f"off-target branches name no candidate in {other:.0%}"
        return f"{said}: expect a gain among candidates, in text if alpha outweighs those"
    return f"off-target branches do not commit themselves (own image {own:.0%}): expect a gain"


def _forecast(found: Mapping[str, Any]) -> str:
    """What rows say where no labels tell what a branch should."""
    expected = (
        f"by its rows alone the published sum changes accuracy among candidates by "
        f"{interval(found['sum'])}"
    )
    if found["unseen"]:
        names = " and ".join(found["unseen"])
        return f"whether FOCUS helps is open: {expected}, but {names} is unlike what is known"
    return f"{expected}, in models like the embedded ones"


def _measured(data: Mapping[str, Any]) -> str:
    if "focus" not in data:
        return ""
    return (
        f" (texts of {data['n']} questions: plain {data['plain']:.2f}, FOCUS {data['focus']:.2f})"
    )
