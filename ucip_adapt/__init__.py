"""Adapt a compressed-image super-resolution network to a new codec with a small prompt adapter.

The public names are loaded on first use, so that ``import ucip_adapt`` stays cheap: it imports
neither torch nor peft nor evaluate.

>>> import ucip_adapt
>>> ucip_adapt.__version__
'0.1.0'
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ucip_adapt.tuning.register import register_when_peft_is_imported

if TYPE_CHECKING:
    from ucip_adapt.codecs import Availability as Availability
    from ucip_adapt.codecs import CodecSpec as CodecSpec
    from ucip_adapt.codecs import Degraded as Degraded
    from ucip_adapt.codecs import get_codec as get_codec
    from ucip_adapt.codecs import list_codecs as list_codecs
    from ucip_adapt.codecs import register_codec as register_codec
    from ucip_adapt.data import ArrayCache as ArrayCache
    from ucip_adapt.data import PairedCrops as PairedCrops
    from ucip_adapt.data import Setting as Setting
    from ucip_adapt.data import bicubic_down4 as bicubic_down4
    from ucip_adapt.data import bicubic_up4 as bicubic_up4
    from ucip_adapt.data import degrade_images as degrade_images
    from ucip_adapt.data import list_images as list_images
    from ucip_adapt.data import load_eval_set as load_eval_set
    from ucip_adapt.data import parse_settings as parse_settings
    from ucip_adapt.errors import UcipError as UcipError
    from ucip_adapt.evaluation import evaluate_sets as evaluate_sets
    from ucip_adapt.evaluation import network_upscaler as network_upscaler
    from ucip_adapt.evaluation import summarise as summarise
    from ucip_adapt.metrics import get_protocol as get_protocol
    from ucip_adapt.metrics import psnr as psnr
    from ucip_adapt.metrics import score as score
    from ucip_adapt.metrics import ssim as ssim
    from ucip_adapt.models import UCIP as UCIP
    from ucip_adapt.models import UCIPConfig as UCIPConfig
    from ucip_adapt.models import load_authors_checkpoint as load_authors_checkpoint
    from ucip_adapt.tuning import PROTOCOLS as PROTOCOLS
    from ucip_adapt.tuning import DynamicPromptConfig as DynamicPromptConfig
    from ucip_adapt.tuning import DynamicPromptLayer as DynamicPromptLayer
    from ucip_adapt.tuning import DynamicPromptModel as DynamicPromptModel
    from ucip_adapt.tuning import add_prompt_adapter as add_prompt_adapter
    from ucip_adapt.tuning import count_parameters as count_parameters
    from ucip_adapt.tuning import full_tuning as full_tuning
    from ucip_adapt.tuning import load_prompt_adapter as load_prompt_adapter
    from ucip_adapt.tuning import lora_config as lora_config
    from ucip_adapt.tuning import protocol_for as protocol_for
    from ucip_adapt.tuning import save_prompt_adapter as save_prompt_adapter
    from ucip_adapt.tuning import trainable_parameters as trainable_parameters
    from ucip_adapt.upscaler import Upscaler as Upscaler
    from ucip_adapt.upscaler import interpolate as interpolate
    from ucip_adapt.upscaler import load as load

__version__ = "0.1.0"

# Public name -> module that offers it, in the order of docs/api.md. The imports above tell type
# checkers the same; a test compares the two.
_EXPORTS = {
    "load": "ucip_adapt.upscaler",
    "interpolate": "ucip_adapt.upscaler",
    "Upscaler": "ucip_adapt.upscaler",
    "UCIP": "ucip_adapt.models",
    "UCIPConfig": "ucip_adapt.models",
    "load_authors_checkpoint": "ucip_adapt.models",
    "PROTOCOLS": "ucip_adapt.tuning",
    "DynamicPromptConfig": "ucip_adapt.tuning",
    "DynamicPromptLayer": "ucip_adapt.tuning",
    "DynamicPromptModel": "ucip_adapt.tuning",
    "add_prompt_adapter": "ucip_adapt.tuning",
    "load_prompt_adapter": "ucip_adapt.tuning",
    "save_prompt_adapter": "ucip_adapt.tuning",
    "count_parameters": "ucip_adapt.tuning",
    "full_tuning": "ucip_adapt.tuning",
    "lora_config": "ucip_adapt.tuning",
    "protocol_for": "ucip_adapt.tuning",
    "trainable_parameters": "ucip_adapt.tuning",
    "get_codec": "ucip_adapt.codecs",
    "list_codecs": "ucip_adapt.codecs",
    "register_codec": "ucip_adapt.codecs",
    "CodecSpec": "ucip_adapt.codecs",
    "Availability": "ucip_adapt.codecs",
    "Degraded": "ucip_adapt.codecs",
    "ArrayCache": "ucip_adapt.data",
    "PairedCrops": "ucip_adapt.data",
    "Setting": "ucip_adapt.data",
    "bicubic_down4": "ucip_adapt.data",
    "bicubic_up4": "ucip_adapt.data",
    "degrade_images": "ucip_adapt.data",
    "list_images": "ucip_adapt.data",
    "load_eval_set": "ucip_adapt.data",
    "parse_settings": "ucip_adapt.data",
    "get_protocol": "ucip_adapt.metrics",
    "psnr": "ucip_adapt.metrics",
    "score": "ucip_adapt.metrics",
    "ssim": "ucip_adapt.metrics",
    "evaluate_sets": "ucip_adapt.evaluation",
    "network_upscaler": "ucip_adapt.evaluation",
    "summarise": "ucip_adapt.evaluation",
    "UcipError": "ucip_adapt.errors",
}

__all__ = [
    "PROTOCOLS",
    "UCIP",
    "ArrayCache",
    "Availability",
    "CodecSpec",
    "Degraded",
    "DynamicPromptConfig",
    "DynamicPromptLayer",
    "DynamicPromptModel",
    "PairedCrops",
    "Setting",
    "UCIPConfig",
    "UcipError",
    "Upscaler",
    "__version__",
    "add_prompt_adapter",
    "bicubic_down4",
    "bicubic_up4",
    "count_parameters",
    "degrade_images",
    "evaluate_sets",
    "full_tuning",
    "get_codec",
    "get_protocol",
    "interpolate",
    "list_codecs",
    "list_images",
    "load",
    "load_authors_checkpoint",
    "load_eval_set",
    "load_prompt_adapter",
    "lora_config",
    "network_upscaler",
    "parse_settings",
    "protocol_for",
    "psnr",
    "register_codec",
    "save_prompt_adapter",
    "score",
    "ssim",
    "summarise",
    "trainable_parameters",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401  # the table's values have types of all kinds
    if name not in _EXPORTS:
        raise AttributeError(f"module 'ucip_adapt' has no attribute '{name}'")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# So that plain `PeftModel.from_pretrained` knows DYNAMIC_PROMPT, whichever of the two packages was
# imported first; this imports nothing of PEFT itself.
register_when_peft_is_imported()
