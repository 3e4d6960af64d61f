"""The identity of a base network: one hash over everything that decides what it computes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ucip_adapt.models.config import UCIPConfig

__all__ = ["Fingerprinted", "fingerprint_of"]


def fingerprint_of(tensors: Mapping[str, Tensor], config: UCIPConfig) -> str:
    """Hash a base's weights and the configuration fields that change its function.

    Args:
        tensors: State dict under the network's own names.
        config: Its configuration.

    Returns:
        64 hexadecimal digits: sha256 over name, shape and values (little-endian float32) of every
        tensor in the order of names, and over :meth:`UCIPConfig.function_fields`. The dtype that
        values are stored in does not matter.

    Example:
        >>> config = UCIPConfig.preset("nano")
        >>> double = fingerprint_of({"w": torch.ones(2, dtype=torch.float64)}, config)
        >>> double == fingerprint_of({"w": torch.ones(2)}, config)
        True
    """
    digest = hashlib.sha256(json.dumps(config.function_fields(), sort_keys=True).encode())
    for name in sorted(tensors):
        values = tensors[name].detach().to(device="cpu", dtype=torch.float32).contiguous()
        digest.update(f"{name} {list(values.shape)}".encode())
        digest.update(values.numpy().astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


class _Seen(NamedTuple):
    """What the base looked like when its identity was last asked for."""

    identity: str
    content: str
    dtypes: tuple[torch.dtype, ...]
    versions: tuple[tuple[int, int], ...]


class Fingerprinted(nn.Module):
    """Mixin for :class:`~ucip_adapt.models.UCIP`: an identity that survives casts and adapters.

    The values are hashed at each request, so that no way of changing them is missed. Values that
    differ from the last request only because the tensors were cast keep the identity: the dtypes
    are others then, while the tensors and their version counters, which PyTorch raises with every
    change in place, are the same. A trained or merged base is another base.

    Example:
        >>> from ucip_adapt import UCIP
        >>> base = UCIP(UCIPConfig.preset("nano"))
        >>> before = base.fingerprint
        >>> base.half().fingerprint == before
        True
        >>> with torch.no_grad():
        ...     _ = base.norm.bias.add_(1)
        >>> base.fingerprint == before
        False
    """

    config: UCIPConfig
    _seen: _Seen | None = None
    _base_keys: frozenset[str] | None = None

    def base_tensors(self) -> dict[str, Tensor]:
        """The base's own tensors under their own names, whatever PEFT has wrapped around them."""
        tensors = {}
        for name, value in self.state_dict(keep_vars=True).items():
            plain = name.replace(".base_layer.", ".").replace(".original_module.", ".")
            if self._base_keys is None or plain in self._base_keys:
                tensors[plain] = value
        return tensors

    def remember_base_keys(self) -> None:
        """Note which tensors are the base's; called once, when the bare network has been built."""
        self._base_keys = frozenset(self.base_tensors())

    @property
    def fingerprint(self) -> str:
        """Identity of weights and function: :func:`fingerprint_of` before any cast."""
        tensors = self.base_tensors()
        ordered = [tensors[name] for name in sorted(tensors)]
        content = fingerprint_of(tensors, self.config)
        dtypes = tuple(value.dtype for value in ordered)
        versions = tuple((id(value), value._version) for value in ordered)
        identity = content
        if self._seen is not None:
            cast = dtypes != self._seen.dtypes and versions == self._seen.versions
            if cast or content == self._seen.content:
                identity = self._seen.identity
        self._seen = _Seen(identity, content, dtypes, versions)
        return identity
