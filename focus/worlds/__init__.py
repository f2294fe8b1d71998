"""The embedded worlds: pictures and clips whose every property is known."""

from __future__ import annotations

from collections.abc import Mapping

from focus.errors import UnknownNameError
from focus.worlds.base import SIZE, SPLITS, AbstractWorld, Truth, pick, varied
from focus.worlds.clips import Clips
from focus.worlds.digits import Digits
from focus.worlds.photos import Photos
from focus.worlds.scenes import Scenes

WORLDS: Mapping[str, AbstractWorld] = {
    world.name: world for world in (Scenes(), Digits(), Photos(), Clips())
}

__all__ = [
    "SIZE",
    "SPLITS",
    "WORLDS",
    "AbstractWorld",
    "Clips",
    "Digits",
    "Photos",
    "Scenes",
    "Truth",
    "pick",
    "varied",
    "world_of",
]


def world_of(name: str) -> AbstractWorld:
    """The world of a name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in WORLDS:
        raise UnknownNameError("world", name, WORLDS)
    return WORLDS[name]
