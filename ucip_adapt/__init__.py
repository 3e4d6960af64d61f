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
    from ucip_adapt.codecs import get_codec as get_codec
    from ucip_adapt.codecs import list_codecs as list_codecs
    from ucip_adapt.metrics import psnr as psnr
    from ucip_adapt.metrics import score as score
    from ucip_adapt.metrics import ssim as ssim
    from ucip_adapt.models import UCIP as UCIP
    from ucip_adapt.models import UCIPConfig as UCIPConfig
    from ucip_adapt.tuning import DynamicPromptConfig as DynamicPromptConfig
    from ucip_adapt.tuning import DynamicPromptLayer as DynamicPromptLayer
    from ucip_adapt.tuning import DynamicPromptModel as DynamicPromptModel
    from ucip_adapt.tuning import add_prompt_adapter as add_prompt_adapter
    from ucip_adapt.tuning import load_prompt_adapter as load_prompt_adapter
    from ucip_adapt.tuning import save_prompt_adapter as save_prompt_adapter

__version__ = "0.1.0"

# Public name -> module that defines it. The imports above tell type checkers the same; a test
# compares the two.
_EXPORTS = {
    "UCIP": "ucip_adapt.models",
    "DynamicPromptConfig": "ucip_adapt.tuning",
    "DynamicPromptLayer": "ucip_adapt.tuning",
    "DynamicPromptModel": "ucip_adapt.tuning",
    "UCIPConfig": "ucip_adapt.models",
    "add_prompt_adapter": "ucip_adapt.tuning",
    "get_codec": "ucip_adapt.codecs",
    "list_codecs": "ucip_adapt.codecs",
    "load_prompt_adapter": "ucip_adapt.tuning",
    "psnr": "ucip_adapt.metrics",
    "save_prompt_adapter": "ucip_adapt.tuning",
    "score": "ucip_adapt.metrics",
    "ssim": "ucip_adapt.metrics",
}

__all__ = [
    "UCIP",
    "DynamicPromptConfig",
    "DynamicPromptLayer",
    "DynamicPromptModel",
    "UCIPConfig",
    "__version__",
    "add_prompt_adapter",
    "get_codec",
    "list_codecs",
    "load_prompt_adapter",
    "psnr",
    "save_prompt_adapter",
    "score",
    "ssim",
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
