"""From whatever a user has to 8-bit RGB images, or an error that says what is wrong with which one.

Conversions, where the meaning is clear:

* Transparency (RGBA, LA, palette with transparency) is composited on white.
* Palette, greyscale, CMYK, YCbCr and black-and-white become RGB; colour profiles are not applied.
* 16-bit greyscale is divided by 257, so that 65535 becomes 255 (Pillow alone would clip at 255).
* Floats in [0, 1] are multiplied by 255 and rounded.
* EXIF orientation is applied: the picture stands as a viewer shows it.

Several frames or pages have no single meaning and are refused; a still photo of a phone (MPO,
whose further frames are depth maps or previews) is its first frame.

Pillow's global settings are neither changed nor relied upon, except for one: where another library
has set ``ImageFile.LOAD_TRUNCATED_IMAGES``, Pillow fills missing parts with grey without telling
anyone, so a warning says that truncated files cannot be noticed.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile, ImageOps

from focus.checks import Positive, check
from focus.errors import FocusError, ImageError, PromptError

IMAGE_PLACEHOLDER = "<image>"
"""Marks in a question where an image stands, whatever token the model's family has for it."""

ImageSource = str | os.PathLike[str] | bytes | Image.Image | np.ndarray
"""What `load_image` accepts."""

MAX_PIXELS = 2**26
"""Default limit, 8192 x 8192 pixels; below the size at which Pillow warns of a bomb."""

ACCEPTED = (
    "accepted are the path or the bytes of a still image (PNG, JPEG, WebP, ...), a PIL image, or "
    "an array [height, width] or [height, width, channels] with 1 to 4 channels, of uint8, uint16, "
    "bool, or floats in [0, 1]"
)
_GREY_16_BIT = ("I;16", "I;16L", "I;16B", "I;16N")


def load_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """RGB image of `source`, fully read and independent of it.

    Args:
        source: Path, bytes of an image file, PIL image or array; see the module's docstring for
            what happens to other modes and depths. Arrays with 2 or 4 channels end with alpha.
        max_pixels: Limit on width x height, checked on the header before anything is decoded.
            Pillow's own limit holds as well.

    Raises:
        ImageError: If the image is missing, a folder, unreadable, truncated, empty, animated, too
            large, or of values without a clear meaning. The message names the source.
        InvalidValueError: If `max_pixels` is not a positive integer.

    >>> load_image(np.full((2, 3), 65535, dtype=np.uint16)).getpixel((0, 0))
    (255, 255, 255)
    """
    check("max_pixels", max_pixels, Positive)
    if isinstance(source, np.ndarray):
        label = f"array of shape {source.shape} and type {source.dtype}"
        return _from_array(source, label, max_pixels)
    if isinstance(source, Image.Image):
        return _decode(source, f"PIL image of mode {source.mode}", max_pixels)
    if isinstance(source, bytes):
        label = f"image given as {len(source)} bytes"
        return _open(io.BytesIO(source), len(source), label, max_pixels)
    if not isinstance(source, str | os.PathLike):
        raise ImageError(f"{type(source).__name__} is not an image; {ACCEPTED}")

    path = os.fspath(source)
    label = f"image {path!r}"
    if os.path.isdir(path):
        raise ImageError(f"{label} is a folder; name the files in it")
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            return _open(file, size, label, max_pixels)
    except FileNotFoundError:
        hint = "; download it first" if "://" in str(path) else ""
        raise ImageError(f"{label} does not exist{hint}; {ACCEPTED}") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        if isinstance(error, FocusError):
            raise
        raise ImageError(f"{label} cannot be read ({error}); {ACCEPTED}") from error


def load_images(
    sources: Iterable[ImageSource], *, max_pixels: int = MAX_PIXELS
) -> list[Image.Image]:
    """`load_image` for each of `sources`; errors say which, as in "image 2 of 3".

    Raises:
        PromptError: If there are no images, or `sources` is a single image and not a list.
        ImageError: If one of them cannot be used.
    """
    single = isinstance(sources, str | bytes | os.PathLike | Image.Image | np.ndarray)
    if single or not isinstance(sources, Iterable):
        raise PromptError(
            f"images must be a list, not {type(sources).__name__}; put a single image into one: "
            "[image]"
        )
    listed = list(sources)
    if not listed:
        raise PromptError(f"no images; at least one is needed; {ACCEPTED}")
    loaded = []
    for number, source in enumerate(listed, start=1):
        try:
            loaded.append(load_image(source, max_pixels=max_pixels))
        except ImageError as error:
            raise ImageError(f"image {number} of {len(listed)}: {error}") from error
    return loaded


def _open(file: BinaryIO, size: int, label: str, max_pixels: int) -> Image.Image:
    if size == 0:
        raise ImageError(f"{label} is empty (0 bytes); {ACCEPTED}")
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        warnings.warn(
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES is on, so truncated image files cannot be noticed",
            stacklevel=4,
        )
    try:
        with Image.open(file) as image:
            return _decode(image, label, max_pixels)
    except FocusError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{label} is too large: {error}") from error
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"{label} is not an image that Pillow can read; {ACCEPTED}") from error
    except MemoryError:
        raise
    except Exception as error:  # on damaged files Pillow's readers raise almost anything
        raise ImageError(f"{label} cannot be read ({error}); {ACCEPTED}") from error


def _decode(image: Image.Image, label: str, max_pixels: int) -> Image.Image:
    _check_size(image.size, label, max_pixels)
    try:
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        if frames > 1:
            raise ImageError(
                f"{label} has {frames} frames or pages, which is no single image; pass the frames "
                "you want, such as [frame.copy() for frame in "
                "PIL.ImageSequence.Iterator(PIL.Image.open(path))]"
            )
        image.load()
    except FocusError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # as above
        raise ImageError(
            f"{label} is truncated or damaged, its pixels cannot be read ({error}); {ACCEPTED}"
        ) from error
    return _to_rgb(_upright(image), label, max_pixels)


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data beside good pixels: the picture as it is stored
        return image.copy()


def _to_rgb(image: Image.Image, label: str, max_pixels: int) -> Image.Image:
    if image.mode in _GREY_16_BIT or image.mode == "F":
        return _from_array(np.asarray(image), label, max_pixels)
    if image.mode == "I":
        raise ImageError(
            f"{label} has 32-bit integer pixels (mode I), whose range is not known; convert them "
            "to 8 or 16 bit first"
        )
    if image.has_transparency_data:
        return _on_white(image.convert("RGBA"))
    rgb = image.convert("RGB")
    rgb.info = {}  # its profile and EXIF data described the image before the conversion
    return rgb


def _on_white(image: Image.Image) -> Image.Image:
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image).convert("RGB")


def _from_array(array: np.ndarray, label: str, max_pixels: int) -> Image.Image:
    channels = 1 if array.ndim == 2 else array.shape[-1] if array.ndim == 3 else 0
    if array.ndim == 3 and array.shape[0] in (1, 3) and not 1 <= channels <= 4:
        raise ImageError(f"{label} has its channels first; use array.transpose(1, 2, 0)")
    if array.ndim == 4:
        raise ImageError(f"{label} holds several images; pass list(array)")
    if not 1 <= channels <= 4:
        raise ImageError(f"{label} is not an image; {ACCEPTED}")
    height, width = array.shape[:2]
    _check_size((width, height), label, max_pixels)

    eight_bit = _array_to_8_bit(array, label).reshape(height, width, channels)
    if channels == 1:
        return Image.fromarray(eight_bit.repeat(3, axis=2))
    if channels == 2:
        eight_bit = eight_bit[:, :, [0, 0, 0, 1]]
    image = Image.fromarray(np.ascontiguousarray(eight_bit))
    return image if channels == 3 else _on_white(image)


def _array_to_8_bit(array: np.ndarray, label: str) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:  # of either byte order
        return np.rint(array / 257.0).astype(np.uint8)
    if array.dtype.kind == "f":
        # Written so that NaN fails the comparison.
        if not (array.min() >= 0.0 and array.max() <= 1.0):
            raise ImageError(
                f"{label} has floats from {array.min():g} to {array.max():g}, but only [0, 1] is "
                "accepted; divide 8-bit values by 255 and undo any normalisation"
            )
        return np.rint(array.astype(np.float64) * 255.0).astype(np.uint8)
    raise ImageError(f"{label} has pixels of an unclear range; {ACCEPTED}")


def _check_size(size: tuple[int, int], label: str, max_pixels: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"{label} has no pixels (width {width}, height {height}); {ACCEPTED}")
    if width * height > max_pixels:
        raise ImageError(
            f"{label} has {width} x {height} pixels, more than max_pixels={max_pixels}; "
            "make it smaller or raise max_pixels"
        )
