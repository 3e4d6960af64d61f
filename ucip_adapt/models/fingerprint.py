"""The identity of a base network: one hash over everything that decides what it computes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import NamedTuple, Self, cast

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


class _Cast(NamedTuple):
    """A base whose values were cast: what it was before, and the hash of its values since."""

    identity: str
    content: str


class Fingerprinted(nn.Module):
    """Mixin for :class:`~ucip_adapt.models.UCIP`: an identity that survives casts and adapters.

    The values are hashed at each request, so that no way of changing them is missed: a trained or
    merged base is another base. Casting the network (``half()``, ``to(dtype)``) notes the hash of
    the cast values, which keep the identity as long as nothing else changes them; so do copies.

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
    _cast: _Cast | None = None
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
        return self._identity_of(self.base_tensors(), self.config)

    def _identity_of(self, tensors: Mapping[str, Tensor], config: UCIPConfig) -> str:
        """What :attr:`fingerprint` would be with these tensors and this configuration."""
        content = fingerprint_of(tensors, config)
        if self._cast is not None and content == self._cast.content:
            return self._cast.identity
        return content

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What all casts and moves of a module go through, those of modules around it too."""
        tensors = self.base_tensors()
        if any(value.is_meta for value in tensors.values()):
            return self._applied(fn, recurse)  # there are no values yet
        identity, dtypes = self.fingerprint, [value.dtype for value in tensors.values()]
        applied = self._applied(fn, recurse)
        tensors = self.base_tensors()
        if [value.dtype for value in tensors.values()] != dtypes:
            self._cast = _Cast(identity, fingerprint_of(tensors, self.config))
        return applied

    def _applied(self, fn: Callable[[Tensor], Tensor], recurse: bool) -> Self:
        return cast(Self, super()._apply(fn, recurse))  # type: ignore[no-untyped-call]
