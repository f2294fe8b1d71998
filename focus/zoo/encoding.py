"""Token ids of a training question, without the processor.

The processor takes about as long for a batch as the model does. Questions of the embedded worlds
are words between single spaces, so a table is enough; a test holds it to the processor's ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from PIL import Image
from transformers import ProcessorMixin

from focus.errors import InvalidValueError
from focus.images import IMAGE_PLACEHOLDER
from focus.models.base import AbstractFamily
from focus.worlds.base import SIZE
from focus.zoo.vocabulary import ASSISTANT, END, USER


@dataclass(frozen=True)
class Encoder:
    """Turns questions and answers into ids.

    Args:
        ids: of every token.
        image: ids that stand for one image.
    """

    ids: Mapping[str, int]
    image: tuple[int, ...]

    def prompt(self, question: str) -> list[int]:
        """Ids of one user turn and the mark that opens the answer.

        Raises:
            InvalidValueError: a word that the embedded models do not know.
        """
        ids = [self.ids[USER]]
        for word in question.split():
            if word not in self.ids and word != IMAGE_PLACEHOLDER:
                raise InvalidValueError("question", word, "words of the embedded worlds alone")
            ids += self.image if word == IMAGE_PLACEHOLDER else (self.ids[word],)
        return [*ids, self.ids[ASSISTANT]]

    def answer(self, answer: str) -> list[int]:
        """Ids of an answer and the end token."""
        return [*(self.ids[word] for word in answer.split()), self.ids[END]]


def build_encoder(processor: ProcessorMixin, family: AbstractFamily) -> Encoder:
    """Encoder of the models that use `processor`.

    Args:
        processor: of an embedded model.
        family: of the same model; says what an image looks like in a prompt.
    """
    tokenizer = processor.tokenizer
    blank = family.image_inputs(processor, Image.new("RGB", (SIZE, SIZE)))
    shown = _opened(processor, blank.placeholder)
    return Encoder(tokenizer.get_vocab(), tuple(tokenizer.encode(shown, add_special_tokens=False)))


def _opened(processor: ProcessorMixin, placeholder: str) -> str:
    """What the chat template writes for an image, with its one token replaced by all of them."""
    messages = [{"role": "user", "content": [{"type": "image"}]}]
    text = processor.apply_chat_template(messages, tokenize=False)
    return text.removeprefix(USER).strip().replace(processor.image_token, placeholder)
