"""A network from its tensors alone: the architecture is read off their names and shapes.

Three things have no tensor of their own: whether prompts of the dynamic kind are switched on, the
global skip, and the window that images are cut into. They are known where the file says so. A
single file written by :func:`save_single_file` carries its whole configuration as one more tensor,
``ucip.config``, because most programs hand on tensors and drop a file's metadata. A base's
``model.safetensors`` has a ``config.json`` beside it, and its fingerprint in the metadata: of a
file that was moved away, only one of the few candidates has that fingerprint, but no fingerprint
tells the window.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, get_args

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
    window: int | Literal["whole"] | None = None,
) -> UCIP:
    """Build the network that tensors belong to; see :func:`read_architecture`.

    Args:
        state_dict: The tensors of a base or of a merged network, under our names, of any
            floating-point dtype.
        prompt: Prompt design, where tensors do not tell.
        global_skip: Global skip, where tensors do not tell.
        fingerprint: Of the base, if known.
        window: Side of the windows that :meth:`UCIP.upscale` cuts images into, or ``"whole"`` for
            none, where tensors do not tell: they do by ``ucip.config`` only.

    Returns:
        The network in float32, in evaluation mode. Where nothing tells the window, images are taken
        whole, and a warning says so: a base that was measured in windows scores less then.

    Raises:
        BaseFormatError: If the tensors are not those of a UCIP network: of another architecture,
            incomplete, of wrong shapes, not finite.
        ConfigError: If they leave open what ``prompt`` or ``global_skip`` is.

    Example:
        >>> base = UCIP.from_pretrained("ucip-tiny")
        >>> from_state_dict(base.state_dict(), window=48).config.embed_dim
        48
    """
    config = read_architecture(
        state_dict, prompt=prompt, global_skip=global_skip, fingerprint=fingerprint
    )
    model = _build(_in_windows(config, window), state_dict)
    if window is None and CONFIG_TENSOR not in state_dict:
        _warn_of_window("")
    return model


def _warn_of_window(more: str) -> None:
    warnings.warn(
        "nothing tells the window that the network was measured in: it takes images whole, which "
        f"may score less. {more}Give window=48, or whatever side it was, or window='whole'",
        stacklevel=3,
    )


def _in_windows(config: UCIPConfig, window: int | Literal["whole"] | None) -> UCIPConfig:
    if window is None:
        return config
    return config.replace(window=None if window == "whole" else window, window_stride=None)


def _build(config: UCIPConfig, state_dict: Mapping[str, Tensor]) -> UCIP:
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
    window: int | Literal["whole"] | None = None,
) -> UCIP:
    """Load a network from one safetensors file.

    Args:
        path: What :func:`save_single_file` wrote, or a base's ``model.safetensors``; of the latter
            a ``config.json`` beside it is read too, if it is there and is the file's own.
        prompt: See :func:`from_state_dict`.
        global_skip: See :func:`from_state_dict`.
        window: See :func:`from_state_dict`.

    Returns:
        The network in float32, in evaluation mode. Of a base's file without its ``config.json``
        nothing tells the window; see :func:`from_state_dict`.

    Raises:
        BaseFormatError: If the file cannot be read, is of another architecture, or its values are
            not those that its fingerprint was made from.
        ConfigError: As :func:`from_state_dict`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     UCIP(UCIPConfig.preset("nano", prompt="none", window=32)).save_pretrained(folder)
        ...     config = load_single_file(Path(folder, "model.safetensors")).config
        >>> config.prompt, config.window
        ('none', 32)
    """
    tensors, metadata = read_safetensors(Path(path))
    recorded = metadata.get("fingerprint")
    told = {"prompt": prompt, "global_skip": global_skip}
    given = {key: value for key, value in told.items() if value is not None}
    config = None if CONFIG_TENSOR in tensors else _config_beside(Path(path), tensors, recorded)
    known = config is not None or CONFIG_TENSOR in tensors or window is not None
    try:
        if config is None:
            config = read_architecture(
                tensors, prompt=prompt, global_skip=global_skip, fingerprint=recorded
            )
        else:
            config = config.replace(**given)
        model = _build(_in_windows(config, window), tensors)
    except (BaseFormatError, ConfigError) as error:
        raise type(error)(f"{path}: {error}") from error
    if recorded is not None and not given and recorded != model.fingerprint:
        raise BaseFormatError(
            f"{path} was altered: it says fingerprint {recorded[:12]}, its values have "
            f"{model.fingerprint[:12]}"
        )
    if not known:
        _warn_of_window(f"Its config.json does not lie beside {path}. ")
    return model


def _config_beside(
    path: Path, tensors: Mapping[str, Tensor], recorded: str | None
) -> UCIPConfig | None:
    """The configuration in a base's folder, if it is that of these tensors."""
    beside = path.with_name("config.json")
    # Many programs keep a config.json, and a folder may hold the files of several networks.
    if not beside.is_file() or (recorded is None and path.name != "model.safetensors"):
        return None
    try:
        config = UCIPConfig.from_file(beside)
        if recorded is not None:
            return config if fingerprint_of(tensors, config) == recorded else None
        _build(config, tensors)
    except (BaseFormatError, ConfigError):
        return None
    return config


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
