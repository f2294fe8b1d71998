"""Quick check of an embedded model, for its card: skills, and plain against FOCUS on two images.

Batched and independent of the decoding strategies, so that a model can be judged while it trains.
Answers are read off the first token: among the choices of the question, and over the whole
vocabulary (which is what greedy decoding would say, "unknown" included).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel

from focus.benchmarks.base import Example
from focus.benchmarks.shapes import IndexedQuestion, MinimalPair, SingleImage
from focus.models.internvl import InternVLImageProcessor
from focus.noise import noise_generator, noise_image
from focus.zoo.bank import normalised, stack
from focus.zoo.encoding import encode_prompt
from focus.zoo.questions import UNKNOWN
from focus.zoo.vocabulary import token_ids

#: Noise and contrast weight of the FOCUS column.
NOISE_NAME = "imagenet+uniform"
ALPHA = 0.3
_Z95 = 1.959963984540054


@dataclass(frozen=True)
class Accuracy:
    """A share of right answers.

    Args:
        correct: how many were right.
        total: of how many; at least 1.
    """

    correct: int
    total: int

    @property
    def share(self) -> float:
        return self.correct / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """95% Wilson score interval."""
        n, p = self.total, self.share
        center = (p + _Z95**2 / (2 * n)) / (1 + _Z95**2 / n)
        half = _Z95 / (1 + _Z95**2 / n) * math.sqrt(p * (1 - p) / n + _Z95**2 / (4 * n**2))
        return max(0.0, center - half), min(1.0, center + half)

    def as_dict(self) -> dict[str, object]:
        """For a JSON file."""
        low, high = self.interval
        return {
            "accuracy": round(self.share, 4),
            "interval": [round(low, 4), round(high, 4)],
            "n": self.total,
        }


def evaluate(
    model: PreTrainedModel,
    processor: InternVLImageProcessor,
    *,
    split: str = "test",
    size: int = 400,
    seed: int = 0,
    alpha: float = ALPHA,
) -> dict[str, dict[str, object]]:
    """All numbers of a model card.

    Args:
        model: in float32, on the CPU.
        processor: the one it was trained with.
        split: of the embedded benchmarks.
        size: questions per cell, and minimal pairs per cell.
        seed: of questions and noise.
        alpha: contrast weight of the FOCUS rows.

    Returns:
        By row name: accuracy, 95% interval and n.
    """
    rows: dict[str, Accuracy] = {}
    # Three skills take turns, so three times the size gives `size` questions for each.
    single = list(SingleImage(split=split, size=3 * size, seed=seed))
    by_skill = defaultdict(list)
    for example, logits in zip(single, plain_logits(model, processor, single), strict=True):
        by_skill[example.category].append(choice(example, logits) == example.answer)
    rows |= {f"single image, {skill}": _share(right) for skill, right in by_skill.items()}
    for number in (2, 3, 4):
        indexed = list(IndexedQuestion(split=split, size=size, num_images=number, seed=seed))
        plain = plain_logits(model, processor, indexed)
        branches, reference = branch_logits(model, processor, indexed, seed=seed)
        for name, logits in (("plain", plain), ("FOCUS", combined(branches, reference, alpha))):
            said = [choice(e, row) for e, row in zip(indexed, logits, strict=True)]
            label = f"indexed question, {number} images, {name}"
            rows[label] = _share(s == e.answer for s, e in zip(said, indexed, strict=True))
            rows[f"{label}: leaked"] = _share(
                s in e.distractors for s, e in zip(said, indexed, strict=True)
            )
        if number == 2:
            rows |= abstention_rows(indexed, plain, branches, reference)
    for direction in ("text", "image"):
        pairs = list(MinimalPair(split=split, size=size, seed=seed, direction=direction))
        plain = plain_logits(model, processor, pairs)
        rows[f"minimal pair, {direction} score, plain"] = pair_score(pairs, plain)
        if direction == "image":
            branches, reference = branch_logits(model, processor, pairs, seed=seed)
            focus = combined(branches, reference, alpha)
            rows["minimal pair, image score, FOCUS"] = pair_score(pairs, focus)
    return {name: accuracy.as_dict() for name, accuracy in rows.items()}


def abstention_rows(
    examples: Sequence[Example], plain: Tensor, branches: Tensor, reference: Tensor
) -> dict[str, Accuracy]:
    """What the branches say over the whole vocabulary, on target and off target.

    Args:
        examples: indexed questions about two images.
        plain: ``[examples, vocabulary]``.
        branches: ``[examples, images, vocabulary]``.
        reference: ``[examples, vocabulary]``.
    """
    words = {i: word for word, i in token_ids().items()}
    on, off, own, unknown, spoken = [], [], [], [], []
    for example, row, rows in zip(examples, plain, branches, strict=True):
        (target,) = example.targets
        attribute = str(example.metadata["attribute"])
        for k, said in enumerate(words[int(i)] for i in rows.argmax(-1)):
            if k == target:
                on.append(said == example.answer)
            else:
                off.append(said == UNKNOWN)
                own.append(said == example.truths[k][attribute])
        spoken.append(words[int(row.argmax())] == example.answer)
    unknown = [words[int(i)] == UNKNOWN for i in reference.argmax(-1)]
    return {
        "indexed question, 2 images, plain, whole vocabulary": _share(spoken),
        "branch with the asked image clean: right": _share(on),
        'branch with the asked image masked: says "unknown"': _share(off),
        "branch with the asked image masked: names the clean image": _share(own),
        'all images masked: says "unknown"': _share(unknown),
    }


def plain_logits(
    model: PreTrainedModel, processor: InternVLImageProcessor, examples: Sequence[Example]
) -> Tensor:
    """First-token logits ``[examples, vocabulary]`` with all images clean."""
    return first_logits(model, processor, [(e.question, e.images) for e in examples])


def branch_logits(
    model: PreTrainedModel,
    processor: InternVLImageProcessor,
    examples: Sequence[Example],
    *,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """First-token logits of every branch and of the reference; one noise image per slot.

    Args:
        model: in float32.
        processor: the one it was trained with.
        examples: all with the same number of images.
        seed: of the noise.

    Returns:
        ``[examples, images, vocabulary]`` and ``[examples, vocabulary]``.
    """
    rows: list[tuple[str, tuple[Image.Image, ...]]] = []
    for e in examples:
        noise = tuple(
            noise_image(NOISE_NAME, image, noise_generator(seed, e.id, i, None))
            for i, image in enumerate(e.images)
        )
        for k, image in enumerate(e.images):
            rows.append((e.question, (*noise[:k], image, *noise[k + 1 :])))
        rows.append((e.question, noise))
    logits = first_logits(model, processor, rows)
    logits = logits.unflatten(0, (len(examples), len(examples[0].images) + 1))
    return logits[:, :-1], logits[:, -1]


def combined(branches: Tensor, reference: Tensor, alpha: float) -> Tensor:
    """Sum over branches of (branch - alpha * reference): ``[examples, vocabulary]``."""
    return branches.sum(1) - branches.shape[1] * alpha * reference


@torch.no_grad()
def first_logits(
    model: PreTrainedModel,
    processor: InternVLImageProcessor,
    rows: Sequence[tuple[str, Sequence[Image.Image]]],
    *,
    batch_size: int = 128,
) -> Tensor:
    """Logits of the first answer token for each (question, images): ``[rows, vocabulary]``."""
    model.eval()
    encoded = [encode_prompt(question, processor.image_seq_length) for question, _ in rows]
    result = torch.empty(len(rows), model.config.text_config.vocab_size)
    order = sorted(range(len(rows)), key=lambda i: len(encoded[i]))
    for start in range(0, len(rows), batch_size):
        part = order[start : start + batch_size]
        length = max(len(encoded[i]) for i in part)
        ids = torch.full((len(part), length), processor.tokenizer.pad_token_id)
        for row, i in enumerate(part):  # on the right: causal attention never sees the padding
            ids[row, : len(encoded[i])] = torch.tensor(encoded[i])
        pixels = stack([image for i in part for image in rows[i][1]])
        hidden = model.model(
            input_ids=ids,
            pixel_values=normalised(pixels, processor.image_processor),
            use_cache=False,
        ).last_hidden_state
        last = torch.tensor([len(encoded[i]) - 1 for i in part])
        result[part] = model.lm_head(hidden[torch.arange(len(part)), last])
    return result


def choice(example: Example, logits: Tensor) -> str:
    """The choice whose token scores highest; every choice here is one token."""
    ids = token_ids()
    return max(example.choices, key=lambda word: float(logits[ids[word]]))


def pair_score(examples: Sequence[Example], logits: Tensor) -> Accuracy:
    """Share of groups in which every example is right."""
    groups: dict[str, bool] = defaultdict(lambda: True)
    for example, row in zip(examples, logits, strict=True):
        groups[example.group] &= choice(example, row) == example.answer
    return _share(groups.values())


def _share(right: Iterable[bool]) -> Accuracy:
    answers = list(right)
    return Accuracy(sum(answers), len(answers))
