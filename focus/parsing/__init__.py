"""Reading answers: pure functions from a text to a choice, a number or None."""

from focus.parsing.choices import named_choice
from focus.parsing.letters import option_letter
from focus.parsing.text import bare, final_answer, plain, strip_thinking
from focus.parsing.values import number

__all__ = [
    "bare",
    "final_answer",
    "named_choice",
    "number",
    "option_letter",
    "plain",
    "strip_thinking",
]
