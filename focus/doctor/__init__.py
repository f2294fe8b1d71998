"""Will FOCUS work on this model? Checks that run it, each ending in `ok`, `warn` or `fail`.

They ask nothing of a model but what every model has: whether its prompt is what it should be, what
images cost, whether shared prefixes and plain decoding are exact, and how its branches behave.
"""

from focus.doctor.behaviour import behaviour, several_images
from focus.doctor.cost import budgets, cost
from focus.doctor.exactness import plain_is_generate, shared_is_naive
from focus.doctor.report import Check, attempt, verdict
from focus.doctor.setting import environment_check, prompt_check

__all__ = [
    "Check",
    "attempt",
    "behaviour",
    "budgets",
    "cost",
    "environment_check",
    "plain_is_generate",
    "prompt_check",
    "several_images",
    "shared_is_naive",
    "verdict",
]
