"""A model with its processor and family, loaded from the hub, a folder or this package."""

from __future__ import annotations

import sys
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from cachetools import LRUCache
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.utils import is_torchvision_available

from focus.errors import (
    AssumptionWarning,
    CheckpointUnavailableError,
    InvalidValueError,
    MissingExtraError,
    UnknownNameError,
)
from focus.hub import hub_answers
from focus.models.base import BUDGETS, AbstractFamily, ImageBudget
from focus.models.internvl import InternVL
from focus.models.known import KNOWN
from focus.models.llava_onevision import LlavaOnevision
from focus.models.qwen2_5_vl import Qwen2_5_VL
from focus.models.qwen3_vl import Qwen3VL

FAMILIES: dict[str, AbstractFamily] = {
    family.name: family for family in (InternVL(), LlavaOnevision(), Qwen2_5_VL(), Qwen3VL())
}
EMBEDDED_PREFIX = "embedded:"
DTYPES = ("float32", "bfloat16", "float16")
BACKENDS = ("pil", "torchvision")


@dataclass(frozen=True)
class VisionLanguageModel:
    """What every strategy takes: weights, processor and the family that knows both.

    Args:
        model: a `transformers` image-text-to-text model in evaluation mode; never modified.
        processor: its processor, without the video half.
        family: see `focus.models.base`.
        name: how records and tables call it.
        budget: of its images, by name or in numbers.
        seen: images and prompts that were processed before, up to some bytes; the strategies that
            are compared on a question process it once.
        noise_cache: encoded noise that a whole run shares, most recently used first to stay.
        known_states: keys and values of images that were run before, up to some bytes, see
            `focus.composed`; of strategies that share them between rows.
        has_weights: whether the model can compute; on the meta device it only says what it is, so
            that prompts can be made for an engine elsewhere.
    """

    model: PreTrainedModel
    processor: ProcessorMixin
    family: AbstractFamily
    name: str
    budget: str = "checkpoint"
    seen: LRUCache = field(
        default_factory=lambda: LRUCache(maxsize=2**28, getsizeof=lambda entry: entry.nbytes),
        repr=False,
        compare=False,
    )
    noise_cache: LRUCache = field(
        default_factory=lambda: LRUCache(maxsize=64), repr=False, compare=False
    )
    known_states: LRUCache = field(
        default_factory=lambda: LRUCache(maxsize=2**29, getsizeof=lambda entry: entry.nbytes),
        repr=False,
        compare=False,
    )
    has_weights: bool = True

    @property
    def backend(self) -> str:
        """What scales the images, which changes pixels: ``pil``, ``torchvision``, or unknown."""
        return str(getattr(self.processor.image_processor, "backend", "unknown"))


@dataclass(frozen=True)
class Checkpoint:
    """Where a model comes from and how it is loaded.

    Args:
        name: how records and tables call it.
        source: ``embedded:<name>`` (ships with this package), a folder, or a hub id.
        revision: commit of the hub repository; a branch name would not be reproducible. None is
            the pinned one of a known checkpoint (`focus.models.known`), else the newest.
        dtype: float32, bfloat16 or float16. None is that of a known checkpoint, float32 for the
            embedded models, else what the checkpoint's own configuration names.
        attention: attention implementation of `transformers` (``sdpa``, ``eager``, ...).
        device: ``auto`` takes CUDA where there is one.
        budget: how much of the context one image may take: one of `BUDGETS`, or in numbers.
        backend: what scales the images; ``torchvision`` gives slightly other pixels than ``pil``.
        device_map: spreads the model over devices: ``auto``, or parts of the model and their
            devices (``accelerate``); instead of `device`.
        offload_folder: where parts that a device map puts on ``disk`` are kept.
    """

    name: str
    source: str
    revision: str | None = None
    dtype: str | None = None
    attention: str = "sdpa"
    device: str = "auto"
    budget: str | ImageBudget = "checkpoint"
    backend: str = "pil"
    device_map: str | dict[str, Any] | None = None
    offload_folder: str | None = None

    def __post_init__(self) -> None:
        known = KNOWN.get(self.source)
        if known is not None:
            object.__setattr__(self, "revision", self.revision or known.revision)
            object.__setattr__(self, "dtype", self.dtype or known.dtype)
        if self.source.startswith(EMBEDDED_PREFIX):
            object.__setattr__(self, "dtype", self.dtype or "float32")
        if self.backend not in BACKENDS:
            raise InvalidValueError("backend", self.backend, f"one of {', '.join(BACKENDS)}")
        if self.device_map is not None and self.device != "auto":
            accepted = "left at auto beside device_map, which says where every part goes"
            raise InvalidValueError("device", self.device, accepted)
        if self.dtype is not None and self.dtype not in DTYPES:
            raise InvalidValueError("dtype", self.dtype, f"one of {', '.join(DTYPES)}")
        if not isinstance(self.budget, ImageBudget) and self.budget not in BUDGETS:
            accepted = f"one of {', '.join(BUDGETS)}, or an ImageBudget"
            raise InvalidValueError("budget", self.budget, accepted)
        if not self.source:
            raise InvalidValueError("source", self.source, "embedded:<name>, a folder or a hub id")

    def load(self, *, weights: bool = True) -> VisionLanguageModel:
        """Loads weights and processor.

        Args:
            weights: whether the model is to compute here, see `VisionLanguageModel.has_weights`.

        Raises:
            CheckpointUnavailableError: it cannot be had: offline, gated, no such repository, or
                files that are damaged or missing.
            UnknownNameError: no embedded model of that name, or an unsupported architecture.
            InvalidValueError: a budget that the family does not have, or no such device here.
            MissingExtraError: the back end is torchvision, which is not installed.

        Warns:
            AssumptionWarning: not a known checkpoint, and its dtype or revision was not named.
        """
        if self.backend == "torchvision" and not is_torchvision_available():
            raise MissingExtraError(
                "backend='torchvision' needs torchvision, which is not installed (pip install "
                "torchvision); backend='pil' works everywhere"
            )
        location, revision = self.source, self.revision
        if location.startswith(EMBEDDED_PREFIX):
            location, revision = str(embedded_path(location.removeprefix(EMBEDDED_PREFIX))), None
        device = usable_device(self.device)
        where = {
            "revision": revision,
            "local_files_only": not Path(location).is_dir() and not hub_answers(),
        }
        try:
            config = AutoConfig.from_pretrained(location, **where)
        except (OSError, ValueError) as error:  # ValueError: not a repository id, no model type
            raise CheckpointUnavailableError(self._unavailable(error)) from error
        family = family_of(config.model_type)
        dtype = self._dtype(config)
        placed: dict[str, Any] = {}
        if self.device_map is not None:
            placed = {"device_map": self.device_map, "offload_folder": self.offload_folder}
        try:
            processor = family.processor_class.from_pretrained(location, **where)
        except (OSError, ValueError, LookupError) as error:
            raise CheckpointUnavailableError(self._unavailable(error)) from error
        if getattr(processor.image_processor, "backend", None) != self.backend:
            processor.image_processor = AutoImageProcessor.from_pretrained(
                location, backend=self.backend, **where
            )
        budget = self.budget
        if isinstance(budget, str):
            budget = family.named_budget(processor, budget)
        family.set_budget(processor, budget)
        said = str(self.budget)
        if not weights:
            model = _without_weights(config, dtype, location, where)
            return VisionLanguageModel(
                model.eval(), processor, family, self.name, said, has_weights=False
            )
        try:
            model, report = AutoModelForImageTextToText.from_pretrained(
                location,
                **where,
                dtype=dtype,
                **placed,
                attn_implementation=self.attention,
                output_loading_info=True,
            )
        except (OSError, SafetensorError, RuntimeError) as error:
            raise CheckpointUnavailableError(self._unavailable(error)) from error
        if report["missing_keys"]:  # `transformers` fills them with random numbers
            gap = ValueError(f"no weights for {', '.join(sorted(report['missing_keys']))}")
            raise CheckpointUnavailableError(self._unavailable(gap))
        if self.device_map is None:
            model = model.to(device)
        return VisionLanguageModel(model.eval(), processor, family, self.name, said)

    def _dtype(self, config: PreTrainedConfig) -> torch.dtype:
        """The dtype asked for, or that of the checkpoint; says what was assumed."""
        named = getattr(config, "dtype", None) or getattr(config.get_text_config(), "dtype", None)
        dtype = self.dtype or str(named or "float32").removeprefix("torch.")
        hub = not (self.source.startswith(EMBEDDED_PREFIX) or Path(self.source).is_dir())
        assumed = []
        if self.dtype is None:
            assumed.append(f"dtype={dtype} ({'as its configuration says' if named else 'default'})")
        if hub and self.revision is None:
            assumed.append("revision=main (the newest, which may change)")
        if assumed:
            message = (
                f"{self.source!r} is no known checkpoint; assumed: {', '.join(assumed)}; image "
                f"budget: {self.budget}. Pass dtype=, revision= and budget= to choose"
            )
            warnings.warn(message, AssumptionWarning, stacklevel=_outside())
        return getattr(torch, dtype)

    def _unavailable(self, error: Exception) -> str:
        where = f"{self.source!r}" + (f" at revision {self.revision}" if self.revision else "")
        embedded = ", ".join(embedded_names())
        return f"model {self.name!r} ({where}) cannot be loaded: {self._reason(error)}" + (
            f". These models need no download: {embedded}" if embedded else ""
        )

    def _reason(self, error: Exception) -> str:
        causes: list[BaseException] = [error]
        while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
            causes.append(cause)
        reason = (str(error).splitlines() or [""])[0].rstrip(".") or type(error).__name__
        if any(isinstance(cause, GatedRepoError) for cause in causes):
            return "it is gated: accept its licence on the hub, then run `hf auth login`"
        if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
            return "the hub has no such repository: check the spelling, or log in if it is private"
        here = self.source.startswith(EMBEDDED_PREFIX) or Path(self.source).is_dir()
        if not here and any(isinstance(cause, HFValidationError) for cause in causes):
            return "there is no such folder, and a hub id looks like owner/name"
        if here or not isinstance(error, OSError):
            return f"its files are incomplete, damaged or of an unsupported kind ({reason})"
        pin = f" --revision {self.revision}" if self.revision else ""
        return (
            f"it is neither a folder nor in the local cache, and the hub did not deliver it "
            f"({reason}); connect to the network once, or download it elsewhere with "
            f"`hf download {self.source}{pin}` and pass the folder as model.source=/path/to/it"
        )


def _without_weights(
    config: PreTrainedConfig, dtype: torch.dtype, location: str, where: dict[str, Any]
) -> PreTrainedModel:
    """The model of a configuration on the meta device, with its generation settings."""
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    with suppress(OSError):  # as with weights: else what the model's own configuration gives
        model.generation_config = GenerationConfig.from_pretrained(location, **where)
    return model


def _outside() -> int:
    """Stack level, for the function that calls this, of the first caller outside the package."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back and str(frame.f_globals.get("__name__")).partition(".")[0] == "focus":
        level, frame = level + 1, frame.f_back
    return level


def usable_device(name: str) -> torch.device:
    """Device of that name; ``auto`` is CUDA where there is one, else the CPU.

    Raises:
        InvalidValueError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InvalidValueError("device", name, "auto, cpu, cuda or cuda:<index>") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        accepted = f"auto or cpu: {torch.cuda.device_count()} CUDA devices are visible"
        raise InvalidValueError("device", name, accepted)
    return device


def family_of(model_type: str) -> AbstractFamily:
    """Family that serves checkpoints of `config.model_type`.

    Raises:
        UnknownNameError: no family here serves that architecture.
    """
    by_type = {kind: family for family in FAMILIES.values() for kind in family.model_types}
    if model_type not in by_type:
        raise UnknownNameError("model type", model_type, by_type)
    return by_type[model_type]


def wrap(model: PreTrainedModel, processor: Any, name: str = "model") -> VisionLanguageModel:
    """Bundles a model and a processor that you have already loaded.

    A processor with a video half works as well; only its images are used. LLaVA-OneVision needs
    the processor class of its family here, which keeps the token budget per image constant.

    Raises:
        UnknownNameError: no family here serves that architecture.
        InvalidValueError: LLaVA-OneVision with the upstream processor.
    """
    family = family_of(model.config.model_type)
    if family.name == LlavaOnevision.name and not isinstance(processor, family.processor_class):
        accepted = f"a {family.processor_class.__name__} (see focus.models.llava_onevision)"
        raise InvalidValueError("processor", type(processor).__name__, accepted)
    return VisionLanguageModel(model.eval(), processor, family, name)


def embedded_names() -> tuple[str, ...]:
    """Names of the models that ship with this package."""
    weights = Path(str(resources.files("focus.zoo"))) / "weights"
    return tuple(sorted(path.parent.name for path in weights.glob("*/config.json")))


def embedded_path(name: str) -> Path:
    """Folder of an embedded model.

    Raises:
        UnknownNameError: there is no embedded model of that name.
    """
    if name not in embedded_names():
        raise UnknownNameError("embedded model", name, embedded_names())
    return Path(str(resources.files("focus.zoo"))) / "weights" / name
