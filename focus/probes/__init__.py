"""Looking into a model: what each probe sees of each question. Tables are made in `analysis`."""

from focus.probes.base import KINDS, AbstractProbe, Observation, Question, facts
from focus.probes.knockout import Knockout
from focus.probes.patching import Patching
from focus.probes.planted import PLANTED

__all__ = [
    "KINDS",
    "PLANTED",
    "AbstractProbe",
    "Knockout",
    "Observation",
    "Patching",
    "Question",
    "facts",
]
