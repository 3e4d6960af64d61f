"""Images: reading, exact reduction, degradation, training crops and benchmark sets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ucip_adapt.data.benchmarks import (
    BENCHMARKS,
    EMBEDDED,
    EvalImage,
    EvalSet,
    data_root,
    load_eval_set,
)
from ucip_adapt.data.bicubic import bicubic_down4, bicubic_up4, modcrop
from ucip_adapt.data.cache import ArrayCache, CachedArray, default_cache_dir
from ucip_adapt.data.degrade import DegradedImage, Setting, degrade_images, parse_settings
from ucip_adapt.data.images import list_images, read_rgb

if TYPE_CHECKING:
    from ucip_adapt.data.paired import PairedCrops as PairedCrops

__all__ = [
    "BENCHMARKS",
    "EMBEDDED",
    "ArrayCache",
    "CachedArray",
    "DegradedImage",
    "EvalImage",
    "EvalSet",
    "PairedCrops",
    "Setting",
    "bicubic_down4",
    "bicubic_up4",
    "data_root",
    "default_cache_dir",
    "degrade_images",
    "list_images",
    "load_eval_set",
    "modcrop",
    "parse_settings",
    "read_rgb",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the module holds
    """Load the training crops, and torch with them, only where they are asked for."""
    if name == "PairedCrops":
        from ucip_adapt.data.paired import PairedCrops

        return PairedCrops
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
