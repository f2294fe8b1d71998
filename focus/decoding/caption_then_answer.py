"""Caption each image alone, then answer from the images and their captions.

Source: the chain-of-thought baseline of arXiv 2508.13744 (`generate_cot` in the authors' code),
done right. There the captions are glued together without a separator, and the second prompt holds
no image at all, so the baseline cannot see what it is asked about. Here every caption stands right
behind its image and the images stay:

    c_k = generate(I_k, caption prompt)                             k = 1..N, each image alone
    y_t from logits(I_1, c_1, .., I_N, c_N, x, y_<t)

What a caption says of its image cannot have leaked from another one. It does not know the question:
what no caption mentions is left to the images.

Cost: N + 1 generations, one row each, up to `max_caption_tokens` forward passes for each caption;
N image encodings, since the answer reuses those of the captions. The captions lengthen the prompt.

Cannot apply where images and captions together exceed the context (`ContextLengthError`).
"""

from __future__ import annotations

import string
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast, final

from focus.checks import Natural, check
from focus.decoding.base import AbstractDecoding, Decoded, GenerationSettings, Request
from focus.decoding.plain import Plain
from focus.decoding.reuse import remembering
from focus.engines.base import AbstractEngine
from focus.errors import FocusError, InvalidValueError, PromptError
from focus.generate import KeepLogits
from focus.images import IMAGE_PLACEHOLDER
from focus.models.loading import VisionLanguageModel
from focus.prompts import place_images, without_special_tokens

FIELDS = ("index", "count", "caption")


@final
@dataclass(frozen=True)
class CaptionThenAnswer(AbstractDecoding):
    """Captions first, then the answer; plain decoding without captions or without a template.

    Captions are chosen as the answer is (temperature, top-p, top-k), each with sampling draws of
    its own, keyed by the place of its image. What is passed on to `model.generate` acts on the
    answer alone: a constraint on answers, or a streamer, has no business with captions.

    Args:
        caption_prompt: asks for one caption; ``{index}`` (from 1) and ``{count}`` may occur, and
            one ``<image>`` where the image shall not stand first.
        max_caption_tokens: upper bound of a caption's length, in tokens; 0 is plain decoding.
        template: what is put behind each image of the question; must hold ``{caption}`` and may
            hold ``{index}`` and ``{count}``. Empty is plain decoding.
    """

    caption_prompt: str = "Describe this image."
    max_caption_tokens: int = 64
    template: str = "\nCaption of image {index}: {caption}\n"

    name: ClassVar[str] = "caption_then_answer"

    def __post_init__(self) -> None:
        check("max_caption_tokens", self.max_caption_tokens, Natural)
        fields = _fields("template", self.template, FIELDS)
        if self.template and ("caption" not in fields or IMAGE_PLACEHOLDER in self.template):
            accepted = f"text with {{caption}} and without {IMAGE_PLACEHOLDER}, or empty"
            raise InvalidValueError("template", self.template, accepted)
        _fields("caption_prompt", self.caption_prompt, FIELDS[:2])
        try:
            place_images(self.caption_prompt, 1)
        except PromptError as error:
            accepted = f"text with at most one {IMAGE_PLACEHOLDER}"
            raise InvalidValueError("caption_prompt", self.caption_prompt, accepted) from error

    def decode(
        self,
        vlm: VisionLanguageModel,
        request: Request,
        settings: GenerationSettings,
        *,
        keep_logits: KeepLogits = "none",
        **generate_kwargs: Any,
    ) -> Decoded:
        """Answers one request; rows, encodings and seconds are those of all passes together."""
        plain = Plain()
        if not self.active:
            return plain.decode(vlm, request, settings, keep_logits=keep_logits, **generate_kwargs)
        started = time.perf_counter()
        vlm = remembering(vlm)
        short = replace(settings, max_new_tokens=self.max_caption_tokens, num_return_sequences=1)
        passes = [plain.decode(vlm, each, short) for each in self.caption_requests(request)]
        asked = self.captioned(request, [caption.text for caption in passes], vlm)
        answer = plain.decode(vlm, asked, settings, keep_logits=keep_logits, **generate_kwargs)
        return replace(
            answer,  # the captions have encoded its images
            num_rows=sum(each.num_rows for each in [*passes, answer]),
            seconds=time.perf_counter() - started,
        )

    def decode_many(
        self,
        engine: AbstractEngine,
        requests: Sequence[Request],
        settings: GenerationSettings,
        *,
        keep_logits: KeepLogits = "none",
    ) -> list[Decoded | FocusError]:
        """All captions together, then all answers."""
        plain = Plain()
        if not self.active:
            return plain.decode_many(engine, requests, settings, keep_logits=keep_logits)
        short = replace(settings, max_new_tokens=self.max_caption_tokens, num_return_sequences=1)
        lists = [self.caption_requests(request) for request in requests]
        asked = [each for captions in lists for each in captions]
        written = iter(plain.decode_many(engine, asked, short))
        captions = [[next(written) for _ in each] for each in lists]
        failed = {i: error for i, each in enumerate(captions) for error in each
                  if isinstance(error, FocusError)}  # fmt: skip
        known = {i: cast(list[Decoded], each) for i, each in enumerate(captions) if i not in failed}
        captioned = [
            self.captioned(requests[i], [caption.text for caption in each], engine.vlm)
            for i, each in known.items()
        ]
        answers = plain.decode_many(engine, captioned, settings, keep_logits=keep_logits)
        found: dict[int, Decoded | FocusError] = {**failed}
        for (i, each), answer in zip(known.items(), answers, strict=True):
            if isinstance(answer, Decoded):
                answer = replace(
                    answer,
                    num_rows=answer.num_rows + sum(one.num_rows for one in each),
                    seconds=answer.seconds + sum(one.seconds for one in each),
                )  # the captions have encoded its images
            found[i] = answer
        return [found[i] for i in range(len(requests))]

    @property
    def active(self) -> bool:
        """Whether there is anything to write behind the images; if not, this is plain decoding."""
        return bool(self.max_caption_tokens and self.template)

    def caption_requests(self, request: Request) -> list[Request]:
        """One request for each image alone, under the request's own system prompt."""
        count = len(request.images)
        return [
            Request(
                images=(image,),
                question=self.caption_prompt.format(index=index, count=count),
                sample_id=f"{request.sample_id}/caption {index}",
                system=request.system,
            )
            for index, image in enumerate(request.images, start=1)
        ]

    def captioned(self, request: Request, captions: list[str], vlm: VisionLanguageModel) -> Request:
        """The request with a caption behind each of its images."""
        before, *pieces = place_images(request.question, len(request.images)).split(
            IMAGE_PLACEHOLDER
        )
        for index, (caption, piece) in enumerate(zip(captions, pieces, strict=True), start=1):
            # A token of images would ask for one that is not there, any other break the chat.
            caption = without_special_tokens(vlm.processor, caption)
            written = self.template.format(index=index, count=len(captions), caption=caption)
            before += IMAGE_PLACEHOLDER + written + piece
        return replace(request, question=before)


def _fields(name: str, text: object, known: tuple[str, ...]) -> set[str]:
    """Names of the fields in a template, all of them `known`.

    Raises:
        InvalidValueError: not text, unbalanced braces, or another field.
    """
    accepted = f"text whose only fields are {', '.join(f'{{{field}}}' for field in known)}"
    if not isinstance(text, str):
        raise InvalidValueError(name, text, accepted)
    try:
        fields = {field for _, field, _, _ in string.Formatter().parse(text) if field is not None}
    except ValueError as error:
        raise InvalidValueError(name, text, accepted) from error
    if not fields <= set(known):
        raise InvalidValueError(name, text, accepted)
    return fields
