"""Token ids of a training question, without the tokenizer.

The processor takes about as long for a batch as the model does. Questions of the embedded world
are words between single spaces, so a table is enough; a test holds it to the processor's ids.
"""

from __future__ import annotations

from functools import lru_cache

from focus.benchmarks.base import IMAGE_PLACEHOLDER
from focus.zoo.mixture import Item
from focus.zoo.vocabulary import (
    ASSISTANT,
    END,
    IMAGE_CONTEXT,
    IMAGE_END,
    IMAGE_START,
    USER,
    token_ids,
)

_IDS = token_ids()


def encode_item(item: Item, tokens_per_image: int) -> tuple[list[int], list[int]]:
    """Prompt ids as the chat template gives them, and answer ids with the end token."""
    return encode_prompt(item.question, tokens_per_image), encode_answer(item.answer)


def encode_prompt(question: str, tokens_per_image: int) -> list[int]:
    """Ids of one user turn and the mark that opens the answer."""
    ids = [_IDS[USER]]
    for word in question.split():
        ids += _image(tokens_per_image) if word == IMAGE_PLACEHOLDER else (_IDS[word],)
    return [*ids, _IDS[ASSISTANT]]


def encode_answer(answer: str) -> list[int]:
    """Ids of an answer and the end token."""
    return [*(_IDS[word] for word in answer.split()), _IDS[END]]


@lru_cache
def _image(tokens: int) -> tuple[int, ...]:
    return (_IDS[IMAGE_START], *[_IDS[IMAGE_CONTEXT]] * tokens, _IDS[IMAGE_END])
