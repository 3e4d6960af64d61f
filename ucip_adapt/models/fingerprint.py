"""The identity of a base network: one hash over everything that decides what it computes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

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
    """
    digest = hashlib.sha256(json.dumps(config.function_fields(), sort_keys=True).encode())
    for name in sorted(tensors):
        values = tensors[name].detach().to(device="cpu", dtype=torch.float32).contiguous()
        digest.update(f"{name} {list(values.shape)}".encode())
        digest.update(values.numpy().astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


class Fingerprinted(nn.Module):
    """Mixin for :class:`~ucip_adapt.models.UCIP`: an identity that survives casts and adapters.

    The value is kept together with the version counters of the base's tensors. PyTorch raises a
    counter when values change in place (an optimizer step, a merge, ``load_state_dict``) and not
    when a tensor is cast or moved, which is just the distinction needed: a trained base is another
    base.
    """

    config: UCIPConfig
    _fingerprint: tuple[str, tuple[int, ...]] | None = None
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
        """Hash of weights and function (:func:`fingerprint_of`), computed when first asked for."""
        tensors = self.base_tensors()
        versions = tuple(tensors[name]._version for name in sorted(tensors))
        if self._fingerprint is None or self._fingerprint[1] != versions:
            self._fingerprint = (fingerprint_of(tensors, self.config), versions)
        return self._fingerprint[0]
