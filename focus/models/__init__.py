"""Model families: one file each, and the loading of checkpoints."""

from focus.models.base import BUDGETS, AbstractFamily, ImageBudget, ImageFeatures, ImageInputs
from focus.models.loading import (
    FAMILIES,
    Checkpoint,
    VisionLanguageModel,
    embedded_names,
    family_of,
    wrap,
)

__all__ = [
    "BUDGETS",
    "FAMILIES",
    "AbstractFamily",
    "Checkpoint",
    "ImageBudget",
    "ImageFeatures",
    "ImageInputs",
    "VisionLanguageModel",
    "embedded_names",
    "family_of",
    "wrap",
]
