"""What an embedded model is trained on: a stream of questions drawn by key.

The shares of noise images, of abstention and of guesses decide what masked branches say later, so
all are plain numbers here and are counted while training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from focus.errors import InvalidValueError
from focus.worlds import WORLDS, questions, world_of
from focus.worlds.base import AbstractWorld, Truth, pick, varied
from focus.zoo.bank import ImageBank

SINGLE_SKILLS = ("name", "yes_no", "letter", "describe", "which_caption")
#: Questions about one of several images, with their shares; the rest need all images at once.
ASKED_SHARES = {
    "name": 0.25,
    "describe": 0.10,
    "which_image": 0.35,
    "yes_no": 0.10,
    "letter": 0.04,
    "which_caption": 0.04,
}
GROUP_SHARES = {"same": 0.05, "odd_one_out": 0.03, "how_many": 0.04}
#: Kinds of questions that are not about one clean image, in the order in which they are drawn.
KIND_SHARES = ("clean_multi", "masked_multi", "abstain_multi", "guess_multi", "abstain_single")
#: A question about several clips of eight frames would not fit with more of them.
MAX_FRAMES = 16


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """Shares of the kinds of questions in one training stage.

    Args:
        worlds: share of each world.
        clean_multi: share of questions about several clean images.
        masked_multi: share of questions with one clean image among noise images, about that image.
        abstain_multi: the same, asked about one of the noise images; the answer is "unknown".
        guess_multi: the same, but the answer is that of a view drawn independently of the visible
            one: the visible image teaches nothing about it, and only the prior can be learned.
        guess_which: what such a question answers that asks which image fits a caption:
            ``eliminate`` a masked image, since the caption fails the visible one, or ``uniform``,
            any image whatever the visible one shows.
        abstain_single: share of questions about a single noise image; the answer is "unknown".
        many_images: share of batches whose questions have 3 to 8 images instead of 2.
        single_shares: of the skills in `SINGLE_SKILLS` among questions about one clean image.
        emphasis: how often an attribute is asked for, relative to those that are not named.

    The rest are questions about a single clean image.
    """

    worlds: Mapping[str, float]
    clean_multi: float = 0.0
    masked_multi: float = 0.0
    abstain_multi: float = 0.0
    guess_multi: float = 0.0
    guess_which: Literal["eliminate", "uniform"] = "eliminate"
    abstain_single: float = 0.0
    many_images: float = 0.0
    single_shares: tuple[float, ...] = (0.25, 0.25, 0.25, 0.05, 0.20)
    emphasis: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (*KIND_SHARES, "many_images"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidValueError(name, getattr(self, name), "between 0 and 1")
        if sum(self.kind_shares) > 1:
            raise InvalidValueError(" + ".join(KIND_SHARES), sum(self.kind_shares), "at most 1")
        if self.guess_which not in ("eliminate", "uniform"):
            raise InvalidValueError("guess_which", self.guess_which, "'eliminate' or 'uniform'")
        _check_shares("single_shares", self.single_shares, len(SINGLE_SKILLS))
        _check_shares("worlds", tuple(self.worlds.values()), len(self.worlds))
        for name in self.worlds:
            world_of(name)
        known = {attribute for world in WORLDS.values() for attribute in world.attributes}
        if set(self.emphasis) - known:
            raise InvalidValueError("emphasis", dict(self.emphasis), f"some of {sorted(known)}")

    @property
    def kind_shares(self) -> tuple[float, ...]:
        """Shares of `KIND_SHARES`, in their order."""
        return tuple(getattr(self, name) for name in KIND_SHARES)


@dataclass(frozen=True)
class Item:
    """One training question.

    Args:
        question: prompt text with one ``<image>`` per image.
        answer: what the model should say.
        images: rows of the image bank, in prompt order.
        views: how many images (or clips) the question is about.
        noise_images: how many of the images are noise.
    """

    question: str
    answer: str
    images: tuple[int, ...]
    views: int = 1
    noise_images: int = 0


def draw_items(
    mixture: Mixture, bank: ImageBank, rng: np.random.Generator, *, size: int
) -> list[Item]:
    """One batch; its multi-image questions are of one world and have one number of images."""
    shared = _draw_world(mixture, rng)
    many = rng.random() < mixture.many_images and 3 * shared.frames <= MAX_FRAMES
    num_images = int(rng.integers(3, questions.MAX_IMAGES + 1)) if many else 2
    kinds = (*KIND_SHARES, "single")
    bounds = np.cumsum(mixture.kind_shares)
    items = []
    for _ in range(size):
        kind = kinds[int(np.searchsorted(bounds, rng.random(), side="right"))]
        if kind == "clean_multi":
            item = clean_item(bank, rng, shared, num_images=num_images)
        elif kind in ("masked_multi", "abstain_multi"):
            abstain = kind == "abstain_multi"
            item = masked_item(bank, rng, shared, num_images=num_images, abstain=abstain)
        elif kind == "guess_multi":
            uniform = mixture.guess_which == "uniform"
            item = guess_item(bank, rng, shared, num_images=num_images, uniform=uniform)
        else:
            world, noise = _draw_world(mixture, rng), kind == "abstain_single"
            item = single_item(bank, rng, world, mixture=mixture, noise=noise)
        items.append(item)
    return items


def single_item(
    bank: ImageBank,
    rng: np.random.Generator,
    world: AbstractWorld,
    *,
    mixture: Mixture,
    noise: bool = False,
) -> Item:
    """A question about one clean view; with `noise`, one that cannot be answered."""
    truth = pick(world.truths, rng)
    skill = SINGLE_SKILLS[int(rng.choice(len(SINGLE_SKILLS), p=mixture.single_shares))]
    names = tuple(world.attributes)
    weights = np.array([mixture.emphasis.get(name, 1.0) for name in names])
    attribute = names[int(rng.choice(len(names), p=weights / weights.sum()))]
    body, answer = _question_about(skill, truth, attribute, world, rng)
    question = questions.prompt(1, body, world)
    if noise:
        images = bank.noise(world, rng)
        return Item(question, questions.UNKNOWN, images, noise_images=len(images))
    return Item(question, answer, bank.draw(world, truth, rng))


def clean_item(
    bank: ImageBank, rng: np.random.Generator, world: AbstractWorld, *, num_images: int
) -> Item:
    """A question about several clean views, most about one of them, some about all at once."""
    skills = ASKED_SHARES | GROUP_SHARES
    if num_images < 3:
        skills = {skill: share for skill, share in skills.items() if skill != "odd_one_out"}
    skill = _draw_skill(skills, rng)
    attribute = pick(tuple(world.attributes), rng)
    if skill in GROUP_SHARES:
        truths, body, answer = _GROUP_QUESTIONS[skill](world, attribute, num_images, rng)
    else:
        asked = int(rng.integers(num_images))
        truth = pick(world.truths, rng)
        # Half of them are minimal pairs: all other views differ in one attribute only.
        minimal = rng.random() < 0.5
        truths = [
            varied(world, truth, (attribute,), rng, keep_rest=minimal) for _ in range(num_images)
        ]
        truths[asked] = truth
        body, answer = _asked_question(skill, truth, attribute, asked, num_images, world, rng)
    images = tuple(row for each in truths for row in bank.draw(world, each, rng))
    return Item(questions.prompt(num_images, body, world), answer, images, views=num_images)


def masked_item(
    bank: ImageBank,
    rng: np.random.Generator,
    world: AbstractWorld,
    *,
    num_images: int,
    abstain: bool,
) -> Item:
    """One clean view among noise: what a branch of the method sees.

    Args:
        bank: clean and noise images.
        rng: makes every choice.
        world: of the question.
        num_images: all views together.
        abstain: ask for what only a masked view could answer; the answer is "unknown".
    """
    clean = int(rng.integers(num_images))
    truth = pick(world.truths, rng)
    attribute = pick(tuple(world.attributes), rng)
    asked, asked_truth = clean, truth
    if abstain:
        asked = (clean + 1 + int(rng.integers(num_images - 1))) % num_images
        # A caption that fails the clean view by one attribute is what a minimal pair asks.
        asked_truth = varied(world, truth, (attribute,), rng, keep_rest=rng.random() < 0.7)
    skill = _draw_skill(ASKED_SHARES, rng)
    body, answer = _asked_question(skill, asked_truth, attribute, asked, num_images, world, rng)
    answer = questions.UNKNOWN if abstain else answer
    return _one_clean(bank, rng, world, body, answer, truth, clean=clean, num_images=num_images)


def guess_item(
    bank: ImageBank,
    rng: np.random.Generator,
    world: AbstractWorld,
    *,
    num_images: int,
    uniform: bool = False,
) -> Item:
    """A question about a masked view, answered as if it were seen.

    What it shows is drawn independently of the visible view. (A view that always differed from the
    visible one would teach to rule out what is seen, the opposite of leaking.) A caption whose
    image is asked for fails the visible view, mostly by one attribute, as in a minimal pair.

    Args:
        bank: clean and noise images.
        rng: makes every choice.
        world: of the question.
        num_images: all views together.
        uniform: where an image is asked for, the answer is any of them and not a masked one.
    """
    clean = int(rng.integers(num_images))
    truth = pick(world.truths, rng)
    attribute = pick(tuple(world.attributes), rng)
    asked = (clean + 1 + int(rng.integers(num_images - 1))) % num_images
    skill = _draw_skill(ASKED_SHARES, rng)
    if skill == "which_image":
        hidden = varied(world, truth, (attribute,), rng, keep_rest=rng.random() < 0.7)
        asked = int(rng.integers(num_images)) if uniform else asked
    else:
        hidden = pick(world.truths, rng)
    body, answer = _asked_question(skill, hidden, attribute, asked, num_images, world, rng)
    return _one_clean(bank, rng, world, body, answer, truth, clean=clean, num_images=num_images)


def _one_clean(
    bank: ImageBank,
    rng: np.random.Generator,
    world: AbstractWorld,
    body: str,
    answer: str,
    truth: Truth,
    *,
    clean: int,
    num_images: int,
) -> Item:
    """The question with a view of `truth` at place `clean` and noise everywhere else."""
    images: list[int] = []
    for k in range(num_images):
        images += bank.draw(world, truth, rng) if k == clean else bank.noise(world, rng)
    return Item(
        questions.prompt(num_images, body, world),
        answer,
        tuple(images),
        views=num_images,
        noise_images=(num_images - 1) * world.frames,
    )


def _asked_question(
    skill: str,
    truth: Truth,
    attribute: str,
    asked: int,
    num_images: int,
    world: AbstractWorld,
    rng: np.random.Generator,
) -> tuple[str, str]:
    """Body and answer of a question about the view `asked`, which shows `truth`."""
    if skill == "which_image":
        return questions.which_image(truth, num_images, world), questions.ORDINALS[asked]
    body, answer = _question_about(skill, truth, attribute, world, rng)
    return questions.about(asked, body, world), answer


def _question_about(
    skill: str, truth: Truth, attribute: str, world: AbstractWorld, rng: np.random.Generator
) -> tuple[str, str]:
    """Body and answer of a question about one view."""
    if skill == "name":
        return questions.name(attribute), truth[attribute]
    if skill == "yes_no":
        if rng.random() < 0.5:
            return questions.yes_no(attribute, truth[attribute]), "yes"
        wrong = varied(world, truth, (attribute,), rng)
        return questions.yes_no(attribute, wrong[attribute]), "no"
    if skill == "letter":
        return questions.lettered_question(truth, attribute, world, rng)
    if skill == "describe":
        return questions.describe(), world.description(truth)
    wrong = varied(world, truth, (attribute,), rng)
    place = int(rng.integers(2))
    body = questions.which_caption((wrong, truth) if place else (truth, wrong), world)
    return body, questions.LETTERS[place]


_GroupQuestion = tuple[list[Truth], str, str]


def _same(
    world: AbstractWorld, attribute: str, num_images: int, rng: np.random.Generator
) -> _GroupQuestion:
    truths = _alike(world, attribute, num_images, rng)
    same = rng.random() < 0.5
    if not same:
        k = int(rng.integers(num_images))
        truths[k] = varied(world, truths[k], (attribute,), rng)
    return truths, questions.same(attribute, world), "yes" if same else "no"


def _odd_one_out(
    world: AbstractWorld, attribute: str, num_images: int, rng: np.random.Generator
) -> _GroupQuestion:
    truths = _alike(world, attribute, num_images, rng)
    k = int(rng.integers(num_images))
    truths[k] = varied(world, truths[k], (attribute,), rng)
    return truths, questions.odd_one_out(attribute, num_images, world), questions.ORDINALS[k]


def _how_many(
    world: AbstractWorld, attribute: str, num_images: int, rng: np.random.Generator
) -> _GroupQuestion:
    truths = _alike(world, attribute, num_images, rng)
    value = truths[0][attribute]
    count = int(rng.integers(num_images + 1))
    for k in rng.permutation(num_images)[count:]:
        truths[k] = varied(world, truths[k], (attribute,), rng)
    return truths, questions.how_many(attribute, value, world), questions.NUMBERS[count]


def _alike(
    world: AbstractWorld, attribute: str, num_images: int, rng: np.random.Generator
) -> list[Truth]:
    """Truths that agree in one attribute and are drawn anew in all others."""
    truth = pick(world.truths, rng)
    return [{**pick(world.truths, rng), attribute: truth[attribute]} for _ in range(num_images)]


_GROUP_QUESTIONS: dict[
    str, Callable[[AbstractWorld, str, int, np.random.Generator], _GroupQuestion]
] = {"same": _same, "odd_one_out": _odd_one_out, "how_many": _how_many}


def _draw_world(mixture: Mixture, rng: np.random.Generator) -> AbstractWorld:
    names = tuple(mixture.worlds)
    return world_of(names[int(rng.choice(len(names), p=list(mixture.worlds.values())))])


def _draw_skill(shares: Mapping[str, float], rng: np.random.Generator) -> str:
    weights = np.array(list(shares.values()))
    return tuple(shares)[int(rng.choice(len(weights), p=weights / weights.sum()))]


def _check_shares(name: str, shares: Sequence[float], count: int) -> None:
    if len(shares) != count or abs(sum(shares) - 1) > 1e-9 or min(shares) < 0:
        raise InvalidValueError(name, tuple(shares), f"{count} shares that sum to 1")
