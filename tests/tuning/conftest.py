"""Small bases and trained-looking adapters for the tests of prompt adapters."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn

from ucip_adapt.models import UCIP, UCIPConfig
from ucip_adapt.tuning import DynamicPromptConfig, add_prompt_adapter, save_prompt_adapter

SETS = ("basis", "dpm", "dpm+offset", "dpm+offset+spade")
KINDS = {"prompted": {}, "prompt-free": {"prompt": "none"}, "six-slot": {"num_slots": 6}}


@pytest.fixture
def make_base() -> Callable[..., UCIP]:
    """Make a base from a seed: 2 blocks of 3 layers, the middle one reuses its offsets."""

    def make(kind: str = "prompted", *, seed: int = 0, **changes: Any) -> UCIP:
        torch.manual_seed(seed)
        sizes = {"num_blocks": 2, "num_layers": 3, "last_conv_scale": 1.0}
        base = UCIP(UCIPConfig.preset("nano", **{**sizes, **KINDS[kind], **changes}))
        with torch.no_grad():
            # Zero biases and unit norms would hide an adapter that forgets one of them.
            for name, parameter in base.named_parameters():
                if not name.startswith("head."):
                    parameter.add_(0.02 * torch.randn(parameter.shape))
        return base.eval()

    return make


@pytest.fixture
def lq() -> Tensor:
    """Three small images of odd size."""
    return torch.rand(3, 3, 9, 11, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def perturb() -> Callable[..., None]:
    """Move an adapter's parameters away from their start, by seeded noise."""

    def move(model: PeftModel, adapter_name: str = "default", *, seed: int = 1) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in sorted(model.named_parameters()):
                if "dynprompt_" in name and f".{adapter_name}" in name:
                    parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))

    return move


@pytest.fixture
def make_adapter(
    make_base: Callable[..., UCIP], perturb: Callable[..., None], tmp_path: Path
) -> Callable[..., Path]:
    """Save an adapter for the base of a kind and seed; returns its folder."""

    def make(
        kind: str = "prompted",
        trainable_set: str = "dpm",
        *,
        seed: int = 1,
        name: str = "adapter",
        base_seed: int = 0,
        **options: Any,
    ) -> Path:
        config = DynamicPromptConfig(
            codec="webp", qualities=[10, 40], trainable_set=trainable_set, **options
        )
        torch.manual_seed(seed)
        model = add_prompt_adapter(make_base(kind, seed=base_seed), config)
        perturb(model, seed=seed)
        return save_prompt_adapter(model, tmp_path / name)

    return make


@pytest.fixture
def snapshot() -> Callable[[nn.Module], dict[str, Any]]:
    """Everything about a model that a failed load must leave as it was."""

    def take(model: nn.Module) -> dict[str, Any]:
        state = {
            name: (tuple(value.shape), str(value.dtype), hashlib.sha256(value.numpy()).hexdigest())
            for name, value in model.state_dict().items()
        }
        return {
            "state": state,
            "modules": {name: type(module).__name__ for name, module in model.named_modules()},
            "trainable": {name: p.requires_grad for name, p in model.named_parameters()},
            "training": model.training,
            "config": getattr(model, "config", None),
            "peft_config": sorted(getattr(model, "peft_config", {})),
            "active": getattr(model, "active_adapters", None),
        }

    return take
