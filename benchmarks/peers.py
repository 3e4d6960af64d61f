"""The networks that UCIP is compared with, at random weights, which do not change what they cost.

Swin2SR comes with transformers; SwinIR and RRDB (ESRGAN's network) from spandrel, which is
installed without its dependencies (``pip install --no-deps spandrel einops``): of torchvision it
imports three names, and stand-ins serve where torchvision is absent.
"""

from __future__ import annotations

import enum
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from common import importable
from torch import Tensor, nn

from ucip_adapt.models import UCIP, UCIPConfig
from ucip_adapt.models.sampling import Sampler


@contextmanager
def _stand_in_for_torchvision() -> Iterator[None]:
    """Let spandrel import where torchvision is absent; nothing of this is ever called."""
    if importable("torchvision"):
        yield
        return

    class InterpolationMode(enum.Enum):
        NEAREST = "nearest"
        BILINEAR = "bilinear"

    def absent(*_: object) -> None:
        raise NotImplementedError("torchvision is not installed")

    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    modules = [types.ModuleType(name) for name in names]
    functional = modules[-1]
    functional.InterpolationMode = InterpolationMode
    functional.rotate = functional.normalize = absent
    modules[0].transforms, modules[1].functional = modules[1], functional
    sys.modules.update(zip(names, modules, strict=True))
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]


class _Reconstruction(nn.Module):
    """Swin2SR with a tensor for an output."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, lq: Tensor) -> Tensor:
        sr: Tensor = self.network(lq).reconstruction
        return sr


def _swin2sr() -> nn.Module:
    from transformers import Swin2SRConfig, Swin2SRForImageSuperResolution

    config = Swin2SRConfig(upscale=4, embed_dim=180, depths=[6] * 6, num_heads=[6] * 6)
    return _Reconstruction(Swin2SRForImageSuperResolution(config))


def _swinir() -> nn.Module:
    with _stand_in_for_torchvision():
        from spandrel.architectures.SwinIR import SwinIR

    return SwinIR(
        upscale=4,
        img_size=64,
        window_size=8,
        depths=[6] * 6,
        embed_dim=180,
        num_heads=[6] * 6,
        mlp_ratio=2,
        upsampler="pixelshuffle",
        resi_connection="1conv",
    )


def _rrdb() -> nn.Module:
    with _stand_in_for_torchvision():
        from spandrel.architectures.ESRGAN import ESRGAN

    return ESRGAN(in_nc=3, out_nc=3, num_filters=64, num_blocks=23, scale=4)


def _ucip(preset: str, sampler: Sampler = "grid") -> Callable[[], nn.Module]:
    return lambda: UCIP(UCIPConfig.preset(preset, sampler=sampler))


PEERS: dict[str, Callable[[], nn.Module]] = {
    "UCIP full": _ucip("full"),
    "UCIP full, fused": _ucip("full", "fused"),
    "UCIP small": _ucip("small"),
    "UCIP tiny": _ucip("tiny"),
    "SwinIR": _swinir,
    "Swin2SR": _swin2sr,
    "RRDB": _rrdb,
}


def build(name: str) -> nn.Module:
    """A network in evaluation mode, always with the same random weights."""
    torch.manual_seed(0)
    return PEERS[name]().eval().requires_grad_(False)


def available() -> list[str]:
    """Names of the networks whose libraries are installed."""
    spandrel = importable("spandrel", "einops")
    return [name for name in PEERS if spandrel or name not in ("SwinIR", "RRDB")]
