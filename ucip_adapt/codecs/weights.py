"""Weights of large learned codecs: a user's folder or Hub repository, never fetched unasked."""

from __future__ import annotations

import functools
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ucip_adapt.errors import CodecError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SUFFIXES", "find_weights", "read_state_dict"]

SUFFIXES = (".safetensors", ".pth.tar", ".pth", ".pt")
"""Endings of weight files; where several fit, the first in this order counts."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_WRAPPERS = ("model_state_dict", "state_dict", "params")


def find_weights(source: str, stems: Mapping[int, tuple[str, ...]]) -> dict[int, Path]:
    """Find one weight file per quality in a folder or a Hub repository.

    Args:
        source: A folder, or the id of a Hub repository (``user/name``), which is downloaded on
            first use and kept in the Hub's own cache.
        stems: File names without suffix that are looked for, by quality.

    Returns:
        The file of each quality.

    Raises:
        CodecError: If the folder or repository is not there, or lacks a quality.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "1.pth").touch()
        ...     find_weights(folder, {1: ("1",)})[1].name
        '1.pth'
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        if not _HUB_ID.fullmatch(source):
            raise CodecError(f"there is no folder '{source}'")
        folder = _download(source, tuple(name for names in stems.values() for name in names))
    found: dict[int, Path] = {}
    missing = []
    for quality, names in stems.items():
        files = [folder / f"{name}{suffix}" for suffix in SUFFIXES for name in names]
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            missing.append(f"{quality} ({' or '.join(names)})")
        else:
            found[quality] = file
    if missing:
        raise CodecError(
            f"'{source}' lacks weights for quality {', '.join(missing)}; "
            f"files end in {', '.join(SUFFIXES)}"
        )
    return found


@functools.cache
def _download(repo_id: str, names: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download

    patterns = [f"{name}{suffix}" for name in names for suffix in SUFFIXES]
    try:
        return Path(snapshot_download(repo_id, allow_patterns=patterns))
    except Exception as error:  # the Hub's own errors, and those of requests and sockets below
        first_line = str(error).strip().partition("\n")[0]
        raise CodecError(
            f"'{repo_id}' is no folder, and no Hub repository that can be reached: {first_line}"
        ) from error


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read tensors from a safetensors file or a PyTorch checkpoint, running no code in it.

    Args:
        path: The file. A checkpoint may hold the tensors themselves or have them under
            ``model_state_dict``, ``state_dict`` or ``params``, with or without ``module.`` before
            each name.

    Returns:
        Tensors by name, on the CPU.

    Raises:
        CodecError: If the file is damaged, is no such file, or holds NaN or infinite values.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    content: Any
    try:
        if path.suffix == ".safetensors":
            content = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CodecError(
            f"{path} holds more than tensors and was not opened, for it could run code: {error}. "
            "Save its state dict alone (safetensors.torch.save_file) where you trust it"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, SafetensorError) as error:
        raise CodecError(f"cannot read the weights {path}: {error}") from error
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping) or not content:
        raise CodecError(f"{path} holds no state dict")
    state: dict[str, Tensor] = {}
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise CodecError(f"{path} holds no state dict: '{name}' is no tensor")
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise CodecError(f"{path}: {name} holds NaN or infinite values")
        state[name.removeprefix("module.")] = value
    return state
