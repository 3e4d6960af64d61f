"""The identity of a base network: one hash over everything that decides what it computes."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

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
    change in place, are the same. A copy has what it was copied from. A trained or merged base is
    another base.

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
        content = fingerprint_of(self.base_tensors(), self.config)
        dtypes, versions = self._dtypes(), self._versions()
        identity = content
        if self._seen is not None:
            cast = dtypes != self._seen.dtypes and versions == self._seen.versions
            if cast or content == self._seen.content:
                identity = self._seen.identity
        self._seen = _Seen(identity, content, dtypes, versions)
        return identity

    def remember_fingerprint(self, content: str) -> None:
        """Note :func:`fingerprint_of` the values as they are now, which a caller has just asked."""
        self._seen = _Seen(content, content, self._dtypes(), self._versions())

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Copy as any object is copied; the copied tensors are known for those they come from."""
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        if self._seen is not None and self._seen.versions == self._versions():
            copied._seen = self._seen._replace(versions=copied._versions())
        return copied

    def _dtypes(self) -> tuple[torch.dtype, ...]:
        return tuple(value.dtype for _, value in sorted(self.base_tensors().items()))

    def _versions(self) -> tuple[tuple[int, int], ...]:
        """Identity and version counter of each tensor, in the order of names."""
        ordered = sorted(self.base_tensors().items())
        return tuple((id(value), value._version) for _, value in ordered)
