"""Images: reading, exact reduction, degradation, training crops and benchmark sets."""

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
from ucip_adapt.data.paired import PairedCrops

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
