"""What stands in the image slots of a prompt: clean images, noise, and blends of both."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from cachetools import Cache
from PIL import Image, ImageOps

from focus.branches import BranchPlan, Content
from focus.decoding.base import Request
from focus.errors import ImageError
from focus.models.base import ImageFeatures, ImageInputs
from focus.models.loading import VisionLanguageModel
from focus.noise import (
    NOISE_TYPES,
    NoiseConfig,
    blend,
    noise_generator,
    noise_image,
    published_blend,
)


def render(
    plan: BranchPlan, request: Request, noise: NoiseConfig, *, per_run: bool = False
) -> dict[Content, Image.Image]:
    """Image of every content of a plan at its own size: the published order, and what to show.

    The key of each draw is (seed, sample id, image index, row), or (seed, image index) where a
    whole run shares its noise: it never depends on the order in which samples are decoded.
    """
    return {
        content: request.images[content.slot]
        if content.kind == "clean"
        else _masked(content, request, noise, request.images[content.slot], per_run=per_run)
        for content in plan.contents
    }


def _masked(
    content: Content,
    request: Request,
    noise: NoiseConfig,
    image: Image.Image,
    *,
    per_run: bool,
    view: int = 0,
) -> Image.Image:
    """Noise, or a blend with it, in place of an image or of one of the model's views of it."""
    sample_id = "" if per_run else request.sample_id
    random = noise_generator(noise.seed, sample_id, content.slot, content.row, view)
    scale = noise.scale if content.kind == "blend" else 1.0
    if noise.drawn_at == "image":
        return published_blend(noise.name, image, random, scale=scale, severity=noise.severity)
    drawn = noise_image(noise.name, image, random, severity=noise.severity)
    return blend(image, drawn, scale=scale)


@dataclass(frozen=True)
class Views:
    """An image as the model sees it, see `focus.models.base.AbstractFamily.views`."""

    images: tuple[Image.Image, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all pixels."""
        return sum(3 * image.width * image.height for image in self.images)


@dataclass(frozen=True)
class Untouched:
    """Whether the processor leaves images of one size as they are."""

    here: bool
    nbytes: int = 1


_UNKNOWN = Untouched(False)


def remembered(cache: Cache, key: Hashable, make: Callable[[], Any]) -> Any:
    """What `make` returns, made once as long as there is room to keep it."""
    found = cache.get(key)
    if found is None:
        found = make()
        if found.nbytes <= cache.maxsize:
            cache[key] = found
    return found


class ShownImages:
    """What the vision tower takes for every content of a plan, each worked out once.

    Noise is drawn at the size that the model sees (`NoiseConfig.drawn_at`): on each of the views
    that the processor makes of the clean image, so that it fills exactly as many tokens.
    """

    def __init__(self, vlm: VisionLanguageModel, request: Request) -> None:
        self.vlm, self.request = vlm, request
        #: The settings that decide what the processor makes of an image; they may be changed.
        self.processing = str(vars(vlm.processor.image_processor))
        self._maker = (type(vlm.family).__qualname__, self.processing)
        self._clean: dict[int, ImageInputs] = {}

    def clean(self, slot: int) -> ImageInputs:
        """The image at `slot`.

        Raises:
            ImageError: the processor refuses it (sides too unequal, ...), with its place.
        """
        if slot not in self._clean:
            vlm, image = self.vlm, self.request.images[slot]
            key = (*self._maker, image.size, hashlib.blake2b(image.tobytes()).digest())
            try:
                self._clean[slot] = remembered(vlm.seen, key, lambda: self._processed(image))
            except ValueError as error:
                raise ImageError(
                    f"image {slot + 1} of {len(self.request.images)}, {image.width} x "
                    f"{image.height} pixels, is refused by the image processor of {vlm.name}: "
                    f"{error}"
                ) from error
        return self._clean[slot]

    def _processed(self, image: Image.Image) -> ImageInputs:
        """What the processor makes of an image.

        Where it leaves images of a size as they are, which is asked of it once for every size, its
        arithmetic is all there is to do.
        """
        family, processor, known = self.vlm.family, self.vlm.processor, self.vlm.seen
        if self._untouched(image):
            return family.view_inputs(processor, [image])
        inputs = family.image_inputs(processor, image)
        key = self._size_key(image)
        if key not in known:
            views = family.views(processor, inputs)
            same = len(views) == 1 and views[0].size == image.size
            known[key] = Untouched(
                same
                and views[0].tobytes() == image.tobytes()
                and family.view_inputs(processor, [image]).key == inputs.key
            )
        return inputs

    def _size_key(self, image: Image.Image) -> Hashable:
        return (*self._maker, "untouched", image.size)

    def _untouched(self, image: Image.Image) -> bool:
        """Whether images of this size are known to be left as they are."""
        untouched: Untouched = self.vlm.seen.get(self._size_key(image), _UNKNOWN)
        return untouched.here

    def views(self, slot: int) -> tuple[Image.Image, ...]:
        """The image at `slot` as the model sees it."""
        inputs, vlm, image = self.clean(slot), self.vlm, self.request.images[slot]
        if self._untouched(image):
            return (image,)
        key = (*self._maker, "views", inputs.key)
        return remembered(
            vlm.seen, key, lambda: Views(vlm.family.views(vlm.processor, inputs))
        ).images

    def masked(self, content: Content, noise: NoiseConfig, *, per_run: bool) -> ImageInputs:
        """Noise, or a blend, in its place."""
        family, processor = self.vlm.family, self.vlm.processor
        if noise.drawn_at == "image" or (content.kind == "blend" and noise.scale == 0):
            clean = self.request.images[content.slot]
            image = _masked(content, self.request, noise, clean, per_run=per_run)
            return family.image_inputs(processor, image)
        views = [
            _masked(content, self.request, noise, view, per_run=per_run, view=k)
            for k, view in enumerate(self.views(content.slot))
        ]
        return family.view_inputs(processor, views)

    def stand_in(self, slot: int) -> ImageInputs:
        """The same photograph in the place of any image, cut to its shape."""
        views = [ImageOps.fit(photograph(), view.size) for view in self.views(slot)]
        return self.vlm.family.view_inputs(self.vlm.processor, views)


def run_image(
    shown: ShownImages, content: Content, noise: NoiseConfig
) -> tuple[ImageInputs, ImageFeatures | None]:
    """Noise or a stand-in, which a whole run shares; encoded once per slot and size where that is
    all it needs."""
    vlm, slot = shown.vlm, content.slot
    stands_in = content.kind == "stand-in"
    if not stands_in and NOISE_TYPES[noise.name].content_dependent:
        return shown.masked(content, noise, per_run=True), None
    drawn = () if stands_in else (noise.name, noise.severity, noise.seed, noise.drawn_at)
    key = (*drawn, slot, shown.request.images[slot].size, shown.processing)
    if key not in vlm.noise_cache:
        inputs = shown.stand_in(slot) if stands_in else shown.masked(content, noise, per_run=True)
        features = None
        if vlm.has_weights:
            with torch.no_grad():
                features = vlm.family.encode(vlm.model, [inputs])[0]
        vlm.noise_cache[key] = (inputs, features)
    return vlm.noise_cache[key]


@functools.cache
def photograph() -> Image.Image:
    """A flower, which scikit-learn has brought along: what noise may have seen in the place of a
    clean image."""
    from sklearn.datasets import load_sample_image  # takes a second, and few need it

    return Image.fromarray(load_sample_image("flower.jpg"))
