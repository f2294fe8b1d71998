"""Looking into a model: what each probe sees of each question. Tables are made in `analysis`."""

from focus.probes.account import Account
from focus.probes.base import KINDS, AbstractProbe, Observation, Question, facts
from focus.probes.behaviour import Behaviour
from focus.probes.chance import Chance
from focus.probes.entanglement import Entanglement
from focus.probes.knockout import Knockout
from focus.probes.lens import Lens
from focus.probes.linear import Linear
from focus.probes.origin import Origin
from focus.probes.patching import Patching
from focus.probes.planted import PLANTED

__all__ = [
    "KINDS",
    "PLANTED",
    "AbstractProbe",
    "Account",
    "Behaviour",
    "Chance",
    "Entanglement",
    "Knockout",
    "Lens",
    "Linear",
    "Observation",
    "Origin",
    "Patching",
    "Question",
    "facts",
]
