"""Decoding strategies: one file each, all with the interface of `AbstractDecoding`."""

from focus.decoding.adaptive_focus import AdaptiveFocus
from focus.decoding.base import AbstractDecoding, Decoded, GenerationSettings, Request
from focus.decoding.block_attention import BlockAttention
from focus.decoding.caption_then_answer import CaptionThenAnswer
from focus.decoding.composed_focus import ComposedFocus
from focus.decoding.delimiter_scaling import DelimiterScaling
from focus.decoding.focus import Focus, official_settings
from focus.decoding.masked_focus import MaskedFocus
from focus.decoding.plain import Plain
from focus.decoding.routed_focus import RoutedFocus
from focus.decoding.single_image import SingleImage
from focus.decoding.sofa import Sofa
from focus.decoding.vcd import Vcd

#: Every strategy by the name that records and tables use.
STRATEGIES: dict[str, type[AbstractDecoding]] = {
    cls.name: cls
    for cls in (
        Plain,
        SingleImage,
        Focus,
        Vcd,
        Sofa,
        DelimiterScaling,
        BlockAttention,
        CaptionThenAnswer,
        AdaptiveFocus,
        RoutedFocus,
        ComposedFocus,
        MaskedFocus,
    )
}

__all__ = [
    "STRATEGIES",
    "AbstractDecoding",
    "AdaptiveFocus",
    "BlockAttention",
    "CaptionThenAnswer",
    "ComposedFocus",
    "Decoded",
    "DelimiterScaling",
    "Focus",
    "GenerationSettings",
    "MaskedFocus",
    "Plain",
    "Request",
    "RoutedFocus",
    "SingleImage",
    "Sofa",
    "Vcd",
    "official_settings",
]
