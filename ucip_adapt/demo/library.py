"""Gradio, found or missed before anything heavy is loaded."""

from __future__ import annotations

import importlib
import os
from types import ModuleType

from ucip_adapt.errors import ConfigError

__all__ = ["load_gradio"]


def load_gradio() -> ModuleType:
    """Import gradio, told to report nothing to anyone.

    Returns:
        The library.

    Raises:
        ConfigError: If it is not installed, with the line that installs it.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_RUN_HISTORY"] = "False"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        return importlib.import_module("gradio")
    except ImportError as error:
        raise ConfigError(
            f'the page needs gradio ({error}): pip install "ucip-adapt[demo]"'
        ) from error
