"""Encoded images, kept while there is room for them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

import torch
from cachetools import LRUCache

from focus.errors import InvalidValueError
from focus.models.base import ImageFeatures, ImageInputs, encode_in_calls
from focus.models.loading import VisionLanguageModel

#: Tokens of an image for whose size a number of images per call is meant.
USUAL_TOKENS = 256


@final
class FeatureStore:
    """Features of images by what the vision tower sees: an image is encoded once, whoever asks.

    Args:
        vlm: encodes them.
        num_bytes: of the features that are kept beyond one call; those used longest ago go first.
    """

    def __init__(self, vlm: VisionLanguageModel, *, num_bytes: int) -> None:
        if isinstance(num_bytes, bool) or not isinstance(num_bytes, int) or num_bytes < 0:
            raise InvalidValueError("num_bytes", num_bytes, "a number of bytes of at least 0")
        self._vlm = vlm
        self._kept: LRUCache = LRUCache(maxsize=num_bytes, getsizeof=feature_bytes)
        #: Images that went through the vision tower so far.
        self.num_encoded = 0

    def features(
        self, images: Iterable[ImageInputs], *, encode_batch: int
    ) -> dict[str, ImageFeatures]:
        """Features by `ImageInputs.key`, at most `encode_batch` images per call of the tower, or as
        many smaller ones as fill that many times `USUAL_TOKENS`."""
        wanted = {image.key: image for image in images}
        found = {key: self._kept[key] for key in wanted if key in self._kept}
        missing = [image for key, image in wanted.items() if key not in found]
        largest = max((image.num_tokens for image in missing), default=1)
        number = max(encode_batch, encode_batch * USUAL_TOKENS // largest)
        encoded = encode_in_calls(self._vlm.family, self._vlm.model, missing, at_once=number)
        for image, features in zip(missing, encoded, strict=True):
            self.num_encoded += 1
            # A view of all that were encoded together would keep all of them alive.
            own = ImageFeatures(
                features.embeddings.clone(), tuple(each.clone() for each in features.deepstack)
            )
            found[image.key] = own
            if feature_bytes(own) <= self._kept.maxsize:
                self._kept[image.key] = own
        return found

    def clear(self) -> None:
        """Forgets everything, to make room."""
        self._kept.clear()


def feature_bytes(features: ImageFeatures) -> int:
    """Bytes of one image's features."""
    return sum(each.nbytes for each in (features.embeddings, *features.deepstack))


def free_bytes(device: torch.device) -> int | None:
    """Free memory of a device; None where it cannot be known (a CPU shares its own)."""
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    # What PyTorch holds in reserve and does not use can be used as well.
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
