"""Word-level tokenizer and chat template of the embedded models."""

from __future__ import annotations

import re
from collections.abc import Mapping

from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from focus.worlds import WORLDS
from focus.worlds.questions import LETTERS, NUMBERS, ORDINALS, UNKNOWN

PAD, UNK, END = "<|pad|>", "<|unk|>", "<|end|>"
USER, ASSISTANT = "<|user|>", "<|assistant|>"
IMAGE_START, IMAGE_END = "<|vision_start|>", "<|vision_end|>"
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"

SPECIAL = (PAD, UNK, END, USER, ASSISTANT, IMAGE_START, IMAGE_END, IMAGE, VIDEO)
_FRAME = (
    "image video what is the in , . ? : or which shows at object describe caption right yes no "
    "same all different how many"
)


def _words() -> tuple[str, ...]:
    """Lower-case words of every question and answer, in the order of their ids."""
    words = [*_FRAME.split(), *ORDINALS, *NUMBERS, UNKNOWN]
    for world in WORLDS.values():
        words += world.attributes
        words += (value for values in world.attributes.values() for value in values)
        # Every caption has the same frame around its values.
        words += re.findall(r"\w+|[^\w\s]", world.caption(world.truths[0]))
    return tuple(dict.fromkeys(words))


WORDS = _words()


def chat_template(image: str) -> str:
    """Template that shows every image as `image` and parts every word by a space."""
    return (
        "{% for message in messages %}"
        "{{ '<|user|> ' if message['role'] == 'user' else '<|assistant|> ' }}"
        "{% if message['content'] is string %}{{ message['content'] + ' ' }}{% else %}"
        "{% for item in message['content'] %}"
        "{% if item['type'] == 'image' %}{{ '" + image + " ' }}"
        "{% elif item['type'] == 'text' %}{{ item['text'] + ' ' }}{% endif %}"
        "{% endfor %}{% endif %}"
        "{% if message['role'] != 'user' %}{{ '<|end|> ' }}{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )


def token_ids() -> dict[str, int]:
    """Every token with its id: special tokens first, then letters, then words."""
    return {token: i for i, token in enumerate((*SPECIAL, *LETTERS, *WORDS))}


def build_tokenizer(
    spelling: Mapping[str, str] | None = None, **roles: str
) -> PreTrainedTokenizerFast:
    """Tokenizer that knows exactly the words of the embedded worlds.

    Upper-case letters that stand alone are option letters and keep their case; every other word
    is lower-cased, so that the option "A" and the article "a" remain two tokens.

    Args:
        spelling: what a family writes for some of the special tokens; their ids stay.
        roles: special tokens by the name under which a processor looks for them.
    """
    spelling = spelling or {}
    ids = {spelling.get(token, token): i for token, i in token_ids().items()}
    tokenizer = Tokenizer(WordLevel(ids, unk_token=UNK))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(
        [AddedToken(spelling.get(t, t), normalized=False) for t in SPECIAL]
    )
    tokenizer.add_tokens([AddedToken(x, single_word=True, normalized=False) for x in LETTERS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNK,
        eos_token=END,
        padding_side="left",
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
        extra_special_tokens=roles,
    )
