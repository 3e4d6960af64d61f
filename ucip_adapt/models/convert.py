"""The authors' checkpoint layout, read and written.

The authors published their research code with a layout of 1,066 tensors. It describes the same
function as :class:`~ucip_adapt.models.UCIP` with other names and a few more axes:

- ``atm_w`` moves tokens along W and is our ``horizontal``, ``atm_h`` moves along H and is our
  ``vertical``; both are 1 x 1 convolutions there, ``(C, C, 1, 1)``;
- the first half of the offsets is that of ``atm_w``, and the fusion's three weights per channel are
  in the order W, H, local: both are our order, so these tensors are kept as they are;
- basic prompts are ``(slots, D, 1, 1, C_p)``, six slots in the released network.

That network always reads slot 0 in evaluation, as ours does by default.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ucip_adapt.errors import BaseFormatError, ConfigError
from ucip_adapt.models.config import UCIPConfig
from ucip_adapt.models.ucip import UCIP

__all__ = [
    "authors_config",
    "convert_state_dict",
    "load_authors_checkpoint",
    "to_authors_state_dict",
]

# Ours, theirs; of the part of a name before ".weight" or ".bias". The first match counts.
_LAYER_PARTS = {
    "offset.norm": "offset_layer.0",
    "offset.linear": "offset_layer.1",
    "mixer.horizontal": "atm.atm_w",
    "mixer.vertical": "atm.atm_h",
    "mixer.local": "atm.atm_local",
    "mixer.fusion": "atm.fusion",
    "mixer.proj": "atm.proj",
    "spade.shared": "spade.mlp_shared.0",
    "spade.gamma": "spade.mlp_gamma",
    "spade.beta": "spade.mlp_beta",
}
_BLOCK_PARTS = {
    "prompt.basis": "prompts.{}.prompt",
    "prompt.coefficient": "prompts.{}.basis_mlp",
    "peg": "pos_blocks.{}.proj",
}
_OTHER_PARTS = {
    "embed": "patch_embed.proj",
    "head.conv_before_up": "conv_before_up.0",
    "head.": "",
}
_AXIS_MAP = re.compile(r"\.mixer\.(horizontal|vertical)\.weight$")
_WRAPPERS = ("params_ema", "params", "state_dict")


def _authors_name(ours: str) -> str:
    """Their name of one of our tensors.

    Example:
        >>> _authors_name("blocks.3.layers.4.mixer.horizontal.weight")
        'blocks.3.4.atm.atm_w.weight'
    """
    layer = re.match(r"blocks\.(\d+)\.layers\.(\d+)\.(.+)", ours)
    if layer:
        block, index, rest = layer.groups()
        return f"blocks.{block}.{index}.{_replace_start(rest, _LAYER_PARTS)}"
    block_part = re.match(r"blocks\.(\d+)\.(.+)", ours)
    if block_part:
        index, rest = block_part.groups()
        return _replace_start(rest, _BLOCK_PARTS).format(index)
    return _replace_start(ours, _OTHER_PARTS)


def _replace_start(name: str, table: Mapping[str, str]) -> str:
    for ours, theirs in table.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def authors_config(state: Mapping[str, Tensor]) -> UCIPConfig:
    """Read the architecture off the shapes of the authors' tensors.

    Args:
        state: Their state dict.

    Returns:
        The architecture; what shapes do not tell has the paper's values.

    Raises:
        BaseFormatError: If the tensors that tell are missing, or tell of no UCIP network.

    Example:
        >>> theirs = to_authors_state_dict(UCIP(UCIPConfig.preset("nano")).state_dict())
        >>> authors_config(theirs).embed_dim
        16
    """
    try:
        slots, prompts, *_, prompt_dim = state["prompts.0.prompt"].shape
        dim = state["patch_embed.proj.weight"].shape[0]
        return UCIPConfig(
            embed_dim=dim,
            prompt_dim=prompt_dim,
            num_blocks=_count(state, r"blocks\.(\d+)\."),
            num_layers=_count(state, r"blocks\.0\.(\d+)\."),
            mlp_ratio=state["blocks.0.0.mlp.fc1.weight"].shape[0] // dim,
            head_dim=state["conv_before_up.0.weight"].shape[0],
            num_prompts=prompts,
            num_slots=slots,
            share=2 * dim // state["blocks.0.0.offset_layer.1.weight"].shape[0],
        )
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        if isinstance(error, ConfigError):
            raise BaseFormatError(f"shapes of no UCIP network: {error}") from error
        raise BaseFormatError(
            f"not the authors' UCIP checkpoint: {len(state)} tensors, and cannot read {error}"
        ) from error


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return len({match[1] for name in state if (match := re.match(pattern, name))})


def convert_state_dict(authors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and reshape the authors' tensors into ours.

    Args:
        authors: Their state dict: 1,066 tensors of the released architecture, or of the same
            layout in other sizes. Weights of ``atm_h`` and ``atm_w`` may have two or four axes.

    Returns:
        Our state dict for ``UCIP(authors_config(authors))``; the values are not copied.

    Raises:
        BaseFormatError: If tensors are missing, unknown or of a wrong shape, each by name, or hold
            NaN or infinite values.

    Example:
        >>> model = UCIP(UCIPConfig.preset("nano"))
        >>> theirs = to_authors_state_dict(model.state_dict())
        >>> theirs["blocks.0.1.atm.atm_w.weight"].shape
        torch.Size([16, 16, 1, 1])
        >>> list(convert_state_dict(theirs)) == list(model.state_dict())
        True
    """
    with torch.random.fork_rng(devices=[]):  # its initial weights are nobody's business
        expected = UCIP(authors_config(authors)).state_dict()
    names = {_authors_name(ours): ours for ours in expected}
    missing, surplus = sorted(names.keys() - authors.keys()), sorted(authors.keys() - names.keys())
    if missing or surplus:
        raise BaseFormatError(
            f"not the authors' UCIP checkpoint: of {len(names)} tensors {len(missing)} are missing "
            f"{missing[:5]}, and {len(surplus)} are unknown {surplus[:5]}"
        )
    converted = {}
    for theirs, ours in names.items():
        value, shape = authors[theirs], expected[ours].shape
        allowed = {tuple(shape), tuple(_authors_shape(ours, shape))}
        if tuple(value.shape) not in allowed:
            raise BaseFormatError(
                f"{theirs} has shape {tuple(value.shape)}, expected "
                f"{' or '.join(str(option) for option in sorted(allowed, key=len))}"
            )
        if not torch.isfinite(value).all():
            raise BaseFormatError(f"{theirs} holds NaN or infinite values")
        converted[ours] = value.reshape(shape)
    return converted


def to_authors_state_dict(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename and reshape our tensors into the authors' layout: :func:`convert_state_dict` undone.

    Args:
        ours: State dict of a network that the layout can hold: dynamic prompts (or none), and the
            local branch.

    Returns:
        Tensors under the authors' names; the values are not copied.

    Example:
        >>> theirs = to_authors_state_dict(UCIP(UCIPConfig.preset("nano")).state_dict())
        >>> theirs["prompts.0.prompt"].shape
        torch.Size([1, 8, 1, 1, 8])
    """
    return {
        _authors_name(name): value.reshape(_authors_shape(name, value.shape))
        for name, value in ours.items()
    }


def _authors_shape(ours: str, shape: torch.Size) -> tuple[int, ...]:
    if _AXIS_MAP.search(ours):
        return (*shape, 1, 1)
    if ours.endswith(".prompt.basis"):
        slots, prompts, channels = shape
        return (slots, prompts, 1, 1, channels)
    return tuple(shape)


def load_authors_checkpoint(path: str | Path) -> UCIP:
    """Build the network of a checkpoint file that the authors' training script wrote.

    Args:
        path: A ``.pt`` or ``.pth`` file: a state dict, or one under ``params_ema``, ``params`` or
            ``state_dict`` (looked for in this order), with or without ``module.`` before each name.
            It is read without running any code in it.

    Returns:
        The network in evaluation mode. ``save_pretrained`` turns it into a base folder.

    Raises:
        BaseFormatError: If the file cannot be read, or is no such checkpoint.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from ucip_adapt.models import UCIP, UCIPConfig, to_authors_state_dict
        >>> network = UCIP(UCIPConfig.preset("nano", num_slots=6))
        >>> theirs = to_authors_state_dict(network.state_dict())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"params": theirs}, Path(folder, "net_g.pth"))
        ...     load_authors_checkpoint(Path(folder, "net_g.pth")).config.num_slots
        6
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise BaseFormatError(f"cannot read {path}: {error}") from error
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise BaseFormatError(f"{path} holds no state dict")
    state = {name.removeprefix("module."): value for name, value in content.items()}
    try:
        converted = convert_state_dict(state)
    except BaseFormatError as error:
        raise BaseFormatError(f"{path}: {error}") from error
    model = UCIP(authors_config(state))
    model.load_state_dict(converted)
    return model.eval()
