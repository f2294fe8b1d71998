"""Embedded architectures by the name of their family."""

from focus.errors import UnknownNameError
from focus.zoo.architectures.base import AbstractArchitecture, Architecture
from focus.zoo.architectures.internvl import InternVLArchitecture
from focus.zoo.architectures.llava_onevision import LlavaOnevisionArchitecture
from focus.zoo.architectures.qwen_vl import Qwen2_5_VLArchitecture, Qwen3VLArchitecture

ARCHITECTURES: dict[str, AbstractArchitecture] = {
    architecture.name: architecture
    for architecture in (
        InternVLArchitecture(),
        LlavaOnevisionArchitecture(),
        Qwen2_5_VLArchitecture(),
        Qwen3VLArchitecture(),
    )
}


def architecture_of(sizes: Architecture) -> AbstractArchitecture:
    """Builder of a model of these sizes.

    Raises:
        UnknownNameError: there is none for that family.
    """
    if sizes.family not in ARCHITECTURES:
        raise UnknownNameError("architecture", sizes.family, ARCHITECTURES)
    return ARCHITECTURES[sizes.family]


__all__ = ["ARCHITECTURES", "AbstractArchitecture", "Architecture", "architecture_of"]
