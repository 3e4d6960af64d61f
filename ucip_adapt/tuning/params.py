"""Which parameters are trained, how many they are, and other methods at an equal budget."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple, cast

import torch
from peft import LoraConfig
from torch import nn

from ucip_adapt.errors import ConfigError
from ucip_adapt.models import DPM, PTMB, UCIP, UCIPConfig
from ucip_adapt.tuning.config import DynamicPromptConfig
from ucip_adapt.tuning.layer import PROMPT_STD
from ucip_adapt.tuning.targets import TRAINABLE_SETS, find_targets, first_block, tensor_table

__all__ = [
    "TRAINABLE_SETS",
    "ParameterCounts",
    "add_prompts",
    "count_adapter",
    "count_parameters",
    "full_tuning",
    "lora_config",
    "norms_and_biases",
    "trainable_parameters",
]

# Modules for LoRA, from the widest choice to the narrowest: the linear maps of a PTMM that do not
# see the prompt. Depth-wise convolutions are left out: PEFT's LoRA does not fit them.
_LORA_TARGETS = (
    r"mixer\.(horizontal|vertical|proj)|mlp\.(fc1|fc2)",
    r"mixer\.(horizontal|vertical|proj)",
    r"mixer\.proj",
)


class ParameterCounts(NamedTuple):
    """Sizes of a model.

    Attributes:
        trainable: Values that training changes.
        total: All values, adapters included.
        trainable_bytes: Size of the trainable ones as they are stored now.
    """

    trainable: int
    total: int
    trainable_bytes: int


def trainable_parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Names and parameters that require a gradient, as a list: a generator is empty at second use.

    Args:
        model: Any module, with adapters or without.

    Returns:
        Pairs in the order of ``model.named_parameters()``.

    Example:
        >>> [name for name, _ in trainable_parameters(nn.Linear(2, 2, bias=False))]
        ['weight']
    """
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def count_parameters(model: nn.Module) -> ParameterCounts:
    """Count a model's parameters.

    Args:
        model: Any module, with adapters or without.

    Returns:
        How many values are trainable, how many there are, and the bytes of the trainable ones.

    Example:
        >>> count_parameters(nn.Linear(2, 2))
        ParameterCounts(trainable=6, total=6, trainable_bytes=24)
    """
    trainable = [p for _, p in trainable_parameters(model)]
    return ParameterCounts(
        trainable=sum(p.numel() for p in trainable),
        total=sum(p.numel() for p in model.parameters()),
        trainable_bytes=sum(p.numel() * p.element_size() for p in trainable),
    )


def count_adapter(base: UCIPConfig, config: DynamicPromptConfig) -> int:
    """Number of values of an adapter, without making either network or adapter.

    Args:
        base: Architecture of the base.
        config: The adapter's configuration.

    Returns:
        The number of values that such an adapter trains and saves.

    Raises:
        ConfigError: If the base has fewer blocks than ``trainable_blocks`` asks for.

    Example:
        >>> full = UCIPConfig.preset("full")
        >>> for name in ("basis", "dpm", "dpm+offset", "dpm+offset+spade"):
        ...     print(f"{count_adapter(full, DynamicPromptConfig(trainable_set=name)):,}")
        3,072
        9,696
        461,280
        3,789,408
    """
    with torch.device("meta"):
        targets = find_targets(UCIP(base), config)
    return sum(shape.numel() for shape in tensor_table(targets, config).values())


def add_prompts(model: UCIP) -> None:
    """Turn on the prompts of a base that was trained without (Table 3, rows ii and iii), in place.

    Basic prompts start at N(0, 0.02) from PyTorch's global generator, the coefficient MLPs stay;
    ``config.prompt`` becomes ``"dynamic"``. A base that has prompts is left alone.

    Args:
        model: The base, changed in place.

    Raises:
        ConfigError: If the base has prompts of another design (Table 4).

    Example:
        >>> model = UCIP(UCIPConfig.preset("nano", prompt="none"))
        >>> add_prompts(model)
        >>> model.config.prompt
        'dynamic'
    """
    if model.config.prompt == "dynamic":
        return
    if model.config.prompt != "none":
        raise ConfigError(f"prompts cannot be added to a base with prompt='{model.config.prompt}'")
    for block in cast(Iterable[PTMB], model.blocks):
        prompt = cast(DPM, block.prompt)
        prompt.enabled = True
        prompt.requires_grad_(True)
        with torch.no_grad():
            prompt.basis.normal_(std=PROMPT_STD)
    model.config = model.config.replace(prompt="dynamic")


def full_tuning(model: UCIP) -> list[tuple[str, nn.Parameter]]:
    """Make everything trainable (rows iii and v); a prompt-free base receives prompts first.

    Args:
        model: The base, changed in place.

    Returns:
        Names and parameters to train: all of them.

    Raises:
        ConfigError: If the model has adapters.

    Example:
        >>> model = UCIP(UCIPConfig.preset("nano", prompt="none"))
        >>> len(full_tuning(model)) == len(list(model.parameters()))
        True
        >>> model.config.prompt
        'dynamic'
    """
    if hasattr(model, "peft_config"):
        raise ConfigError("full tuning is for a plain base: this one has adapters, unload() them")
    if model.config.prompt == "none":
        add_prompts(model)
    model.requires_grad_(True)
    return trainable_parameters(model)


def norms_and_biases(model: UCIP) -> list[tuple[str, nn.Parameter]]:
    """Make the norms (scale and shift) and every bias trainable, and nothing else.

    The smallest set that reaches every layer, to be compared with prompts of about its size.
    SPADE's own normalisation has no parameters, and the basic prompts are no bias.

    Args:
        model: A base with prompts, changed in place.

    Returns:
        Names and parameters to train.

    Raises:
        ConfigError: If the model has adapters, or no prompts: on those only rows iv and v are
            compared with it.

    Example:
        >>> model = UCIP(UCIPConfig.preset("tiny"))
        >>> sum(parameter.numel() for _, parameter in norms_and_biases(model))
        7523
        >>> model.blocks[0].prompt.basis.requires_grad
        False
    """
    if hasattr(model, "peft_config"):
        raise ConfigError("norms+biases are of a plain base: this one has adapters, unload() them")
    if model.config.prompt == "none":
        raise ConfigError(
            "norms+biases are compared with prompts, and this base has none: give a prompted base, "
            "or train everything (row iii)"
        )
    model.requires_grad_(False)
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            # By kind of module, not by shape: a future norm of another class must be added here.
            parameter.requires_grad_(name == "bias" or isinstance(module, nn.LayerNorm))
    return trainable_parameters(model)


def lora_config(
    base: UCIP, *, budget: int, dora: bool = False, trainable_blocks: str = "all"
) -> LoraConfig:
    """A LoRA for a base whose number of parameters comes nearest to a budget.

    It adapts the linear maps of all PTMMs; for budgets below one rank of them all, those of the
    mixers, and then only the mixers' last ones. ``lora_alpha`` equals the rank, so that the scale
    is 1 whatever the budget.

    Args:
        base: The base network.
        budget: Number of parameters to come near to, such as that of ``dpm+offset``.
        dora: Use DoRA (weights split into magnitude and direction).
        trainable_blocks: ``"all"`` PTMBs, or the ``"last:N"``.

    Returns:
        PEFT's configuration, to be given to ``peft.get_peft_model(base, config)``.

    Raises:
        ConfigError: If the budget is below the smallest LoRA, or the base has fewer blocks.

    Example:
        >>> base = UCIP(UCIPConfig.preset("tiny"))
        >>> config = lora_config(base, budget=15_904)
        >>> config.r, config.lora_alpha
        (3, 3)
    """
    smallest = 0
    blocks = range(first_block(base, trainable_blocks), len(base.blocks))
    for linears in _LORA_TARGETS:
        pattern = rf"blocks\.({'|'.join(map(str, blocks))})\.layers\.\d+\.({linears})"
        per_rank, fixed = _lora_cost(base, pattern, dora=dora)
        smallest = per_rank + fixed
        if smallest <= budget:
            rank = max(1, round((budget - fixed) / per_rank))
            return LoraConfig(r=rank, lora_alpha=rank, target_modules=pattern, use_dora=dora)
    raise ConfigError(f"budget={budget}: the smallest LoRA of this base has {smallest} parameters")


def _lora_cost(base: UCIP, pattern: str, *, dora: bool) -> tuple[int, int]:
    """Parameters of a LoRA per rank, and those that do not depend on the rank (DoRA's lengths)."""
    linears = [
        module
        for name, module in base.named_modules()
        if isinstance(module, nn.Linear) and re.fullmatch(pattern, name)
    ]
    per_rank = sum(module.in_features + module.out_features for module in linears)
    return per_rank, sum(module.out_features for module in linears) if dora else 0
