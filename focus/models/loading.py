"""A model with its processor and family, loaded from the hub, a folder or this package."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from cachetools import LRUCache
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel, ProcessorMixin

from focus.errors import CheckpointUnavailableError, InvalidValueError, UnknownNameError
from focus.models.base import BUDGETS, AbstractFamily, ImageBudget
from focus.models.internvl import InternVL
from focus.models.llava_onevision import LlavaOnevision
from focus.models.qwen2_5_vl import Qwen2_5_VL
from focus.models.qwen3_vl import Qwen3VL

FAMILIES: dict[str, AbstractFamily] = {
    family.name: family for family in (InternVL(), LlavaOnevision(), Qwen2_5_VL(), Qwen3VL())
}
EMBEDDED_PREFIX = "embedded:"
DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class VisionLanguageModel:
    """What every strategy takes: weights, processor and the family that knows both.

    Args:
        model: a `transformers` image-text-to-text model in evaluation mode; never modified.
        processor: its processor, without the video half.
        family: see `focus.models.base`.
        name: how records and tables call it.
        budget: of its images, by name or in numbers.
        noise_cache: encoded noise that a whole run shares, most recently used first to stay.
    """

    model: PreTrainedModel
    processor: ProcessorMixin
    family: AbstractFamily
    name: str
    budget: str = "checkpoint"
    noise_cache: LRUCache = field(
        default_factory=lambda: LRUCache(maxsize=64), repr=False, compare=False
    )


@dataclass(frozen=True)
class Checkpoint:
    """Where a model comes from and how it is loaded.

    Args:
        name: how records and tables call it.
        source: ``embedded:<name>`` (ships with this package), a folder, or a hub id.
        revision: commit of the hub repository; a branch name would not be reproducible.
        dtype: float32, bfloat16 or float16.
        attention: attention implementation of `transformers` (``sdpa``, ``eager``, ...).
        device: ``auto`` takes CUDA where there is one.
        budget: how much of the context one image may take: one of `BUDGETS`, or in numbers.
    """

    name: str
    source: str
    revision: str | None = None
    dtype: str = "float32"
    attention: str = "sdpa"
    device: str = "auto"
    budget: str | ImageBudget = "checkpoint"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise InvalidValueError("dtype", self.dtype, f"one of {', '.join(DTYPES)}")
        if not isinstance(self.budget, ImageBudget) and self.budget not in BUDGETS:
            accepted = f"one of {', '.join(BUDGETS)}, or an ImageBudget"
            raise InvalidValueError("budget", self.budget, accepted)
        if not self.source:
            raise InvalidValueError("source", self.source, "embedded:<name>, a folder or a hub id")

    def load(self) -> VisionLanguageModel:
        """Loads weights and processor.

        Raises:
            CheckpointUnavailableError: it cannot be had: offline, gated, no such repository, or
                files that are damaged or missing.
            UnknownNameError: no embedded model of that name, or an unsupported architecture.
            InvalidValueError: a budget that the family does not have, or no such device here.
        """
        location, revision = self.source, self.revision
        if location.startswith(EMBEDDED_PREFIX):
            location, revision = str(embedded_path(location.removeprefix(EMBEDDED_PREFIX))), None
        device = usable_device(self.device)
        try:
            config = AutoConfig.from_pretrained(location, revision=revision)
        except (OSError, ValueError) as error:  # ValueError: not a repository id, no model type
            raise CheckpointUnavailableError(self._unavailable(error)) from error
        family = family_of(config.model_type)
        try:
            processor = family.processor_class.from_pretrained(location, revision=revision)
        except (OSError, ValueError, LookupError) as error:
            raise CheckpointUnavailableError(self._unavailable(error)) from error
        family.set_budget(processor, self._budget(family))
        try:
            model, report = AutoModelForImageTextToText.from_pretrained(
                location,
                revision=revision,
                dtype=getattr(torch, self.dtype),
                attn_implementation=self.attention,
                output_loading_info=True,
            )
        except (OSError, SafetensorError, RuntimeError) as error:
            raise CheckpointUnavailableError(self._unavailable(error)) from error
        if report["missing_keys"]:  # `transformers` fills them with random numbers
            gap = ValueError(f"no weights for {', '.join(sorted(report['missing_keys']))}")
            raise CheckpointUnavailableError(self._unavailable(gap))
        budget = self.budget if isinstance(self.budget, str) else str(self.budget)
        return VisionLanguageModel(model.to(device).eval(), processor, family, self.name, budget)

    def _budget(self, family: AbstractFamily) -> ImageBudget:
        if isinstance(self.budget, ImageBudget):
            return self.budget
        return family.compact if self.budget == "compact" else ImageBudget()

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
