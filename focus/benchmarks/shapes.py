"""Questions about the embedded world of coloured shapes: no download, unlimited, exact truth.

Three benchmarks, from easy to what this package is about: naming what a single image shows,
answering about one image of several, and telling a minimal pair apart. Images are drawn when they
are asked for, keyed by (seed, split, example), and never coincide with a training image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from focus.benchmarks.base import AbstractBenchmark, Example
from focus.benchmarks.prompting import rotation
from focus.errors import InvalidValueError
from focus.randomness import generator
from focus.zoo import questions
from focus.zoo.world import ATTRIBUTES, SPLITS, TRUTHS, Truth, scene, varied

SINGLE_SKILLS = ("name", "yes_no", "letter")
DIRECTIONS = ("image", "text", "both")
_NAMES = tuple(ATTRIBUTES)


@final
@dataclass(frozen=True)
class SingleImage(AbstractBenchmark):
    """One image and one attribute: named, confirmed or denied, or chosen from lettered options.

    What a model must be able to do before questions about several images mean anything.

    Args:
        split: "train", "dev" or "test".
        size: number of examples; skills (the `category`) and attributes take turns.
        seed: of the images and of every choice.
    """

    split: str = "test"
    size: int = 400
    seed: int = 0
    name = "shapes_single"

    def __post_init__(self) -> None:
        _check(self.split, self.size, self.seed)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Example:
        index = _checked_index(index, self.size)
        identity = f"single-{self.split}-seed{self.seed}-{index:05d}"
        rng = generator(self.seed, self.name, self.split, index)
        truth = TRUTHS[int(rng.integers(len(TRUTHS)))]
        skill = SINGLE_SKILLS[index % len(SINGLE_SKILLS)]
        attribute = _NAMES[index // len(SINGLE_SKILLS) % len(_NAMES)]
        choices: tuple[str, ...]
        if skill == "name":
            body, answer, choices = questions.name(attribute), truth[attribute], _values(attribute)
        elif skill == "yes_no":
            shown = bool(rng.integers(2))
            value = truth[attribute] if shown else varied(truth, (attribute,), rng)[attribute]
            body, answer, choices = (
                questions.yes_no(attribute, value),
                "yes" if shown else "no",
                ("yes", "no"),
            )
        else:
            body, answer = questions.lettered_question(truth, attribute, rng)
            choices = questions.LETTERS[: questions.NUM_OPTIONS]
        return Example(
            id=identity,
            images=(scene(truth, seed=self.seed, split=self.split, index=f"{identity}-0"),),
            question=questions.prompt(1, body),
            answer=answer,
            choices=choices,
            targets=(0,),
            group=identity,
            cluster=identity,
            category=skill,
            truths=(truth,),
            metadata={"attribute": attribute, "num_images": 1},
        )


@final
@dataclass(frozen=True)
class IndexedQuestion(AbstractBenchmark):
    """Several images and one attribute of one of them: "in the second image , what is the color ?".

    Every other image has another value of that attribute, so an answer that is right for another
    image is always wrong here and always recognised as leakage.

    Args:
        split: "train", "dev" or "test".
        size: number of examples; asked image and attribute take turns.
        num_images: 2 to 8.
        seed: of the images and of every choice.
        similarity: how many of the two attributes that are not asked for (0 to 2) all other images
            share with the target; they differ from it in the rest.
    """

    split: str = "test"
    size: int = 400
    num_images: int = 2
    seed: int = 0
    similarity: int = 1
    name = "shapes_indexed"

    def __post_init__(self) -> None:
        _check(self.split, self.size, self.seed)
        _check_integer("num_images", self.num_images, 2, questions.MAX_IMAGES)
        _check_integer("similarity", self.similarity, 0, len(_NAMES) - 1)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Example:
        index = _checked_index(index, self.size)
        identity = (
            f"indexed-{self.split}-seed{self.seed}-n{self.num_images}"
            f"-similarity{self.similarity}-{index:05d}"
        )
        rng = generator(self.seed, self.name, self.split, identity)
        target = index % self.num_images
        attribute = _NAMES[index // self.num_images % len(_NAMES)]
        truth = TRUTHS[int(rng.integers(len(TRUTHS)))]
        rest = [name for name in _NAMES if name != attribute]
        shared = [rest[i] for i in rng.permutation(len(rest))[: self.similarity]]
        change = tuple(name for name in _NAMES if name not in shared)
        truths: list[Truth] = [varied(truth, change, rng) for _ in range(self.num_images)]
        truths[target] = truth
        body = questions.about(target, questions.name(attribute))
        return Example(
            id=identity,
            images=tuple(
                scene(each, seed=self.seed, split=self.split, index=f"{identity}-{i}")
                for i, each in enumerate(truths)
            ),
            question=questions.prompt(self.num_images, body),
            answer=truth[attribute],
            choices=_values(attribute),
            targets=(target,),
            distractors=_distractors(truths, target, attribute),
            group=identity,
            cluster=identity,
            category=attribute,
            truths=tuple(truths),
            metadata={
                "attribute": attribute,
                "num_images": self.num_images,
                "similarity": self.similarity,
            },
        )


@final
@dataclass(frozen=True)
class MinimalPair(AbstractBenchmark):
    """Two images that differ in one attribute, and their two captions (as VisMin and Winoground).

    Direction "image": both images and one caption, which image? Direction "text": one image and
    both captions, which caption? Each gives two examples per pair, which share a `group`; the image
    (text) score counts a pair only if both are right, the group score only if all four are, which
    share a `cluster`. The direction is the `category`.

    Args:
        split: "train", "dev" or "test".
        size: number of PAIRS; there are two examples per pair and direction.
        seed: of the images and of every choice.
        direction: "image", "text" or "both".
        order: 1 swaps the images of a pair, or the captions.
    """

    split: str = "test"
    size: int = 200
    seed: int = 0
    direction: str = "image"
    order: int = 0
    name = "shapes_matching"
    orders: ClassVar[int] = 2

    def __post_init__(self) -> None:
        _check(self.split, self.size, self.seed)
        if self.direction not in DIRECTIONS:
            raise InvalidValueError("direction", self.direction, f"one of {list(DIRECTIONS)}")
        _check_integer("order", self.order, 0, self.orders - 1)

    @property
    def directions(self) -> tuple[str, ...]:
        """The directions that are asked, in order."""
        return ("image", "text") if self.direction == "both" else (self.direction,)

    def __len__(self) -> int:
        return 2 * len(self.directions) * self.size

    def __getitem__(self, index: int) -> Example:
        index = _checked_index(index, len(self))
        pair, member = divmod(index, 2 * len(self.directions))
        direction, asked = self.directions[member // 2], member % 2
        cluster = f"matching-{self.split}-seed{self.seed}-{pair:05d}"
        rng = generator(self.seed, self.name, self.split, pair)
        attribute = _NAMES[pair % len(_NAMES)]
        truth = TRUTHS[int(rng.integers(len(TRUTHS)))]
        truths: tuple[Truth, ...] = (truth, varied(truth, (attribute,), rng))
        images = tuple(
            scene(each, seed=self.seed, split=self.split, index=f"{cluster}-{i}")
            for i, each in enumerate(truths)
        )
        turn = rotation(2, self.order)
        shown = turn if direction == "image" else (asked,)
        if direction == "image":
            question = questions.prompt(2, questions.which_image(truths[asked], 2))
            choices = questions.ORDINALS[:2]
        else:
            captions = questions.which_caption([truths[k] for k in turn])
            question = questions.prompt(1, captions)
            choices = questions.LETTERS[:2]
        return Example(
            id=f"{cluster}-{direction}-{asked}",
            images=tuple(images[k] for k in shown),
            question=question,
            answer=choices[turn.index(asked)],
            choices=choices,
            group=f"{cluster}-{direction}",
            cluster=cluster,
            category=direction,
            truths=tuple(truths[k] for k in shown),
            metadata={"attribute": attribute, "num_images": len(shown)},
            permutation=turn,
        )


def _values(attribute: str) -> tuple[str, ...]:
    return ATTRIBUTES[attribute]


def _distractors(truths: list[Truth], target: int, attribute: str) -> tuple[str, ...]:
    """Values of the other images, each once, in the order of the images."""
    others = (truth[attribute] for i, truth in enumerate(truths) if i != target)
    return tuple(dict.fromkeys(others))


def _check(split: object, size: object, seed: object) -> None:
    if split not in SPLITS:
        raise InvalidValueError("split", split, f"one of {list(SPLITS)}")
    _check_integer("size", size, 1, 10**5)  # ids hold five digits
    _check_integer("seed", seed, 0, 2**63 - 1)


def _check_integer(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidValueError(name, value, f"an integer from {low} to {high}")


def _checked_index(index: int, size: int) -> int:
    """`index` from 0; negative ones count from the end, as in any sequence."""
    if not -size <= index < size:
        raise IndexError(f"index {index} is out of range for {size} examples")
    return index % size
