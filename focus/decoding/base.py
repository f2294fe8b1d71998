"""The interface of every decoding strategy, and what goes in and comes out."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar, cast

from PIL import Image
from torch import Tensor

from focus.branches import target_units
from focus.errors import (
    ContextLengthError,
    FocusError,
    ImageError,
    NonFiniteLogitsError,
    PromptError,
)
from focus.generate import KeepLogits
from focus.images import ImageSource, load_images
from focus.models.loading import VisionLanguageModel
from focus.prompts import place_images
from focus.settings import GenerationSettings

if TYPE_CHECKING:
    from focus.engines.base import AbstractEngine, Scored

Targets = Sequence[int | Sequence[int]]


@dataclass(frozen=True)
class Request:
    """One question about some images.

    Args:
        images: RGB images in prompt order.
        question: text with one ``<image>`` per image, or none to put all images first.
        sample_id: part of every random key; equal ids give equal noise, in any order of samples.
        system: system prompt, if any.
        targets: images that the question names (indices from 0; nested: one unit), if known.
        published_single: what the published code does where the question has one image: ``plain``
            decoding (text questions of Winoground and VisMin) or ``contrast`` (everywhere else).
        candidates: answers whose log-likelihood is asked for besides an answer in the model's own
            words; see `Decoded.scored`.
    """

    images: tuple[Image.Image, ...]
    question: str
    sample_id: str
    system: str | None = None
    targets: Targets | None = None
    published_single: Literal["plain", "contrast"] = "contrast"
    candidates: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        none_named = isinstance(self.targets, Sequence) and not self.targets
        if self.targets is not None and not none_named:
            target_units(len(self.images), self.targets)

    @classmethod
    def create(cls, images: Sequence[ImageSource], question: str, **kwargs: Any) -> Request:
        """Request from paths, bytes, arrays or PIL images (a lone one need not be in a list).

        The sample id defaults to a digest of the question and the pixels.

        Raises:
            ImageError, PromptError: see `focus.images.load_images` and `focus.prompts`.
        """
        sources = images if isinstance(images, list | tuple) else [cast(ImageSource, images)]
        loaded = tuple(load_images(sources))
        question = place_images(question, len(loaded))
        if "sample_id" not in kwargs:
            digest = hashlib.sha256(question.encode())
            for image in loaded:
                digest.update(f"{image.size}".encode() + image.tobytes())
            kwargs["sample_id"] = digest.hexdigest()[:16]
        return cls(loaded, question, **kwargs)


@dataclass(frozen=True)
class Decoded:
    """What a strategy returns.

    Args:
        texts: one answer per returned sequence, special tokens removed.
        token_ids: the new tokens of each, up to and including the end token, without padding.
        row_labels: names of the rows, in the order of `branch_logits`.
        branch_logits: per kept step, ``[rows, sequences, vocab]``; empty unless asked for.
        combined_logits: per kept step, ``[sequences, vocab]``; empty unless asked for.
        num_rows: rows of a decoding pass, summed over the passes of a strategy that makes several.
        num_encoded: images encoded for this request alone; noise that a whole run shares is not
            counted, so the number does not depend on which request came first.
        prompt_tokens: length of the prompt.
        image_tokens: tokens that each image fills: the pixel budget as it came out.
        seconds: wall time of everything after the images were loaded.
        truncated: whether each answer was stopped by its length and not by an end token.
        noise_mean, noise_std: of the pure noise at the model's input, in grey levels from 0 to 255,
            the deviation within a colour channel; None where there is none.
        scored: how likely the candidates of the request are, summed over their tokens (no end token
            among them); None without candidates. The pass that it takes is in none of the counts.
    """

    texts: tuple[str, ...]
    token_ids: tuple[tuple[int, ...], ...]
    row_labels: tuple[str, ...]
    num_rows: int
    num_encoded: int
    prompt_tokens: int
    image_tokens: tuple[int, ...]
    seconds: float
    truncated: tuple[bool, ...] = (False,)
    noise_mean: float | None = None
    noise_std: float | None = None
    branch_logits: tuple[Tensor, ...] = field(default=(), repr=False)
    combined_logits: tuple[Tensor, ...] = field(default=(), repr=False)
    scored: Scored | None = field(default=None, repr=False)

    @property
    def text(self) -> str:
        """The first (for greedy decoding: the only) answer."""
        return self.texts[0]


class AbstractDecoding(ABC):
    """A decoding strategy: a frozen dataclass of its settings that answers requests."""

    name: ClassVar[str]
    #: Whether it looks at `Request.targets`.
    uses_targets: ClassVar[bool] = False

    def reseeded(self, offset: int) -> Self | None:
        """The same strategy with the seed of its noise moved on; None where it draws no noise."""
        settings: Any = self
        if hasattr(settings, "noise"):
            noise = replace(settings.noise, seed=settings.noise.seed + offset)
            return replace(settings, noise=noise)
        if hasattr(settings, "seed"):
            return replace(settings, seed=settings.seed + offset)
        return None

    @abstractmethod
    def decode(
        self,
        vlm: VisionLanguageModel,
        request: Request,
        settings: GenerationSettings,
        *,
        keep_logits: KeepLogits = "none",
        **generate_kwargs: Any,
    ) -> Decoded:
        """Answers one request; the model is left as it was found.

        Args:
            keep_logits: ``none``, ``first`` or ``all`` steps whose logits are returned.
            generate_kwargs: passed on to `model.generate` (``logits_processor``,
                ``stopping_criteria``, ``streamer``, ``min_new_tokens``, ...).
        """

    def decode_many(
        self,
        engine: AbstractEngine,
        requests: Sequence[Request],
        settings: GenerationSettings,
        *,
        keep_logits: KeepLogits = "none",
    ) -> list[Decoded | FocusError]:
        """Answers many requests; in place of one that cannot be answered stands its error.

        Here one by one; strategies that only need rows do it in batches, with the same results.
        """
        return [
            attempted(self.decode, engine.vlm, request, settings, keep_logits=keep_logits)
            for request in requests
        ]


#: What is wrong with one request and not with the model or the settings.
REQUEST_ERRORS = (ImageError, PromptError, ContextLengthError, NonFiniteLogitsError)

Result = TypeVar("Result")


def attempted(answer: Callable[..., Result], *args: Any, **kwargs: Any) -> Result | FocusError:
    """What `answer` returns, or the error that is wrong with its request alone."""
    try:
        return answer(*args, **kwargs)
    except REQUEST_ERRORS as error:
        return error
