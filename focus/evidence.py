"""What the rows of a question say of its first token, read from records: no model is needed.

A record of one question under one set of rows (`focus.evaluation`) holds the log-probabilities that
every row gave. Whatever only combines rows (aggregation, contrast weight, cut-off, reading) is a
function of two such records, that of plain decoding and that of the branches: `Evidence`.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from focus.errors import InvalidValueError
from focus.marks import CANDIDATES, LEAKED, READINGS, RIGHT, WRONG, AnswerKey

#: Labels of rows, see `focus.branches.BranchPlan.labels`.
REFERENCE, BRANCH = "reference", "image "


@dataclass(frozen=True)
class Columns:
    """The tokens that every row's log-probabilities are kept of, one column each.

    Of the small vocabulary of an embedded model that is every token, and what greedy decoding says
    can be read. Of a large one it is the tokens that answers begin with; all others together are
    the last column, with their joint probability, and only the candidates can be ranked.

    Args:
        ids: column of every answer, by its text.
        words: text of every column.
        tokens: those with a column of their own; None for all.
        unknown: what a model says that abstains, if it was taught to.
    """

    ids: Mapping[str, int]
    words: Mapping[int, str]
    tokens: tuple[int, ...] | None = None
    unknown: str | None = None

    @property
    def readings(self) -> tuple[str, ...]:
        """How answers can be read off them."""
        return READINGS if self.tokens is None else (CANDIDATES,)

    def of(self, logits: Tensor) -> Tensor:
        """``[..., vocabulary]`` to ``[..., columns]``."""
        if self.tokens is None:
            return logits
        kept = torch.tensor(self.tokens)
        rest = logits.float().index_fill(-1, kept, -torch.inf).logsumexp(-1, keepdim=True)
        return torch.cat([logits[..., kept].float(), rest], dim=-1)


@dataclass(frozen=True)
class Evidence:
    """First-token log-probabilities of the same questions under plain decoding and in every row.

    Args:
        plain: ``[questions, columns]``.
        reference: ``[questions, columns]``.
        branches: ``[branch, questions, columns]``, as `focus.aggregation` takes them; questions
            with fewer branches than others are filled up with their reference.
        target: ``[questions]``, the branch whose clean images the question names; None where
            questions name none, or all.
        numbers: ``[questions]``, branches of each; further ones are not its own. None where all
            questions have all of them.
    """

    plain: Tensor
    reference: Tensor
    branches: Tensor
    target: Tensor | None = None
    numbers: Tensor | None = None

    @classmethod
    def of(
        cls, plain: Tensor, rows: Sequence[Mapping[str, Tensor]], target: Tensor | None = None
    ) -> Evidence:
        """Evidence of questions in any numbers of branches.

        Args:
            plain: ``[questions, columns]``.
            rows: of each question, see `rows_of`. A question without a reference, since none of its
                images could be masked, has one that says nothing.
            target: see `Evidence`.
        """
        references, branches = [], []
        for each in rows:
            own = [values for label, values in each.items() if label.startswith(BRANCH)]
            references.append(each.get(REFERENCE, torch.zeros_like(own[0])))
            branches.append(torch.stack(own))
        most = max(map(len, branches))
        filled = [
            torch.cat([own, reference.expand(most - len(own), -1)])
            for own, reference in zip(branches, references, strict=True)
        ]
        numbers = torch.tensor([len(own) for own in branches])
        return cls(plain, torch.stack(references), torch.stack(filled, dim=1), target, numbers)

    def branches_of(self, question: int) -> int:
        """Branches of one question."""
        return len(self.branches) if self.numbers is None else int(self.numbers[question])

    @property
    def mean_branches(self) -> float:
        """Branches of a question, on average."""
        if self.numbers is None:
            return len(self.branches)
        mean = float(self.numbers.double().mean())
        return int(mean) if mean.is_integer() else mean

    @property
    def alike(self) -> Iterator[tuple[Tensor, Evidence]]:
        """Parts with equally many branches, and the places of their questions."""
        if self.numbers is None or bool((self.numbers == len(self.branches)).all()):
            yield torch.arange(len(self.plain)), self
            return
        for number in self.numbers.unique().tolist():
            at = (self.numbers == number).nonzero().flatten()
            target = None if self.target is None else self.target[at]
            yield (
                at,
                Evidence(self.plain[at], self.reference[at], self.branches[:number, at], target),
            )


def packed(values: Tensor) -> str:
    """Numbers as text, without loss: float32 in base64. See `rows_of`."""
    return base64.b64encode(values.numpy().astype("<f4").tobytes()).decode()


def rows_of(record: Mapping[str, Any]) -> dict[str, Tensor]:
    """Log-probabilities ``[columns]`` of every row of a record, by its label.

    Columns are those that the record was made with (`Columns`) or else the question's choices, in
    their order, and what is left of the probability for all that is no choice.

    Raises:
        InvalidValueError: the record has none: an open question, or one that was not answered.
    """
    if record.get("row_columns"):
        return {
            label: torch.from_numpy(np.frombuffer(base64.b64decode(text), "<f4").copy())
            for label, text in record["row_columns"].items()
        }
    if not record.get("row_logprobs"):
        accepted = "a record with log-probabilities of choices in every row"
        raise InvalidValueError("record", record.get("id"), accepted)
    found = {}
    for label, values in record["row_logprobs"].items():
        known = torch.tensor([-torch.inf if v is None else v for v in values])
        rest = (1 - known.exp().sum()).clamp(min=1e-6)  # four decimals were kept
        found[label] = torch.cat([known, rest.log()[None]])
    return found


def key_of(records: Sequence[Mapping[str, Any]]) -> AnswerKey:
    """What each choice is worth as an answer, where columns are choices; see `rows_of`.

    Args:
        records: of questions with equally many choices.
    """
    width = max(len(record["choices"]) for record in records) + 1
    code = np.full((len(records), width), WRONG, np.uint8)
    candidates = np.zeros((len(records), width), bool)
    for row, record in enumerate(records):
        for column, choice in enumerate(record["choices"]):
            candidates[row, column] = True
            if choice in record["distractors"]:
                code[row, column] = LEAKED
            if choice == record["answer"]:
                code[row, column] = RIGHT
    return AnswerKey(code, candidates)
