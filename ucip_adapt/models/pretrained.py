"""A base on disk: a folder of ``config.json``, ``model.safetensors`` and a card, as on the Hub."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ucip_adapt.assets import shipped_base_folder, shipped_bases
from ucip_adapt.atomic import replaced
from ucip_adapt.download import get_files
from ucip_adapt.errors import BaseFormatError, ConfigError
from ucip_adapt.formats import check_format_version
from ucip_adapt.models.fingerprint import fingerprint_of

if TYPE_CHECKING:
    from ucip_adapt.models.ucip import UCIP

__all__ = [
    "check_tensors",
    "load_weights",
    "locate_base",
    "read_safetensors",
    "save_weights",
]

_FORMAT_VERSION = "1.0"
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")


def locate_base(
    name: str,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    token: str | bool | None = None,
) -> Path:
    """Find the folder of a base: a shipped name, then a local folder, then a Hub repository.

    Args:
        name: What :meth:`UCIP.from_pretrained` was given.
        revision: Branch, tag or commit on the Hub.
        cache_dir: Folder of the Hub's cache.
        local_files_only: Never ask the network.
        force_download: Fetch again what the cache holds.
        token: Hub token.

    Returns:
        The folder.

    Raises:
        ConfigError: If the name is none of the three.
        BaseFormatError: If the Hub does not have it or cannot be reached.

    Example:
        >>> locate_base("ucip-tiny-v3").name
        'ucip-tiny-v3'
    """
    shipped = shipped_base_folder(name)
    if shipped is not None:
        return shipped
    if Path(name).is_dir():
        return Path(name)
    if not _HUB_ID.match(name):
        raise ConfigError(
            f"no base '{name}': it is not a folder, not of the form user/repository, and not one "
            f"of the shipped ones: {', '.join(shipped_bases())}"
        )
    return get_files(
        name,
        patterns=["config.json", "model.safetensors", "README.md", "LICENSE*"],
        error=BaseFormatError,
        instead=f"give a folder or a shipped base: {', '.join(shipped_bases())}",
        revision=revision,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        force_download=force_download,
        token=token,
    )


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file whole.

    Args:
        path: The file.

    Returns:
        Tensors on the CPU, and the file's metadata.

    Raises:
        BaseFormatError: If the file is missing or malformed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "a.safetensors")
        ...     save_file({"w": torch.ones(2)}, path, metadata={"by": "me"})
        ...     read_safetensors(path)
        ({'w': tensor([1., 1.])}, {'by': 'me'})
    """
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise BaseFormatError(f"cannot read {path}: {error}") from error


def load_weights(model: UCIP, path: Path) -> None:
    """Load a base's weights strictly: every tensor, no other, right shapes, finite, unaltered.

    Args:
        model: Network to fill; unchanged if an error is raised.
        path: ``model.safetensors``.

    Raises:
        BaseFormatError: With what is missing, surplus, mis-shaped, non-finite or altered.

    Example:
        >>> import tempfile
        >>> from ucip_adapt import UCIP, UCIPConfig
        >>> first, second = (UCIP(UCIPConfig.preset("nano")) for _ in range(2))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_weights(first, Path(folder))
        ...     load_weights(second, Path(folder, "model.safetensors"))
        >>> first.fingerprint == second.fingerprint
        True
    """
    tensors, metadata = read_safetensors(path)
    # Other programs write safetensors without our metadata; the tensors are checked all the same.
    version = metadata.get("format_version", _FORMAT_VERSION)
    check_format_version(version, _FORMAT_VERSION, what=str(path), error=BaseFormatError)
    check_tensors(model.base_tensors(), tensors, str(path), "config.json")
    recorded, found = metadata.get("fingerprint"), fingerprint_of(tensors, model.config)
    if recorded is not None and recorded != found:
        raise BaseFormatError(
            f"{path} was altered or its config.json was: it says fingerprint {recorded[:12]}, its "
            f"values have {found[:12]}"
        )
    with torch.no_grad():
        model.load_state_dict(tensors)


def check_tensors(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], source: str, wanted_by: str
) -> None:
    """Compare tensors with those that a network has.

    Args:
        expected: The network's own.
        found: Those to load.
        source: Where they come from, for messages.
        wanted_by: What of the source asks for the expected ones, for messages.

    Raises:
        BaseFormatError: With what is missing, surplus, mis-shaped or not finite.

    Example:
        >>> check_tensors({"w": torch.ones(2)}, {"w": torch.zeros(2)}, "a file", "sizes")
    """
    missing, surplus = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or surplus:
        raise BaseFormatError(
            f"{source} does not fit its {wanted_by}: {len(missing)} tensors missing {missing[:3]}, "
            f"{len(surplus)} unknown {surplus[:3]}"
        )
    for name, value in found.items():
        if value.shape != expected[name].shape:
            raise BaseFormatError(
                f"{source}: {name} has shape {tuple(value.shape)}, {wanted_by} asks for "
                f"{tuple(expected[name].shape)}"
            )
        if not torch.isfinite(value).all():
            raise BaseFormatError(f"{source}: {name} holds NaN or infinite values")


def save_weights(model: UCIP, folder: Path) -> None:
    """Write ``config.json`` and ``model.safetensors`` of a base, adapters left out.

    Each file is written beside its place and renamed, so that none is ever half written. The
    fingerprint in the file is that of the values written: of a cast base, those after the cast.

    Args:
        model: The network.
        folder: An existing folder.

    Raises:
        OSError: If a file cannot be written; an older one of its name is as it was.

    Example:
        >>> import tempfile
        >>> from ucip_adapt import UCIP, UCIPConfig
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_weights(UCIP(UCIPConfig.preset("nano")), Path(folder))
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['config.json', 'model.safetensors']
    """
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in model.base_tensors().items()
    }
    metadata = {
        "format": "pt",
        "format_version": _FORMAT_VERSION,
        "fingerprint": fingerprint_of(tensors, model.config),
    }
    config = json.dumps(model.config.to_dict(), indent=2) + "\n"
    # The Hub mixin has just deleted config.json: it comes first, as it fits even on a full disk.
    with replaced(folder / "config.json") as path:
        path.write_text(config, encoding="utf-8")
    with replaced(folder / "model.safetensors") as path:
        save_file(tensors, os.fspath(path), metadata=metadata)
