"""What all embedded benchmarks share: settings, identity, and drawing what a question needs.

A question is settled before anything is drawn (`Draft`), so that ten thousand can be checked
without a pixel. Everything is keyed by (seed, benchmark, split, example), never by `size`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from PIL import Image

from focus.benchmarks.base import AbstractBenchmark, Descriptions, Example
from focus.errors import InvalidValueError
from focus.randomness import generator
from focus.worlds import SPLITS, AbstractWorld, Truth, pick, questions, world_of

#: Domain of a question about views of several.
MIXED = "mixed"


@dataclass(frozen=True)
class Draft:
    """A question before its views are drawn.

    Args:
        id: of the example.
        views: what each view shows, in order.
        body: the question behind the announced views.
        answer: the right one of `choices`.
        choices: what may be answered.
        category: see `Example`.
        about: views that the question names; empty for all of them.
        keys: name of each view within its split; empty for those that the id gives.
        distractors: see `Example`.
        group, cluster: see `Example`; empty for the id.
        attribute: the one asked for; None where the whole truth is.
        similarity: how alike the views are, where that is a setting.
        permutation: see `Example`.
        extra: further metadata.
    """

    id: str
    views: tuple[Truth, ...]
    body: str
    answer: str
    choices: tuple[str, ...]
    category: str
    about: tuple[int, ...] = ()
    keys: tuple[str, ...] = ()
    distractors: tuple[str, ...] = ()
    group: str = ""
    cluster: str = ""
    attribute: str | None = None
    similarity: int | None = None
    permutation: tuple[int, ...] = ()
    extra: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class AbstractEmbedded(AbstractBenchmark):
    """Questions about an embedded world: no download, unlimited, exact truth.

    `Example.truths` has one truth per VIEW, which is an image or, in a world of clips, all frames
    of one clip. `Example.targets` counts images; the frames of a clip form one unit, and where a
    question needs all clips, all units are named (an empty `targets` would make every frame a unit
    of its own). ``metadata`` holds ``num_images`` (views), ``frames`` (images per view), ``world``,
    ``domain`` (of the views asked about, or `MIXED`), ``attribute`` (None: the whole truth is asked
    for) and ``similarity`` (None where there is no such setting).

    Args:
        world: one of `focus.worlds.WORLDS`.
        split: "train", "dev" or "test".
        size: number of examples.
        seed: of the views and of every choice.
    """

    longest_answer: ClassVar[int] = 16

    world: str = "scenes"
    split: str = "test"
    size: int = 600
    seed: int = 0

    kind: ClassVar[str]

    def __post_init__(self) -> None:
        world_of(self.world)
        if self.split not in SPLITS:
            raise InvalidValueError("split", self.split, f"one of {list(SPLITS)}")
        check_integer("size", self.size, 1, 10**5)  # ids hold five digits
        check_integer("seed", self.seed, 0, 2**63 - 1)

    @property
    def name(self) -> str:
        """World and kind, so that records tell both.

        >>> from focus.benchmarks.embedded import Counting
        >>> Counting(world="digits").name
        'digits_counting'
        """
        return f"{self.world}_{self.kind}"

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Example:
        draft, world = self.draft(index), self._world
        return Example(
            id=draft.id,
            images=self._drawn(draft, draft.views),
            question=questions.prompt(len(draft.views), draft.body, world),
            answer=draft.answer,
            choices=draft.choices,
            targets=units(draft, world),
            distractors=draft.distractors,
            group=draft.group or draft.id,
            cluster=draft.cluster or draft.id,
            category=draft.category,
            truths=draft.views,
            metadata={
                "world": self.world,
                "domain": domain(draft, world),
                "num_images": len(draft.views),
                "frames": world.frames,
                "attribute": draft.attribute,
                "similarity": draft.similarity,
                **draft.extra,
            },
            permutation=draft.permutation,
        )

    def _drawn(self, draft: Draft, views: Sequence[Truth]) -> tuple[Image.Image, ...]:
        """What these views show, with all that no attribute names as it is in the draft."""
        keys = draft.keys or tuple(f"{draft.id}-{i}" for i in range(len(draft.views)))
        return tuple(
            frame
            for truth, key in zip(views, keys, strict=True)
            for frame in self._world.view(truth, seed=self.seed, split=self.split, index=key)
        )

    def counterfactual(self, index: int, slot: int) -> tuple[Image.Image, ...]:
        """The view that `slot` belongs to with another value of the asked attribute (of the first
        one, where the whole truth is asked for): one that no view has, where there is one."""
        draft, frames = self.draft(index), self._world.frames
        check_integer("slot", slot, 0, frames * len(draft.views) - 1)
        view, attribute = slot // frames, draft.attribute or self._attributes[0]
        own, values = draft.views[view], self._world.attributes[attribute]
        taken = {truth[attribute] for truth in draft.views}
        free = [value for value in values if value not in taken]
        free = free or [value for value in values if value != own[attribute]]
        value = pick(free, self._rng(f"{draft.id}-counterfactual-{view}"))
        views = list(draft.views)
        views[view] = {**own, attribute: value}
        return self._drawn(draft, views)

    def descriptions(self, index: int) -> Descriptions | None:
        """The values of an attribute in the asked view and in the first that has another one, as a
        question with lettered options, which the models know; merged, one after the other. None
        where the question is not about one of several views, or not about one attribute."""
        draft = self.draft(index)
        asked, attribute = self._asked(draft), draft.attribute
        if asked is None or len(draft.views) < 2 or attribute is None:
            return None
        values = [view[attribute] for view in draft.views]
        wrong = [k for k, value in enumerate(values) if value != values[asked]]
        if not wrong:
            return None
        return self._described(
            draft,
            (asked, wrong[0]),
            (values[asked], values[wrong[0]]),
            lambda one, other: f"{one} {other}",
            lambda options: questions.letter(attribute, options),
        )

    def _asked(self, draft: Draft) -> int | None:
        """The one view that a question is about; None where it is about several."""
        return draft.about[0] if len(draft.about) == 1 else None

    def alone(self, index: int) -> str | None:
        draft = self.draft(index)
        if len(draft.about) != 1:
            return None
        named = questions.about(draft.about[0], "", self._world)
        return questions.prompt(1, draft.body.removeprefix(named), self._world)

    def _described(
        self,
        draft: Draft,
        places: tuple[int, int],
        texts: tuple[str, str],
        merge: Callable[[str, str], str],
        body: Callable[[Sequence[str]], str],
    ) -> Descriptions:
        """Descriptions in the words of the world, of the views at two places, the asked one first;
        `body` is the question without views."""
        world = self._world
        drawn = self._drawn(draft, draft.views)

        def ask(place: int | None, num_views: int, options: Sequence[str]) -> str:
            text = body(options)
            text = text if place is None else questions.about(place, text, world)
            return questions.prompt(num_views, text, world)

        views = tuple(
            drawn[k * world.frames : (k + 1) * world.frames] for k in range(len(draft.views))
        )
        return Descriptions(views, *places, texts, merge, ask)

    def draft(self, index: int) -> Draft:
        """The question at `index`, nothing drawn; negative ones count from the end.

        Raises:
            IndexError: there are not so many.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} examples")
        return self._draft(index % len(self))

    @abstractmethod
    def _draft(self, index: int) -> Draft:
        """The question at `index`, from 0 to the last."""

    @property
    def _world(self) -> AbstractWorld:
        return world_of(self.world)

    @property
    def _attributes(self) -> tuple[str, ...]:
        return tuple(self._world.attributes)

    def _identity(self, index: int, *settings: str) -> str:
        """Name of a question (or of a pair) among all that any settings give."""
        parts = (self.name, self.split, f"seed{self.seed}", *settings, f"{index:05d}")
        return "-".join(parts)

    def _rng(self, identity: str) -> np.random.Generator:
        return generator(self.seed, self.name, self.split, identity)


@dataclass(frozen=True)
class AbstractSeveral(AbstractEmbedded):
    """Questions about several views that are more or less alike.

    Args:
        num_images: views of a question, up to 8 (in a world of clips: clips).
        similarity: how many attributes the views share; the kind says which views and which
            attributes. 0 makes them as different as they can be.
    """

    num_images: int = 2
    similarity: int = 1

    #: Least number of views of a question, and of attributes that are never shared.
    least_images: ClassVar[int] = 2
    least_changes: ClassVar[int] = 1
    #: Whether None stands for all similarities in turn.
    in_turn: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("num_images", self.num_images, self.least_images, questions.MAX_IMAGES)
        most = len(self._attributes) - self.least_changes
        if self.similarity is not None or not self.in_turn:
            check_integer("similarity", self.similarity, 0, most)

    def _named(self, index: int, *settings: str) -> str:
        similarity: int | None = self.similarity
        dials = (f"n{self.num_images}", f"similarity{'s' if similarity is None else similarity}")
        return self._identity(index, *dials, *settings)


def units(draft: Draft, world: AbstractWorld) -> tuple[int | tuple[int, ...], ...]:
    """`Example.targets` of a draft: images, or the frames of each clip."""
    if world.frames == 1:
        return draft.about
    clips = draft.about or range(len(draft.views))
    return tuple(tuple(range(k * world.frames, (k + 1) * world.frames)) for k in clips)


def domain(draft: Draft, world: AbstractWorld) -> str:
    """Part of the world that a question is about."""
    views = [draft.views[k] for k in draft.about] or draft.views
    found = {world.domain(truth) for truth in views}
    return found.pop() if len(found) == 1 else MIXED


def check_integer(name: str, value: object, low: int, high: int) -> None:
    """Raise `InvalidValueError` unless `value` is an integer from `low` to `high`."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidValueError(name, value, f"an integer from {low} to {high}")


def view_units(example: Example) -> tuple[tuple[int, ...], ...]:
    """Images of each view of a question, in order: one, or the frames of a clip.

    A question that is not an embedded one says itself which images are frames of a clip.
    """
    if not example.truths:
        clips = tuple(unit for unit in example.targets if isinstance(unit, tuple))
        whole = sum(map(len, clips)) == len(example.images)
        return clips if whole else tuple((k,) for k in range(len(example.images)))
    frames = len(example.images) // len(example.truths)
    starts = range(0, len(example.images), frames)
    return tuple(tuple(range(start, start + frames)) for start in starts)


def asked_view(example: Example) -> int | None:
    """The one view of several that a question names; None where it is about more."""
    units = view_units(example)
    if len(example.targets) != 1 or len(units) == 1:
        return None
    (unit,) = example.targets
    return (unit if isinstance(unit, int) else unit[0]) // len(units[0])
