"""Checks on an adapter's tensors, made before any of them reaches a model."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ucip_adapt.digests import sha256_of
from ucip_adapt.errors import AdapterError, AdapterKeyError, AdapterShapeError, AdapterValueError
from ucip_adapt.tuning.config import DynamicPromptConfig

__all__ = ["KEY_PREFIX", "check_file", "check_tensors", "read_tensors"]

KEY_PREFIX = "base_model.model."
"""What PEFT puts before the names of a network's modules in an adapter's file."""

# First bytes of files that often lie where weights should be.
_LOOKALIKES = (
    (b"version https://git-lfs", "a Git LFS pointer; run `git lfs pull`"),
    (b"<", "a web page, not the file behind it; download it again"),
    (b"PK\x03\x04", "a zip archive or a PyTorch file, which is not read: it could run code"),
    (b"\x80", "a pickle, which is not read: it could run code"),
)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file whole, onto the CPU.

    Raises:
        AdapterError: If the file is missing or malformed, or names a tensor twice; a few usual
            mix-ups are recognised.
    """
    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        _refuse_double_names(path)
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        raise AdapterError(
            f"cannot read {path}: {error}. {_hint(path)}Get the adapter again"
        ) from error
    return tensors


def _refuse_double_names(path: Path) -> None:
    """Of two entries of one name the library would take the last, and say nothing."""

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        counts = Counter(name for name, _ in pairs)
        double = [name for name, count in counts.items() if count > 1]
        if double:
            raise ValueError(f"its header names {double[0][:80]!r} twice")
        return dict(pairs)

    with path.open("rb") as file:
        header = file.read(int.from_bytes(file.read(8), "little"))
    json.loads(header, object_pairs_hook=unique)


def _hint(path: Path) -> str:
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError:
        return ""
    if not start:
        return "The file is empty. "
    # A safetensors file begins with its header's length in 8 bytes, which is never near 2^24: where
    # the upper ones are zero, a first byte such as "<" is a part of that number.
    is_length = start[3:8] == bytes(5)
    for signature, meaning in () if is_length else _LOOKALIKES:
        if start.lstrip().startswith(signature):
            return f"It is {meaning}. "
    return "The file is damaged or incomplete. "


def check_tensors(
    found: Mapping[str, Tensor],
    expected: Mapping[str, torch.Size],
    *,
    source: str,
    config: DynamicPromptConfig,
) -> dict[str, Tensor]:
    """Compare an adapter's tensors with what its place in the model asks for.

    Args:
        found: Tensors by name, with or without PEFT's prefix.
        expected: Shapes by name without prefix.
        source: File or argument that the tensors come from, for messages.
        config: The adapter's configuration, for messages.

    Returns:
        The tensors, names without prefix.

    Raises:
        AdapterKeyError: If names are missing, unknown or double.
        AdapterShapeError: If a shape differs.
        AdapterValueError: If a tensor is not of floating point or holds NaN or infinite values.
    """
    tensors = {name.removeprefix(KEY_PREFIX): value for name, value in found.items()}
    missing, unknown = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    if missing or unknown or len(tensors) != len(found):
        raise AdapterKeyError(
            f"{source} holds {len(found)} tensors, of which {len(unknown)} have no place in the "
            f"model{_some(unknown)}; {len(missing)} of the {len(expected)} expected ones are "
            f"missing{_some(missing)}. An adapter with trainable_set '{config.trainable_set}' on "
            f"trainable_blocks '{config.trainable_blocks}' must hold exactly its own tensors: get "
            "the adapter again, or save it again from the model it was trained in"
        )
    for name, value in tensors.items():
        if value.shape != expected[name]:
            raise AdapterShapeError(
                f"{source}: {name} has shape {tuple(value.shape)}, expected "
                f"{tuple(expected[name])} in this base; get the adapter again, or load it on the "
                "base that it was trained on"
            )
    for name, value in tensors.items():
        if not value.dtype.is_floating_point:
            raise AdapterValueError(
                f"{source}: {name} has type {value.dtype}, expected floating point; get the "
                "adapter again"
            )
        wrong = value.numel() - int(torch.isfinite(value.float()).sum())
        if wrong:
            raise AdapterValueError(
                f"{source}: {wrong} of {value.numel()} values of {name} are NaN or infinite, "
                "expected none; the adapter's training failed or its file is damaged: get it "
                "again or train it again at a lower learning rate"
            )
    return tensors


def _some(names: list[str]) -> str:
    return f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""


def check_file(
    path: Path, expected: Mapping[str, torch.Size], *, config: DynamicPromptConfig
) -> None:
    """Check a file of weights against the model's places and its own recorded hash.

    Raises:
        AdapterError: One of the kinds of :func:`read_tensors` and :func:`check_tensors`, or the
            general one if only the hash differs.
    """
    check_tensors(read_tensors(path), expected, source=str(path), config=config)
    if config.weights_sha256 is not None:
        digest = sha256_of(path)
        if digest != config.weights_sha256:
            raise AdapterError(
                f"{path} was altered after it was saved: its sha256 is {digest[:12]}..., the "
                f"configuration beside it says {config.weights_sha256[:12]}...; get the adapter "
                "again (if you changed the file on purpose, take weights_sha256 out of "
                "adapter_config.json)"
            )
