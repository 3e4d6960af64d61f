"""Prompt adapters: the PEFT method ``DYNAMIC_PROMPT``, its parameters and the protocols of Table 3.

Names are loaded on first use, so that :func:`register_when_peft_is_imported` can be reached
without importing PEFT.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ucip_adapt.tuning.register import register, register_when_peft_is_imported

if TYPE_CHECKING:
    from ucip_adapt.tuning.adapters import add_prompt_adapter as add_prompt_adapter
    from ucip_adapt.tuning.adapters import load_prompt_adapter as load_prompt_adapter
    from ucip_adapt.tuning.adapters import save_prompt_adapter as save_prompt_adapter
    from ucip_adapt.tuning.config import DynamicPromptConfig as DynamicPromptConfig
    from ucip_adapt.tuning.layer import DynamicOffsetLayer as DynamicOffsetLayer
    from ucip_adapt.tuning.layer import DynamicPromptLayer as DynamicPromptLayer
    from ucip_adapt.tuning.layer import DynamicSpadeLayer as DynamicSpadeLayer
    from ucip_adapt.tuning.model import DynamicPromptModel as DynamicPromptModel
    from ucip_adapt.tuning.params import ParameterCounts as ParameterCounts
    from ucip_adapt.tuning.params import add_prompts as add_prompts
    from ucip_adapt.tuning.params import count_adapter as count_adapter
    from ucip_adapt.tuning.params import count_parameters as count_parameters
    from ucip_adapt.tuning.params import full_tuning as full_tuning
    from ucip_adapt.tuning.params import lora_config as lora_config
    from ucip_adapt.tuning.params import norms_and_biases as norms_and_biases
    from ucip_adapt.tuning.params import trainable_parameters as trainable_parameters
    from ucip_adapt.tuning.protocols import PROTOCOLS as PROTOCOLS
    from ucip_adapt.tuning.protocols import Protocol as Protocol
    from ucip_adapt.tuning.protocols import protocol_for as protocol_for
    from ucip_adapt.tuning.targets import TRAINABLE_SETS as TRAINABLE_SETS

# Public name -> module that defines it; the imports above tell type checkers the same.
_EXPORTS = {
    "PROTOCOLS": "protocols",
    "TRAINABLE_SETS": "targets",
    "DynamicOffsetLayer": "layer",
    "DynamicPromptConfig": "config",
    "DynamicPromptLayer": "layer",
    "DynamicPromptModel": "model",
    "DynamicSpadeLayer": "layer",
    "ParameterCounts": "params",
    "Protocol": "protocols",
    "add_prompt_adapter": "adapters",
    "add_prompts": "params",
    "count_adapter": "params",
    "count_parameters": "params",
    "full_tuning": "params",
    "load_prompt_adapter": "adapters",
    "lora_config": "params",
    "norms_and_biases": "params",
    "protocol_for": "protocols",
    "save_prompt_adapter": "adapters",
    "trainable_parameters": "params",
}

__all__ = [
    "PROTOCOLS",
    "TRAINABLE_SETS",
    "DynamicOffsetLayer",
    "DynamicPromptConfig",
    "DynamicPromptLayer",
    "DynamicPromptModel",
    "DynamicSpadeLayer",
    "ParameterCounts",
    "Protocol",
    "add_prompt_adapter",
    "add_prompts",
    "count_adapter",
    "count_parameters",
    "full_tuning",
    "load_prompt_adapter",
    "lora_config",
    "norms_and_biases",
    "protocol_for",
    "register",
    "register_when_peft_is_imported",
    "save_prompt_adapter",
    "trainable_parameters",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401  # the table's values have types of all kinds
    if name not in _EXPORTS:
        raise AttributeError(f"module 'ucip_adapt.tuning' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"ucip_adapt.tuning.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
