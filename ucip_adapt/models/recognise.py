"""A network from its tensors alone: the architecture is read off their names and shapes.

Two things have no tensor of their own: whether prompts of the dynamic kind are switched on, and
the global skip. They are known where the file says so. A single file written by
:func:`save_single_file` carries its whole configuration as one more tensor, ``ucip.config``,
because most programs hand on tensors and drop a file's metadata; a base's ``model.safetensors``
has its fingerprint in the metadata, and only one of the few candidates has that fingerprint.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from ucip_adapt.atomic import replaced
from ucip_adapt.errors import BaseFormatError, ConfigError
from ucip_adapt.models.config import PRESETS, GlobalSkip, UCIPConfig
from ucip_adapt.models.fingerprint import fingerprint_of
from ucip_adapt.models.pretrained import check_tensors, read_safetensors
from ucip_adapt.models.prompts import PromptDesign
from ucip_adapt.models.ucip import UCIP

__all__ = [
    "CONFIG_TENSOR",
    "SIGNATURE",
    "from_state_dict",
    "load_single_file",
    "read_architecture",
    "save_single_file",
]

CONFIG_TENSOR = "ucip.config"
"""Name of the tensor, of bytes, that holds the configuration as JSON."""

SIGNATURE = (
    "embed.weight",
    "blocks.0.peg.weight",
    "blocks.0.layers.0.offset.linear.weight",
    "blocks.0.layers.0.mixer.horizontal.weight",
    "blocks.0.layers.0.spade.shared.weight",
    "head.conv_before_up.weight",
)
"""Tensors that every UCIP network has, whatever its prompts; no other architecture has them all."""

_LARGEST_CONFIG = 65_536  # bytes; ours have about 400


def from_state_dict(
    state_dict: Mapping[str, Tensor],
    *,
    prompt: PromptDesign | None = None,
    global_skip: GlobalSkip | None = None,
    fingerprint: str | None = None,
) -> UCIP:
    """Build the network that tensors belong to; see :func:`read_architecture`.

    Args:
        state_dict: The tensors of a base or of a merged network, under our names, of any
            floating-point dtype.
        prompt: Prompt design, where tensors do not tell.
        global_skip: Global skip, where tensors do not tell.
        fingerprint: Of the base, if known.

    Returns:
        The network in float32, in evaluation mode. Its ``config.window`` is known from
        ``ucip.config`` only, None otherwise.

    Raises:
        BaseFormatError: If the tensors are not those of a UCIP network: of another architecture,
            incomplete, of wrong shapes, not finite.
        ConfigError: If they leave open what ``prompt`` or ``global_skip`` is.

    Example:
        >>> base = UCIP.from_pretrained("ucip-tiny")
        >>> from_state_dict(base.state_dict()).config.embed_dim
        48
    """
    config = read_architecture(
        state_dict, prompt=prompt, global_skip=global_skip, fingerprint=fingerprint
    )
    with torch.random.fork_rng(devices=[]):  # its initial weights are nobody's business
        model = UCIP(config)
    tensors = _weights(state_dict)
    check_tensors(model.base_tensors(), tensors, "the state dict", "sizes")
    with torch.no_grad():
        model.load_state_dict(tensors)
    return model.eval()


def read_architecture(
    state_dict: Mapping[str, Tensor],
    *,
    prompt: PromptDesign | None = None,
    global_skip: GlobalSkip | None = None,
    fingerprint: str | None = None,
) -> UCIPConfig:
    """Read a network's configuration off the names and shapes of its tensors.

    What has no tensor comes from, in this order: the arguments; the tensor ``ucip.config``; the
    fingerprint; else the global skip is that of the preset with these sizes, and prompts whose
    coefficient MLPs were trained are switched on.

    Args:
        state_dict: The tensors.
        prompt: See :func:`from_state_dict`.
        global_skip: See :func:`from_state_dict`.
        fingerprint: See :func:`from_state_dict`.

    Returns:
        The configuration.

    Raises:
        BaseFormatError: As :func:`from_state_dict`.
        ConfigError: As :func:`from_state_dict`.

    Example:
        >>> tensors = UCIP(UCIPConfig.preset("nano", share=4, prompt="fixed")).state_dict()
        >>> config = read_architecture(tensors)
        >>> config.share, config.prompt, config.global_skip
        (4, 'fixed', 'bicubic')
    """
    _check_kind(state_dict)
    told = {"prompt": prompt, "global_skip": global_skip}
    given = {key: value for key, value in told.items() if value is not None}
    if CONFIG_TENSOR in state_dict:
        return _stored_config(state_dict[CONFIG_TENSOR]).replace(**given)
    sizes = _sizes(state_dict)
    _config(**sizes)  # a shape that no network has is told before anything is guessed
    found = given | _prompt_design(state_dict)
    if fingerprint is not None and len(given) < 2:
        for config in _candidates(sizes, found):
            if fingerprint_of(state_dict, config) == fingerprint:
                return config
    if "global_skip" not in found:
        found["global_skip"] = _skip_of_preset(sizes)
    if "prompt" not in found:
        found["prompt"] = _dynamic_or_none(state_dict)
    return _config(**sizes, **found)


def _check_kind(state_dict: Mapping[str, Tensor]) -> None:
    missing = [name for name in SIGNATURE if name not in state_dict]
    if not missing:
        return
    names = list(state_dict)
    if "patch_embed.proj.weight" in state_dict and "conv_before_up.0.weight" in state_dict:
        hint = "it has the names of the authors' checkpoints: use load_authors_checkpoint"
    elif any(".dynprompt_" in name for name in names):
        hint = (
            "it is a prompt adapter: load it with ucip_adapt.load, or write base and adapter as "
            "one network with `ucip-adapt export --format safetensors`"
        )
    else:
        hint = f"its first ones are {names[:3]}"
    raise BaseFormatError(
        f"not a UCIP network: of {len(names)} tensors none is called {missing[0]}; {hint}"
    )


def _stored_config(value: Tensor) -> UCIPConfig:
    if value.dtype != torch.uint8 or value.dim() != 1 or value.numel() > _LARGEST_CONFIG:
        raise BaseFormatError(
            f"{CONFIG_TENSOR} must be a row of at most {_LARGEST_CONFIG} bytes, it is "
            f"{value.dtype} {tuple(value.shape)}"
        )
    try:
        values = json.loads(bytes(value.tolist()))
    except ValueError as error:
        raise BaseFormatError(f"{CONFIG_TENSOR} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise BaseFormatError(f"{CONFIG_TENSOR} holds no JSON object")
    return UCIPConfig.from_dict(values, source=CONFIG_TENSOR)


def _sizes(state_dict: Mapping[str, Tensor]) -> dict[str, int | bool]:
    """What shapes and counts say for every prompt design."""
    shape = {name: tuple(value.shape) for name, value in state_dict.items()}
    layer = "blocks.0.layers.0"
    try:
        dim = shape["embed.weight"][0]
        sizes: dict[str, int | bool] = {
            "embed_dim": dim,
            "prompt_dim": shape[f"{layer}.spade.shared.weight"][1],
            "num_blocks": _count(state_dict, r"blocks\.(\d+)\."),
            "num_layers": _count(state_dict, r"blocks\.0\.layers\.(\d+)\."),
            "mlp_ratio": shape[f"{layer}.mlp.fc1.weight"][0] // dim,
            "head_dim": shape["head.conv_before_up.weight"][0],
            "share": 2 * dim // shape[f"{layer}.offset.linear.weight"][0],
            "local": f"{layer}.mixer.local.weight" in shape,
        }
        if "blocks.0.prompt.basis" in shape:
            slots, number, _ = shape["blocks.0.prompt.basis"]
            sizes |= {"num_slots": slots, "num_prompts": number}
        elif "blocks.0.prompt.components" in shape:
            number, _, side, _ = shape["blocks.0.prompt.components"]
            sizes |= {"num_prompts": number, "prompt_size": side}
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise BaseFormatError(f"not a UCIP network: cannot read {error}") from error
    return sizes


def _count(state_dict: Mapping[str, Tensor], pattern: str) -> int:
    return len({match[1] for name in state_dict if (match := re.match(pattern, name))})


def _prompt_design(state_dict: Mapping[str, Tensor]) -> dict[str, str]:
    """The design, if its tensors tell: ``"dynamic"`` and ``"none"`` have the same ones."""
    if "blocks.0.prompt.prompt" in state_dict:
        return {"prompt": "fixed"}
    if "blocks.0.prompt.components" in state_dict:
        return {"prompt": "promptir"}
    if "blocks.0.prompt.basis" in state_dict:
        return {}
    raise BaseFormatError(
        "not a UCIP network: there is no blocks.0.prompt.basis, blocks.0.prompt.prompt or "
        "blocks.0.prompt.components"
    )


def _candidates(sizes: Mapping[str, int | bool], found: Mapping[str, str]) -> Iterator[UCIPConfig]:
    designs = [found["prompt"]] if "prompt" in found else ["dynamic", "none"]
    skips = [found["global_skip"]] if "global_skip" in found else get_args(GlobalSkip)
    for design, skip in itertools.product(designs, skips):
        yield _config(**sizes, prompt=design, global_skip=skip)


def _skip_of_preset(sizes: Mapping[str, int | bool]) -> str:
    main = ("embed_dim", "prompt_dim", "num_blocks", "num_layers", "mlp_ratio", "head_dim")
    for name in PRESETS:
        preset = UCIPConfig.preset(name)
        if all(getattr(preset, key) == sizes[key] for key in main):
            return preset.global_skip
    raise ConfigError(
        f"the tensors do not tell the global skip, and no preset has their sizes "
        f"({', '.join(f'{key}={sizes[key]}' for key in main)}): give global_skip='bicubic' or "
        "global_skip='none', as the network was trained"
    )


def _dynamic_or_none(state_dict: Mapping[str, Tensor]) -> str:
    """``"dynamic"``, if the coefficient MLPs have learnt: their biases start at zero."""
    if any(value.any() for name, value in state_dict.items() if _COEFFICIENT_BIAS.fullmatch(name)):
        return "dynamic"
    raise ConfigError(
        "the tensors do not tell whether the prompts are used, and they were never trained: give "
        "prompt='none' for a prompt-free network, or prompt='dynamic'"
    )


_COEFFICIENT_BIAS = re.compile(r"blocks\.\d+\.prompt\.coefficient\.fc[12]\.bias")


def _config(**fields: object) -> UCIPConfig:
    try:
        return UCIPConfig.preset("full").replace(**fields)
    except ConfigError as error:
        raise BaseFormatError(f"shapes of no UCIP network: {error}") from error


def _weights(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state_dict.items() if name != CONFIG_TENSOR}


def load_single_file(
    path: str | Path,
    *,
    prompt: PromptDesign | None = None,
    global_skip: GlobalSkip | None = None,
) -> UCIP:
    """Load a network from one safetensors file, without a folder or a ``config.json``.

    Args:
        path: What :func:`save_single_file` wrote, or a base's ``model.safetensors``.
        prompt: See :func:`from_state_dict`.
        global_skip: See :func:`from_state_dict`.

    Returns:
        The network in float32, in evaluation mode.

    Raises:
        BaseFormatError: If the file cannot be read, is of another architecture, or its values are
            not those that its fingerprint was made from.
        ConfigError: As :func:`from_state_dict`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     UCIP(UCIPConfig.preset("nano", prompt="none")).save_pretrained(folder)
        ...     load_single_file(Path(folder, "model.safetensors")).config.prompt
        'none'
    """
    tensors, metadata = read_safetensors(Path(path))
    recorded = metadata.get("fingerprint")
    try:
        model = from_state_dict(
            tensors, prompt=prompt, global_skip=global_skip, fingerprint=recorded
        )
    except (BaseFormatError, ConfigError) as error:
        raise type(error)(f"{path}: {error}") from error
    overridden = prompt is not None or global_skip is not None
    if recorded is not None and not overridden and recorded != model.fingerprint:
        raise BaseFormatError(
            f"{path} was altered: it says fingerprint {recorded[:12]}, its values have "
            f"{model.fingerprint[:12]}"
        )
    return model


def save_single_file(
    model: UCIP,
    path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write a network with its configuration as one safetensors file.

    The file is complete before it takes its name.

    Args:
        model: The network; adapters beside it are left out.
        path: The file.
        dtype: What values are stored in.
        metadata: More entries for the file's metadata.

    Raises:
        BaseFormatError: If it cannot be written; an older file of that name is as it was.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "net.safetensors")
        ...     save_single_file(UCIP(UCIPConfig.preset("nano", prompt="none")), path)
        ...     load_single_file(path).config.prompt
        'none'
    """
    tensors = {
        name: value.detach().to(device="cpu", dtype=dtype).contiguous()
        for name, value in model.base_tensors().items()
    }
    recorded = {"format": "pt", **(metadata or {})}
    recorded["fingerprint"] = fingerprint_of(tensors, model.config)
    stored = json.dumps(model.config.to_dict()).encode()
    tensors[CONFIG_TENSOR] = torch.tensor(list(stored), dtype=torch.uint8)
    try:
        with replaced(Path(path)) as temporary:
            save_file(tensors, os.fspath(temporary), metadata=recorded)
    except (OSError, SafetensorError) as error:
        raise BaseFormatError(f"cannot write {path}: {error}") from error
