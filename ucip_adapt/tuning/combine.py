"""Make one adapter out of several: by averaging parameters, or by mixing prompts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, cast, get_args

import torch
from torch import Tensor

from ucip_adapt.errors import ConfigError, unknown_name
from ucip_adapt.tuning.config import DynamicPromptConfig
from ucip_adapt.tuning.layer import DynamicPromptLayer

if TYPE_CHECKING:
    from ucip_adapt.tuning.model import DynamicPromptModel

__all__ = ["Combination", "combine"]

Combination = Literal["linear", "cat"]

_Tensors = dict[tuple[str, str], Tensor]  # (layer, name of the parameter in it) -> values


def combine(
    tuner: DynamicPromptModel,
    adapters: Sequence[str],
    weights: Sequence[float],
    adapter_name: str,
    combination_type: str,
) -> None:
    """Add an adapter made of others; see :meth:`DynamicPromptModel.add_weighted_adapter`."""
    if combination_type not in get_args(Combination):
        raise unknown_name("combination_type", combination_type, get_args(Combination))
    if not adapters or len(adapters) != len(weights):
        raise ConfigError(
            f"{len(adapters)} adapters and {len(weights)} weights: give one weight per adapter, "
            "and at least one adapter"
        )
    if not all(math.isfinite(weight) for weight in weights):
        raise ConfigError(f"weights={list(weights)} must be finite numbers")
    if adapter_name in tuner.peft_config:
        raise ConfigError(f"there is an adapter '{adapter_name}' already: choose another name")
    configs = [tuner.peft_config[name] for name in adapters]
    tensors = [_tensors_of(tuner, name) for name in adapters]
    codecs = dict.fromkeys(config.codec for config in configs if config.codec)
    config = dataclasses.replace(
        configs[0],
        codec="+".join(codecs) or None,
        qualities=None,
        metrics=None,
        weights_sha256=None,
    )
    if combination_type == "linear":
        values = _linear(tensors, weights, adapters)
    else:
        values = _cat(tuner, configs, tensors, weights, adapters)
        config.trainable_set = "dpm"
        config.num_prompts = sum(cast(int, item.num_prompts) for item in configs)
    _add(tuner, adapter_name, config, values)


def _add(
    tuner: DynamicPromptModel, adapter_name: str, config: DynamicPromptConfig, values: _Tensors
) -> None:
    tuner.peft_config[adapter_name] = config
    try:
        tuner.inject_adapter(tuner.model, adapter_name)
    except Exception:
        tuner.peft_config.pop(adapter_name, None)
        raise
    tuner.mark_filled(adapter_name)
    with torch.no_grad():
        for place, parameter in _tensors_of(tuner, adapter_name).items():
            parameter.copy_(values[place])


def _tensors_of(tuner: DynamicPromptModel, adapter_name: str) -> _Tensors:
    return {
        (name, key): parameter
        for name, layer in tuner.layers()
        for key, parameter in layer.adapter_parameters(adapter_name)
    }


def _linear(tensors: list[_Tensors], weights: Sequence[float], adapters: Sequence[str]) -> _Tensors:
    """Weighted sum of each parameter.

    Raises:
        ConfigError: If the adapters differ in their parameters.
    """
    shapes = [{place: value.shape for place, value in item.items()} for item in tensors]
    for name, other in zip(adapters, shapes, strict=True):
        if other != shapes[0]:
            raise ConfigError(
                f"adapters '{adapters[0]}' and '{name}' replace different parameters: 'linear' "
                "needs the same trainable_set, trainable_blocks and num_prompts"
            )
    return {
        place: sum((w * item[place] for w, item in zip(weights, tensors, strict=True)), 0 * first)
        for place, first in tensors[0].items()
    }


def _cat(
    tuner: DynamicPromptModel,
    configs: list[DynamicPromptConfig],
    tensors: list[_Tensors],
    weights: Sequence[float],
    adapters: Sequence[str],
) -> _Tensors:
    """All basic prompts side by side, weighted by one softmax over all of them.

    Raises:
        ConfigError: If an adapter replaces more than DPMs or other blocks than the first, or a
            weight is not positive.
    """
    if min(weights) <= 0:
        raise ConfigError(f"weights={list(weights)}: 'cat' needs positive ones")
    for name, config in zip(adapters, configs, strict=True):
        if config.trainable_set not in ("basis", "dpm"):
            raise ConfigError(
                f"adapter '{name}' has trainable_set '{config.trainable_set}': 'cat' mixes prompts "
                "and works for 'basis' and 'dpm' only; use 'linear'"
            )
    blocks = [{layer for layer, _ in item} for item in tensors]
    if any(other != blocks[0] for other in blocks):
        raise ConfigError(f"adapters {list(adapters)} replace prompts of different blocks")
    values: _Tensors = {}
    for name, layer in tuner.layers():
        if name not in blocks[0]:
            continue
        own = [_complete(cast(DynamicPromptLayer, layer), name, item) for item in tensors]
        first, second = "dynprompt_coefficient_fc1", "dynprompt_coefficient_fc2"
        merged = {
            key: torch.cat([item[key] for item in own])
            for key in ("dynprompt_basis", f"{first}.weight", f"{first}.bias")
        }
        squares = [item[f"{second}.weight"] for item in own]
        merged[f"{second}.weight"] = torch.block_diag(*squares)  # type: ignore[no-untyped-call]
        merged[f"{second}.bias"] = torch.cat(
            [i[f"{second}.bias"] + math.log(w) for i, w in zip(own, weights, strict=True)]
        )
        values |= {(name, key): value for key, value in merged.items()}
    return values


def _complete(layer: DynamicPromptLayer, name: str, tensors: _Tensors) -> dict[str, Tensor]:
    """One adapter's tensors at a DPM; an adapter of the set ``basis`` weighs as the base does."""
    found = {key: value for (place, key), value in tensors.items() if place == name}
    for container, part in layer.parts.items():
        if container != "dynprompt_basis":
            for key, value in layer.base_layer.get_submodule(part).named_parameters():
                found.setdefault(f"{container}.{key}", value)
    return {key: value.detach() for key, value in found.items()}
