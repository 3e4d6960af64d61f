"""Which modules of a base an adapter replaces, and what its tensors must look like."""

from __future__ import annotations

from collections.abc import Iterable
from types import MappingProxyType
from typing import NamedTuple, cast

import torch
from torch import nn

from ucip_adapt.errors import BaseMismatchError, ConfigError
from ucip_adapt.models import PTMB, UCIP
from ucip_adapt.models.token_mixer import PTMM
from ucip_adapt.tuning.config import DynamicPromptConfig
from ucip_adapt.tuning.layer import LAYERS, DynamicLayer

__all__ = [
    "TRAINABLE_SETS",
    "TargetKindError",
    "TensorTable",
    "find_targets",
    "first_block",
    "tensor_table",
]

TensorTable = dict[str, torch.Size]

TRAINABLE_SETS = MappingProxyType(
    {
        "basis": ("dpm",),
        "dpm": ("dpm",),
        "dpm+offset": ("dpm", "offset"),
        "dpm+offset+spade": ("dpm", "offset", "spade"),
    }
)
"""Trainable set -> kinds of modules that an adapter replaces; ``basis`` replaces in each DPM the
basic prompts only. Parameters of the ``full`` preset: 3,072, 9,696, 461,280 and 3,789,408."""


class TargetKindError(ConfigError, TypeError):
    """A target module is of a kind that the adapter's trainable set does not replace."""


class _Candidate(NamedTuple):
    name: str
    kind: str
    module: nn.Module


def _candidates(model: UCIP) -> list[_Candidate]:
    """All modules that some set replaces, without the layers that stand for them."""
    found = []
    for i, block in enumerate(cast(Iterable[PTMB], model.blocks)):
        found.append(_Candidate(f"blocks.{i}.prompt", "dpm", block.prompt))
        for j, layer in enumerate(cast(Iterable[PTMM], block.layers)):
            if layer.offset is not None:
                found.append(_Candidate(f"blocks.{i}.layers.{j}.offset", "offset", layer.offset))
            found.append(_Candidate(f"blocks.{i}.layers.{j}.spade", "spade", layer.spade))
    return [
        item._replace(module=item.module.base_layer)
        if isinstance(item.module, DynamicLayer)
        else item
        for item in found
    ]


def first_block(model: UCIP, trainable_blocks: str) -> int:
    """Number of the first PTMB that ``"all"`` or ``"last:N"`` means.

    Raises:
        ConfigError: If the base has fewer blocks than asked for.
    """
    total = len(model.blocks)
    wanted = total if trainable_blocks == "all" else int(trainable_blocks.removeprefix("last:"))
    if wanted > total:
        raise ConfigError(
            f"trainable_blocks='{trainable_blocks}', but the base has {total} PTMBs: "
            f"give 'all' or 'last:1' to 'last:{total}'"
        )
    return total - wanted


def find_targets(model: UCIP, config: DynamicPromptConfig) -> dict[str, nn.Module]:
    """The base's own modules that an adapter of this configuration replaces, by name.

    Raises:
        ConfigError: If the base has fewer blocks than asked for, or nothing matches.
        TargetKindError: If ``target_modules`` names a module that the set does not replace.
    """
    kinds = TRAINABLE_SETS[config.trainable_set]
    first = first_block(model, config.trainable_blocks)
    allowed = {
        item.name: item.module
        for item in _candidates(model)
        if item.kind in kinds and int(item.name.split(".")[1]) >= first
    }
    if config.target_modules is None:
        return allowed
    wanted = config.target_modules
    matched = {
        name: module
        for name, module in model.named_modules()
        if any(name == ending or name.endswith(f".{ending}") for ending in wanted)
    }
    for name, module in matched.items():
        if name not in allowed:
            raise TargetKindError(
                f"target_modules={wanted} matches {name}, a {type(module).__name__}; "
                f"trainable_set '{config.trainable_set}' with trainable_blocks "
                f"'{config.trainable_blocks}' replaces the "
                f"{' and '.join(LAYERS[kind].base_class.__name__ for kind in kinds)} modules of "
                "these blocks (use LoRA for other modules)"
            )
    if not matched:
        raise ConfigError(
            f"target_modules={wanted} matches nothing; this set replaces: {', '.join(allowed)}"
        )
    return {name: allowed[name] for name in matched}


def layer_class(module: nn.Module) -> type[DynamicLayer]:
    """The layer that can stand for a base's module."""
    return next(layer for layer in LAYERS.values() if isinstance(module, layer.base_class))


def tensor_table(targets: dict[str, nn.Module], config: DynamicPromptConfig) -> TensorTable:
    """Names (without the adapter's and PEFT's prefix) and shapes of an adapter's tensors."""
    return {
        f"{name}.{key}": shape
        for name, module in targets.items()
        for key, shape in layer_class(module).shapes(module, config).items()
    }


def check_base(model: nn.Module, config: DynamicPromptConfig) -> UCIP:
    """Check that a base can take the adapter; nothing is changed.

    Returns:
        The base.

    Raises:
        ConfigError: If the network cannot have prompt adapters at all.
        BaseMismatchError: If the adapter belongs to another base.
    """
    if not isinstance(model, UCIP):
        raise ConfigError(
            f"prompt adapters fit UCIP networks, this is a {type(model).__name__}: load the base "
            "with UCIP.from_pretrained"
        )
    if model.config.prompt not in ("dynamic", "none"):
        raise ConfigError(
            f"this base has prompt='{model.config.prompt}'; adapters replace dynamic prompts: take "
            "a base with prompt='dynamic', or a prompt-free one (prompt='none')"
        )
    number = config.num_prompts
    if config.trainable_set == "basis" and number not in (None, model.config.num_prompts):
        raise ConfigError(
            f"num_prompts={number}: trainable set 'basis' keeps the base's coefficient MLPs, which "
            f"weigh {model.config.num_prompts} prompts; take 'dpm' for another number"
        )
    if config.base_fingerprint is not None and config.base_fingerprint != model.fingerprint:
        raise BaseMismatchError(
            f"the adapter was made for base '{config.base_model_name_or_path}' with fingerprint "
            f"{config.base_fingerprint[:12]}, this base is '{model.name_or_path}' with "
            f"{model.fingerprint[:12]}; load the adapter's own base, unaltered (for a new adapter "
            "on this base, leave base_fingerprint=None)"
        )
    return model
