"""Which truths stand together in one question: how alike they are, and in what."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from focus.worlds import AbstractWorld, Truth, pick


def subset(names: Sequence[str], count: int, rng: np.random.Generator) -> tuple[str, ...]:
    """So many of `names`, in their order."""
    chosen = {names[i] for i in rng.permutation(len(names))[:count]}
    return tuple(name for name in names if name in chosen)


def around(
    world: AbstractWorld,
    truth: Truth,
    place: int,
    num_images: int,
    shared: Collection[str],
    rng: np.random.Generator,
) -> tuple[Truth, ...]:
    """Truths that agree with `truth` in `shared` and in nothing else.

    Of every other attribute no view has the value of `truth`, and no two have the same as long as
    there are values enough, so that a wrong answer tells which view it came from.

    Args:
        world: says which values there are.
        truth: the target's.
        place: index of the target.
        num_images: how many truths, the target's included.
        shared: attributes in which all agree.
        rng: chooses values.
    """
    others: list[dict[str, str]] = [dict(truth) for _ in range(num_images - 1)]
    for attribute, values in world.attributes.items():
        if attribute in shared:
            continue
        wrong = [value for value in values if value != truth[attribute]]
        wrong = [wrong[i] for i in rng.permutation(len(wrong))]
        for other, turn in zip(others, rng.permutation(len(others)), strict=True):
            other[attribute] = wrong[turn % len(wrong)]
    return (*others[:place], truth, *others[place:])


def alike(
    world: AbstractWorld,
    attribute: str,
    values: Sequence[str],
    similarity: int,
    rng: np.random.Generator,
) -> tuple[Truth, ...]:
    """Truths with the given values of one attribute, all agreeing in `similarity` others.

    In the rest they do not all agree, and no view is special in it: what is asked of `attribute`
    cannot be told from another one.
    """
    rest = [name for name in world.attributes if name != attribute]
    shared = subset(rest, similarity, rng)
    columns: dict[str, Sequence[str]] = {attribute: values}
    for name in rest:
        options = world.attributes[name]
        if name in shared:
            columns[name] = [pick(options, rng)] * len(values)
            continue
        drawn = [pick(options, rng) for _ in values]
        while len(set(drawn)) == 1:
            drawn = [pick(options, rng) for _ in values]
        columns[name] = drawn
    return tuple(
        {name: columns[name][view] for name in world.attributes} for view in range(len(values))
    )
