"""Noise images: what stands in for the images that a branch must not see.

Every function here is pure maths on 8-bit RGB images, and every draw comes from a generator that
the caller passes in. The twelve published types follow `utils/add_noise.py` of the authors' code
(github.com/yejipark-m/FOCUS, commit 8e04e89), read line by line:

* Values are cut, not rounded, to 8 bit.
* `imagenet+gaussian` and `imagenet+uniform` are drawn in ImageNet-normalised space and brought
  back to pixels (times std, plus mean, clipped to [0, 1]).
* `imagenet+diffusion`, `shot`, `impulse` and `speckle` normalise the image but never undo it: the
  normalised values are clipped to [0, 1] and shown as pixels, so everything darker than the
  ImageNet mean turns black and everything brighter than mean + std turns white. They are kept as
  they are for comparison; `<name>-corrected` does what was presumably meant (our reading).
* `imagenet+diffusion` takes the step ``int(scale * 999)``. We always take the last one, 999, which
  is the published value at the default scale 1.0. Severity has no part in it. Even there
  sqrt(abar) = 0.29, so the image still shines through. (VCD's own default is step 500.)
* The shot, impulse and speckle strengths are those of ImageNet-C (Hendrycks & Dietterich, ICLR
  2019, arXiv 1903.12261; github.com/hendrycks/robustness), where they act on pixels.

Two deviations, each with the published way as an option. The published noise is drawn at the
photograph's own size, and the processor then shrinks it, which averages it away: of the 17 grey
levels that `imagenet+uniform` has, Qwen2.5-VL at 512 x 512 pixels sees 13 in a photograph of that
size and 3 in one of 3000 x 2000. Here it is drawn at the size that the model sees. And the
published `scale` mixes image and noise, before clipping, for the first two `imagenet+` types only,
picks the step for diffusion, and is ignored by all others; here `blend` treats all types alike. At
scale 1 all types agree. `NoiseConfig.drawn_at` of ``image`` takes the published order of both, for
those two types.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Literal

import numpy as np
from PIL import Image
from pydantic import Field

from focus.checks import Natural, Share, check, check_fields
from focus.errors import ImageError, UnknownNameError
from focus.randomness import generator

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406])
"""Mean of the red, green and blue channels, pixels in [0, 1]."""
IMAGENET_STD = np.array([0.229, 0.224, 0.225])
"""Standard deviation of the red, green and blue channels, pixels in [0, 1]."""
DIFFUSION_STEPS = 1000
"""Length of the diffusion schedule, as in VCD (arXiv 2311.16922); the last step is used."""
SHOT_PHOTONS = (60, 25, 12, 5, 3)
"""Expected count of a white pixel at severity 1..5: the fewer, the noisier."""
IMPULSE_AMOUNT = (0.03, 0.06, 0.09, 0.17, 0.27)
"""Share of channel values replaced by black or white at severity 1..5."""
SPECKLE_STD = (0.15, 0.2, 0.35, 0.45, 0.6)
"""Standard deviation of the multiplicative noise at severity 1..5."""

Severity = Annotated[int, Field(ge=1, le=5)]
DiffusionStep = Annotated[int, Field(ge=0, lt=DIFFUSION_STEPS)]

NoiseFunction = Callable[[np.ndarray, np.random.Generator, int], np.ndarray]
"""(8-bit pixels [height, width, 3], generator, severity 1..5) -> 8-bit pixels of the same shape."""


@dataclass(frozen=True)
class NoiseType:
    """One way to make a noise image.

    Attributes:
        name: Key in `NOISE_TYPES`.
        function: Maps 8-bit pixels [height, width, 3] to 8-bit pixels of the same shape.
        content_dependent: Whether the result depends on the image. Such noise may still show it,
            so a branch "without" the image can leak it.
        constant: Whether every generator gives the same result.
        uses_severity: Whether `severity` changes anything.
        published: Whether it is one of the authors' twelve, bugs included.
    """

    name: str
    function: NoiseFunction
    content_dependent: bool = False
    constant: bool = False
    uses_severity: bool = False
    published: bool = False


_registry: dict[str, NoiseType] = {}
NOISE_TYPES: Mapping[str, NoiseType] = MappingProxyType(_registry)
"""All noise types by name, read only: `_add` registers one. The published ones come first, in the
order of the authors' list."""


def _add(name: str, function: NoiseFunction, **flags: bool) -> None:
    _registry[name] = NoiseType(name, function, **flags)


def _to_8_bit(unit: np.ndarray) -> np.ndarray:
    """Clip to [0, 1] and cut to 8 bit, as published (0.999 becomes 254, not 255)."""
    return (np.clip(unit, 0.0, 1.0) * 255.0).astype(np.uint8)


def _unit(pixels: np.ndarray) -> np.ndarray:
    return pixels / 255.0


def _normalise(pixels: np.ndarray) -> np.ndarray:
    return (_unit(pixels) - IMAGENET_MEAN) / IMAGENET_STD


def _undo(normalised: np.ndarray) -> np.ndarray:
    return normalised * IMAGENET_STD + IMAGENET_MEAN


def diffusion_alpha_bar(step: int) -> float:
    """Share of the image's variance left after `step` (0..999) steps of forward diffusion.

    Sigmoid schedule of VCD (arXiv 2311.16922, `vcd_utils/vcd_add_noise.py`), taken over unchanged
    by the authors: beta from 1e-5 to 5e-3. ``x_t = sqrt(abar) x + sqrt(1 - abar) eps``.

    Raises:
        InvalidValueError: If `step` is not an integer in 0..999.
    """
    check("step", step, DiffusionStep)
    sigmoid = 1.0 / (1.0 + np.exp(-np.linspace(-6.0, 6.0, DIFFUSION_STEPS)))
    betas = sigmoid * (5e-3 - 1e-5) + 1e-5
    return float(np.prod(1.0 - betas[: step + 1]))


def _diffuse(normalised: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    left = diffusion_alpha_bar(DIFFUSION_STEPS - 1)
    return math.sqrt(left) * normalised + math.sqrt(1.0 - left) * rng.standard_normal(
        normalised.shape
    )


def _shoot(unit: np.ndarray, rng: np.random.Generator, severity: int) -> np.ndarray:
    photons = SHOT_PHOTONS[severity - 1]
    return rng.poisson(unit * photons) / photons


def _salt_and_pepper(values: np.ndarray, rng: np.random.Generator, severity: int) -> np.ndarray:
    # Each channel value on its own, salt and pepper equally likely, as in skimage's `random_noise`.
    hit = rng.random(values.shape) <= IMPULSE_AMOUNT[severity - 1]
    salt = rng.random(values.shape) <= 0.5
    return np.where(hit, np.where(salt, 1.0, 0.0), values)


def _speckle(values: np.ndarray, rng: np.random.Generator, severity: int) -> np.ndarray:
    return values + values * rng.normal(scale=SPECKLE_STD[severity - 1], size=values.shape)


NORMALISED_DRAWS: Mapping[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "imagenet+gaussian": lambda rng, shape: rng.standard_normal(shape),
    "imagenet+uniform": lambda rng, shape: rng.random(shape),
}
"""Types that are drawn in ImageNet-normalised space: the values before they become pixels."""

_add("black", lambda pixels, rng, severity: np.zeros_like(pixels), constant=True, published=True)
_add(
    "white", lambda pixels, rng, severity: np.full_like(pixels, 255), constant=True, published=True
)
_add("gray", lambda pixels, rng, severity: np.full_like(pixels, 127), constant=True, published=True)
_add(
    "random",
    lambda pixels, rng, severity: rng.integers(0, 256, pixels.shape, dtype=np.uint8),
    published=True,
)
_add(
    "gaussian",
    lambda pixels, rng, severity: _to_8_bit(rng.standard_normal(pixels.shape)),
    published=True,
)
_add("uniform", lambda pixels, rng, severity: _to_8_bit(rng.random(pixels.shape)), published=True)


def _normalised_noise(name: str) -> NoiseFunction:
    draw = NORMALISED_DRAWS[name]
    return lambda pixels, rng, severity: _to_8_bit(_undo(draw(rng, pixels.shape)))


for _name in NORMALISED_DRAWS:
    _add(_name, _normalised_noise(_name), published=True)

# Published without undoing the normalisation.
_add(
    "imagenet+diffusion",
    lambda pixels, rng, severity: _to_8_bit(_diffuse(_normalise(pixels), rng)),
    content_dependent=True,
    published=True,
)
_add(
    "shot",
    lambda pixels, rng, severity: _to_8_bit(
        _shoot(np.clip(_normalise(pixels), 0.0, 1.0), rng, severity)
    ),
    content_dependent=True,
    published=True,
    uses_severity=True,
)
_add(
    "impulse",
    lambda pixels, rng, severity: _to_8_bit(_salt_and_pepper(_normalise(pixels), rng, severity)),
    content_dependent=True,
    published=True,
    uses_severity=True,
)
_add(
    "speckle",
    lambda pixels, rng, severity: _to_8_bit(_speckle(_normalise(pixels), rng, severity)),
    content_dependent=True,
    published=True,
    uses_severity=True,
)

# Corrected. Poisson counts need values in [0, 1], and ImageNet-C defines the last three on pixels:
# they leave the normalisation out instead of undoing it.
_add(
    "imagenet+diffusion-corrected",
    lambda pixels, rng, severity: _to_8_bit(_undo(_diffuse(_normalise(pixels), rng))),
    content_dependent=True,
)
_add(
    "shot-corrected",
    lambda pixels, rng, severity: _to_8_bit(_shoot(_unit(pixels), rng, severity)),
    content_dependent=True,
    uses_severity=True,
)
_add(
    "impulse-corrected",
    lambda pixels, rng, severity: _to_8_bit(_salt_and_pepper(_unit(pixels), rng, severity)),
    content_dependent=True,
    uses_severity=True,
)
_add(
    "speckle-corrected",
    lambda pixels, rng, severity: _to_8_bit(_speckle(_unit(pixels), rng, severity)),
    content_dependent=True,
    uses_severity=True,
)


def _check_name(name: object) -> str:
    if not isinstance(name, str) or name not in NOISE_TYPES:
        raise UnknownNameError("noise type", name, NOISE_TYPES)
    return name


@dataclass(frozen=True)
class NoiseConfig:
    """Which noise the branches see; the defaults are the published ones, apart from the seed.

    Attributes:
        name: Key of `NOISE_TYPES`.
        scale: Share of the noise in the images a branch must not see: 1 hides them fully, 0 leaves
            them clean. The reference always sees pure noise.
        severity: Strength 1..5 of shot, impulse and speckle; no effect on the other types.
        seed: First part of every key, see `noise_generator`. The authors' runs used 42.
        drawn_at: ``model``, the size at which the model sees the image, or ``image``, its own size
            before the processor resizes it (published).

    Raises:
        UnknownNameError: If there is no noise type `name`.
        InvalidValueError: If another field is out of range or has the wrong type.
    """

    name: str = "imagenet+uniform"
    scale: Share = 1.0
    severity: Severity = 3
    seed: Natural = 0
    drawn_at: Literal["model", "image"] = "model"

    def __post_init__(self) -> None:
        _check_name(self.name)
        check_fields(self)


def noise_generator(
    seed: int, sample_id: str | int, image_index: int, branch: int | None, view: int = 0
) -> np.random.Generator:
    """Generator for one noise image, keyed by what the image is for and never by call order.

    Args:
        seed: Of the run.
        sample_id: Identifies the sample; 7 and "7" are the same sample.
        image_index: Position of the replaced image in the prompt, from 0.
        branch: Row that will see the noise, or None when all branches share it.
        view: Which of the views of the image, where the model cuts it into several (tiles).
    """
    row = None if branch is None else int(branch)
    further = (view,) if view else ()
    return generator(int(seed), str(sample_id), int(image_index), row, "noise", *further)


def _check_image(image: Image.Image, role: str) -> None:
    if image.mode != "RGB" or 0 in image.size:
        raise ImageError(
            f"the {role} has mode {image.mode} and size {image.size}; accepted is a non-empty RGB "
            "image, which focus.images.load_image makes of any other"
        )


def _pixels(image: Image.Image, role: str) -> np.ndarray:
    _check_image(image, role)
    return np.asarray(image)


def noise_image(
    name: str, image: Image.Image, rng: np.random.Generator, *, severity: int = 3
) -> Image.Image:
    """Noise of the size of `image` (8-bit RGB).

    Args:
        name: Key of `NOISE_TYPES`.
        image: RGB image; only its size counts unless the type is content dependent.
        rng: Source of all randomness, usually from `noise_generator`.
        severity: 1..5; used by shot, impulse and speckle only.

    Raises:
        UnknownNameError: If there is no noise type `name`.
        InvalidValueError: If `severity` is not an integer in 1..5.
        ImageError: If `image` is not RGB or has no pixels.
    """
    function = NOISE_TYPES[_check_name(name)].function
    check("severity", severity, Severity)
    return Image.fromarray(function(_pixels(image, "image"), rng, severity))


def blend(image: Image.Image, noise: Image.Image, *, scale: float) -> Image.Image:
    """``(1 - scale) * image + scale * noise``, rounded to 8 bit.

    The mixture is published in ImageNet-normalised space. Normalising is affine and the two
    weights sum to one, so mixing commutes with it and pixels may be mixed directly.

    Args:
        image: Clean RGB image.
        noise: RGB noise image of the same size.
        scale: Noise scale in [0, 1]; 0 returns the image exactly, 1 the noise exactly.

    Raises:
        InvalidValueError: If `scale` is not a number in [0, 1].
        ImageError: If an image is not RGB, or the sizes differ.

    >>> grey = Image.new("RGB", (1, 1), (100, 100, 100))
    >>> blend(grey, Image.new("RGB", (1, 1), (200, 0, 100)), scale=0.25).getpixel((0, 0))
    (125, 75, 100)
    """
    check("scale", scale, Share)
    _check_image(image, "image")
    _check_image(noise, "noise image")
    if image.size != noise.size:
        raise ImageError(
            f"the noise image has size {noise.size}, but the image it replaces has {image.size}"
        )
    if scale == 1.0:
        return noise
    mixed = (1.0 - scale) * np.asarray(image) + scale * np.asarray(noise)
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def published_blend(
    name: str, image: Image.Image, rng: np.random.Generator, *, scale: float, severity: int = 3
) -> Image.Image:
    """Image and noise mixed as published: before clipping, where the noise is drawn normalised.

    ``clip(((1 - scale) x + scale n) std + mean)`` with x the normalised image and n the raw draw;
    `blend` clips the noise first, which is up to 47 levels apart for `imagenet+gaussian` at scale
    0.5. Other types are mixed by `blend`.

    Args:
        name: Key of `NOISE_TYPES`.
        image: Clean RGB image.
        rng: Source of all randomness.
        scale: Noise scale in [0, 1].
        severity: See `noise_image`.
    """
    check("scale", scale, Share)
    pixels = _pixels(image, "image")
    if _check_name(name) not in NORMALISED_DRAWS:
        return blend(image, noise_image(name, image, rng, severity=severity), scale=scale)
    drawn = NORMALISED_DRAWS[name](rng, pixels.shape)
    return Image.fromarray(_to_8_bit(_undo((1.0 - scale) * _normalise(pixels) + scale * drawn)))
