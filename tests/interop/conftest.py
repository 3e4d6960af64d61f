"""Small networks that look trained, and spandrel where it is installed."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from ucip_adapt.models import UCIP, UCIPConfig
from ucip_adapt.tuning import DynamicPromptConfig, add_prompt_adapter, save_prompt_adapter


@pytest.fixture
def network() -> UCIP:
    """A small network with windows, its biases not zero."""
    torch.manual_seed(0)
    model = UCIP(UCIPConfig.preset("nano", last_conv_scale=1.0, window=12, window_stride=9))
    _move(model, "")
    return model.eval().requires_grad_(False)


@pytest.fixture
def make_adapter(network: UCIP, tmp_path: Path) -> Callable[..., Path]:
    """Save ``network`` as a base, and adapters on it; returns an adapter's folder."""
    base = tmp_path / "base"
    network.save_pretrained(base)

    def make(name: str, trainable_set: str = "dpm+offset", seed: int = 1) -> Path:
        model = add_prompt_adapter(
            UCIP.from_pretrained(base),
            DynamicPromptConfig(codec="webp", trainable_set=trainable_set),
        )
        torch.manual_seed(seed)
        _move(model, "dynprompt_")
        return save_prompt_adapter(model, tmp_path / name)

    return make


def _move(model: torch.nn.Module, part: str) -> None:
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if part in name:
                parameter.add_(0.05 * torch.randn(parameter.shape))


@pytest.fixture
def spandrel() -> Iterator[ModuleType]:
    """The library; of torchvision it imports three names, which stand-ins serve if need be."""
    if importlib.util.find_spec("spandrel") is None:
        pytest.skip("spandrel is not installed: pip install --no-deps spandrel einops")
    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    absent = importlib.util.find_spec("torchvision") is None
    if absent:
        modules = [types.ModuleType(name) for name in names]
        modules[2].InterpolationMode = types.SimpleNamespace(NEAREST=0, BILINEAR=1)  # type: ignore[attr-defined]
        modules[2].rotate = modules[2].normalize = None  # type: ignore[attr-defined]
        modules[0].transforms, modules[1].functional = modules[1], modules[2]  # type: ignore[attr-defined]
        sys.modules.update(zip(names, modules, strict=True))
    try:
        yield importlib.import_module("spandrel")
    finally:
        if absent:
            for name in names:
                del sys.modules[name]
