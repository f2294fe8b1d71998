"""What is asked of a model: how likely given candidates are, and what it says.

An engine answers both for many prompts at once, each in its rows (`focus.generate.BranchedPrompt`).
Of a strategy it knows no more than that: which rows there are, and the function that makes one
distribution of theirs. What an engine returns for each row is enough to combine the rows in another
way later on, without a model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from focus.errors import FocusError, InvalidValueError
from focus.generate import BranchedPrompt
from focus.models.loading import VisionLanguageModel
from focus.settings import GenerationSettings

#: Token ids of an answer that is given.
Candidate = tuple[int, ...]
#: What is kept of the first step beside the candidates: nothing, so many of the most likely tokens
#: of every row, or all of the vocabulary.
Keep = int | Literal["none", "all"]


@dataclass(frozen=True)
class Generated:
    """What a model said to one prompt.

    Args:
        tokens: new tokens of every sequence, up to and including the end token.
        branch_logits: per kept step ``[rows, sequences, vocab]``, before they were combined.
        combined_logits: per kept step ``[sequences, vocab]``.
    """

    tokens: tuple[tuple[int, ...], ...]
    branch_logits: tuple[Tensor, ...] = ()
    combined_logits: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Scored:
    """How likely the candidates of one prompt are.

    Args:
        combined: ``[candidates]``, log-probabilities in nats under the combined distribution,
            summed over the tokens of a candidate.
        rows: for each candidate ``[rows, tokens]``, the log-probability of each of its tokens in
            every row.
        first: ``[rows, k]``, log-probabilities of the first token in every row; of the whole
            vocabulary, or of the tokens in `tokens`.
        tokens: ``[rows, k]``, which tokens `first` is about; None for the whole vocabulary.
    """

    combined: Tensor
    rows: tuple[Tensor, ...]
    first: Tensor | None = None
    tokens: Tensor | None = None


class AbstractEngine(ABC):
    """Answers many prompts; in place of a prompt that cannot be answered stands its error."""

    #: The model, or at least its processor and configuration, from which prompts are made.
    vlm: VisionLanguageModel
    #: How many prompts it likes to be asked at once.
    batch: int
    #: Whether the model has to be here, and not only its processor and configuration.
    needs_weights: ClassVar[bool] = True

    def facts(self) -> dict[str, Any]:
        """What is worth keeping beside the records of a run."""
        return {}

    @abstractmethod
    def supports(self, settings: GenerationSettings) -> bool:
        """Whether `generate` decides tokens by these settings exactly as one prompt alone would."""

    @abstractmethod
    def generate(
        self, prompts: Sequence[BranchedPrompt], settings: GenerationSettings
    ) -> list[Generated | FocusError]:
        """Answers, in the order of the prompts."""

    @abstractmethod
    def score(
        self,
        prompts: Sequence[BranchedPrompt],
        candidates: Sequence[Sequence[Candidate]],
        *,
        keep: Keep = "none",
    ) -> list[Scored | FocusError]:
        """Log-probabilities of the candidates of each prompt, in the order of the prompts.

        Args:
            prompts: what is asked.
            candidates: of each prompt.
            keep: what of the first step is returned beside them.

        Raises:
            InvalidValueError: no candidates, an empty one, or a `keep` that is not accepted.
        """


def check_score(
    prompts: Sequence[Any], candidates: Sequence[Sequence[Candidate]], keep: object
) -> None:
    """Raises `InvalidValueError` for arguments that no engine can score."""
    if len(candidates) != len(prompts):
        accepted = f"the candidates of {len(prompts)} prompts"
        raise InvalidValueError("candidates", f"those of {len(candidates)}", accepted)
    for each in candidates:
        if not each or not all(each):
            accepted = "at least one candidate for each prompt, of at least one token"
            raise InvalidValueError("candidates", each, accepted)
    whole = isinstance(keep, int) and not isinstance(keep, bool) and keep > 0
    if not whole and keep not in ("none", "all"):
        raise InvalidValueError("keep", keep, "'none', 'all' or a positive integer")


def kept(branches: Tensor, keep: Keep) -> tuple[Tensor | None, Tensor | None]:
    """What is kept of the first token's log-probabilities ``[rows, vocab]``, and of which."""
    if keep == "none":
        return None, None
    if keep == "all":
        return branches, None
    values, tokens = branches.topk(min(int(keep), branches.shape[1]), dim=-1)
    return values, tokens
