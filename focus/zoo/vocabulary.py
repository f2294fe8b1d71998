"""Word-level tokenizer and chat template of the embedded models."""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from focus.zoo.questions import LETTERS, ORDINALS, UNKNOWN
from focus.zoo.world import ATTRIBUTES

PAD, UNK, END = "<|pad|>", "<|unk|>", "<|end|>"
USER, ASSISTANT = "<|user|>", "<|assistant|>"
IMAGE_START, IMAGE_END = "<img>", "</img>"
IMAGE_CONTEXT, VIDEO = "<IMG_CONTEXT>", "<video>"

SPECIAL = (PAD, UNK, END, USER, ASSISTANT, IMAGE_START, IMAGE_END, IMAGE_CONTEXT, VIDEO)
_FRAME = (
    "image what is the in , . ? : or which shows a at object describe caption right yes no images"
)
#: Lower-case words, in the order of their ids (after the special tokens and the letters).
WORDS = tuple(
    dict.fromkeys(
        [
            *_FRAME.split(),
            *ORDINALS,
            UNKNOWN,
            *ATTRIBUTES,
            *(value for values in ATTRIBUTES.values() for value in values),
        ]
    )
)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|user|> ' if message['role'] == 'user' else '<|assistant|> ' }}"
    "{% if message['content'] is string %}{{ message['content'] + ' ' }}{% else %}"
    "{% for item in message['content'] %}"
    "{% if item['type'] == 'image' %}{{ '<IMG_CONTEXT> ' }}"
    "{% elif item['type'] == 'text' %}{{ item['text'] + ' ' }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] != 'user' %}{{ '<|end|> ' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def token_ids() -> dict[str, int]:
    """Every token with its id: special tokens first, then letters, then words."""
    return {token: i for i, token in enumerate((*SPECIAL, *LETTERS, *WORDS))}


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Tokenizer that knows exactly the words of the embedded world.

    Upper-case letters that stand alone are option letters and keep their case; every other word
    is lower-cased, so that the option "A" and the article "a" remain two tokens.
    """
    tokenizer = Tokenizer(WordLevel(token_ids(), unk_token=UNK))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in SPECIAL])
    tokenizer.add_tokens([AddedToken(x, single_word=True, normalized=False) for x in LETTERS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNK,
        eos_token=END,
        padding_side="left",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
        extra_special_tokens={
            "start_image_token": IMAGE_START,
            "end_image_token": IMAGE_END,
            "context_image_token": IMAGE_CONTEXT,
            "video_token": VIDEO,
        },
    )
