"""What an embedded model is trained on: a stream of questions drawn by key.

The share of noise images and of abstention decides whether masked branches abstain later, so both
are plain numbers here and are counted while training.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from focus.errors import InvalidValueError
from focus.zoo import questions
from focus.zoo.bank import NOISE, ImageBank
from focus.zoo.world import ATTRIBUTES, TRUTHS, Truth, pick, varied

SINGLE_SKILLS = ("name", "yes_no", "letter", "describe", "which_caption")
MULTI_SKILLS = ("name", "describe", "which_image", "yes_no")
_MULTI_SHARES = (0.30, 0.15, 0.45, 0.10)


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Shares of the kinds of questions in one training stage.

    Args:
        clean_multi: share of questions about several clean images.
        masked_multi: share of questions with one clean image among noise images.
        abstention: share of the masked questions that cannot be answered from the clean image;
            the answer to those is "unknown". 0: every masked question is answerable.
        many_images: share of batches whose questions have 3 to 8 images instead of 2.
        single_shares: of the skills in `SINGLE_SKILLS` among questions about one clean image.
        single_attributes: what those ask about; a name that occurs twice is asked twice as often.

    The rest are questions about a single clean image.
    """

    clean_multi: float = 0.0
    masked_multi: float = 0.0
    abstention: float = 0.0
    many_images: float = 0.0
    single_shares: tuple[float, ...] = (0.25, 0.25, 0.25, 0.05, 0.20)
    single_attributes: tuple[str, ...] = tuple(ATTRIBUTES)

    def __post_init__(self) -> None:
        for name in ("clean_multi", "masked_multi", "abstention", "many_images"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidValueError(name, getattr(self, name), "between 0 and 1")
        if self.clean_multi + self.masked_multi > 1:
            raise InvalidValueError("masked_multi", self.masked_multi, "at most 1 - clean_multi")
        if len(self.single_shares) != len(SINGLE_SKILLS) or abs(sum(self.single_shares) - 1) > 1e-9:
            raise InvalidValueError(
                "single_shares", self.single_shares, f"{len(SINGLE_SKILLS)} shares that sum to 1"
            )
        if not self.single_attributes or set(self.single_attributes) - set(ATTRIBUTES):
            raise InvalidValueError(
                "single_attributes", self.single_attributes, f"some of {list(ATTRIBUTES)}"
            )


@dataclass(frozen=True)
class Item:
    """One training question.

    Args:
        question: prompt text with one ``<image>`` per image.
        answer: what the model should say.
        images: rows of the image bank, in prompt order.
        noise_images: how many of them are noise.
    """

    question: str
    answer: str
    images: tuple[int, ...]
    noise_images: int = 0


def draw_items(
    mixture: Mixture, bank: ImageBank, rng: np.random.Generator, *, size: int
) -> list[Item]:
    """One batch of questions; all its multi-image questions have the same number of images."""
    many = rng.random() < mixture.many_images
    num_images = int(rng.integers(3, questions.MAX_IMAGES + 1)) if many else 2
    items = []
    for _ in range(size):
        kind = rng.random()
        if kind < mixture.clean_multi:
            items.append(clean_item(bank, rng, num_images=num_images))
        elif kind < mixture.clean_multi + mixture.masked_multi:
            abstain = rng.random() < mixture.abstention
            items.append(masked_item(bank, rng, num_images=num_images, abstain=abstain))
        else:
            items.append(single_item(bank, rng, mixture=mixture))
    return items


def single_item(
    bank: ImageBank, rng: np.random.Generator, *, mixture: Mixture | None = None
) -> Item:
    """A question about one clean image."""
    mixture = mixture or Mixture()
    truth = TRUTHS[int(rng.integers(len(TRUTHS)))]
    skill = SINGLE_SKILLS[int(rng.choice(len(SINGLE_SKILLS), p=mixture.single_shares))]
    attribute = pick(mixture.single_attributes, rng)
    if skill == "name":
        body, answer = questions.name(attribute), truth[attribute]
    elif skill == "yes_no":
        body, answer = _yes_no(truth, attribute, rng)
    elif skill == "letter":
        body, answer = questions.lettered_question(truth, attribute, rng)
    elif skill == "describe":
        body, answer = questions.describe(), questions.description(truth)
    else:
        wrong = varied(truth, (attribute,), rng)
        place = int(rng.integers(2))
        body = questions.which_caption((wrong, truth) if place else (truth, wrong))
        answer = questions.LETTERS[place]
    return Item(questions.prompt(1, body), answer, (bank.draw(truth, rng),))


def clean_item(bank: ImageBank, rng: np.random.Generator, *, num_images: int) -> Item:
    """A question about several clean images; half of the pairs differ in one attribute only."""
    asked = int(rng.integers(num_images))
    truth = TRUTHS[int(rng.integers(len(TRUTHS)))]
    attribute = pick(tuple(ATTRIBUTES), rng)
    minimal = rng.random() < 0.5
    truths = [varied(truth, (attribute,), rng, keep_rest=minimal) for _ in range(num_images)]
    truths[asked] = dict(truth)
    images = tuple(bank.draw(each, rng) for each in truths)
    body, answer = _multi_question(truth, asked, num_images, rng)
    return Item(questions.prompt(num_images, body), answer, images)


def masked_item(
    bank: ImageBank, rng: np.random.Generator, *, num_images: int, abstain: bool
) -> Item:
    """One clean image among noise images: what a branch of the method sees.

    Args:
        bank: clean and noise images.
        rng: makes every choice.
        num_images: all images together.
        abstain: ask for what only a masked image could answer; the answer is "unknown".
    """
    clean = int(rng.integers(num_images))
    truth = TRUTHS[int(rng.integers(len(TRUTHS)))]
    images = [bank.draw(NOISE, rng) for _ in range(num_images)]
    images[clean] = bank.draw(truth, rng)
    asked, asked_truth = clean, truth
    if abstain:
        asked = (clean + 1 + int(rng.integers(num_images - 1))) % num_images
        attribute = pick(tuple(ATTRIBUTES), rng)
        # A caption that fails the clean image by one attribute is what a minimal pair asks.
        asked_truth = varied(truth, (attribute,), rng, keep_rest=rng.random() < 0.7)
    body, answer = _multi_question(asked_truth, asked, num_images, rng)
    return Item(
        questions.prompt(num_images, body),
        questions.UNKNOWN if abstain else answer,
        tuple(images),
        noise_images=num_images - 1,
    )


def _multi_question(
    truth: Truth, asked: int, num_images: int, rng: np.random.Generator
) -> tuple[str, str]:
    """Body and answer of a question about the image `asked`, which shows `truth`."""
    skill = MULTI_SKILLS[int(rng.choice(len(MULTI_SKILLS), p=_MULTI_SHARES))]
    attribute = pick(tuple(ATTRIBUTES), rng)
    if skill == "which_image":
        return questions.which_image(truth, num_images), questions.ORDINALS[asked]
    if skill == "name":
        body, answer = questions.name(attribute), truth[attribute]
    elif skill == "yes_no":
        body, answer = _yes_no(truth, attribute, rng)
    else:
        body, answer = questions.describe(), questions.description(truth)
    return questions.about(asked, body), answer


def _yes_no(truth: Truth, attribute: str, rng: np.random.Generator) -> tuple[str, str]:
    if rng.random() < 0.5:
        return questions.yes_no(attribute, truth[attribute]), "yes"
    return questions.yes_no(attribute, varied(truth, (attribute,), rng)[attribute]), "no"
