"""Transforms of the second architecture: two strided convolutions in a row, blocks between them.

No separate block transform and no filter after it, unlike :mod:`.transforms`: everything passes
through residual bottleneck blocks at a quarter and an eighth of the side, as in ELIC, and the
strided convolutions overlap. They too start from cosines: a 4 x 4 transform, then the combination
of four of its blocks that makes an 8 x 8 one. The damage looks different, which is what a codec
held back as "unseen" is for.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ucip_adapt.codecs.learned.transforms import RateScale, dct_basis

__all__ = ["BottleneckBlock", "CascadeAnalysis", "CascadeSynthesis"]

_FULL = 48  # coefficients of a complete 4 x 4 transform of three colours


class BottleneckBlock(nn.Module):
    """1 x 1, 3 x 3, 1 x 1 beside a shortcut, the inner width half; starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 2
        self.squeeze = nn.Conv2d(channels, inner, 1)
        self.mix = nn.Conv2d(inner, inner, 3, padding=1)
        self.expand = nn.Conv2d(inner, channels, 1)
        nn.init.zeros_(self.expand.weight)
        nn.init.zeros_(self.expand.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to the same shape."""
        inner = F.leaky_relu(self.mix(F.leaky_relu(self.squeeze(x), 0.125)), 0.125)
        y: Tensor = x + self.expand(inner)
        return y


def _blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(BottleneckBlock(channels) for _ in range(count)))


def _start_filters(basis: Tensor) -> tuple[Tensor, Tensor]:
    """Filters of both strided convolutions that together are the 8 x 8 basis.

    Returns:
        The 4 x 4 filters, ``(48, 3, 4, 4)``, and their combination, ``(latents, 48, 2, 2)``.
    """
    small = dct_basis(4, 16, 16)
    quarters = basis.reshape(len(basis), 3, 2, 4, 2, 4)  # halves and places, rows then columns
    combination = torch.einsum("lcarbs,kcrs->lkab", quarters, small)
    return small, combination


class CascadeAnalysis(nn.Module):
    """Pixels to latents at an eighth of the side.

    Args:
        rates: Number of rates.
        basis: The block transform to start from, shape ``(latents, 3, 8, 8)``.
        width: Channels at a quarter, at least 48.
    """

    def __init__(self, rates: int, basis: Tensor, width: int) -> None:
        super().__init__()
        latents = len(basis)
        self.to_quarter = nn.Conv2d(3, width, 8, stride=4, padding=2)
        self.at_quarter = _blocks(width, 2)
        self.rate = RateScale(rates, width)
        self.to_eighth = nn.Conv2d(width, latents, 4, stride=2, padding=1)
        self.at_eighth = _blocks(latents, 2)
        small, combination = _start_filters(basis)
        with torch.no_grad():
            _put(self.to_quarter, small, inner=slice(2, 6), rows=slice(0, _FULL))
            _put(self.to_eighth, combination, inner=slice(1, 3), columns=slice(0, _FULL))

    def forward(self, x: Tensor, rate: Tensor) -> Tensor:
        """``(B, 3, 8h, 8w)`` in [-0.5, 0.5] to ``(B, latents, h, w)``."""
        x = self.rate(self.at_quarter(self.to_quarter(x)), rate)
        y: Tensor = self.at_eighth(self.to_eighth(x))
        return y


class CascadeSynthesis(nn.Module):
    """Latents to pixels, the mirror image of :class:`CascadeAnalysis`."""

    def __init__(self, rates: int, basis: Tensor, width: int) -> None:
        super().__init__()
        latents = len(basis)
        self.rate = RateScale(rates, latents)
        self.at_eighth = _blocks(latents, 3)
        self.to_quarter = nn.ConvTranspose2d(latents, width, 4, stride=2, padding=1)
        self.rate_quarter = RateScale(rates, width)
        self.at_quarter = nn.Sequential(*(FullBlock(width) for _ in range(3)))
        self.to_pixels = nn.ConvTranspose2d(width, 3, 8, stride=4, padding=2)
        small, combination = _start_filters(basis)
        with torch.no_grad():
            _put(self.to_quarter, combination, inner=slice(1, 3), columns=slice(0, _FULL))
            _put(self.to_pixels, small, inner=slice(2, 6), rows=slice(0, _FULL))

    def forward(self, y: Tensor, rate: Tensor) -> Tensor:
        """``(B, latents, h, w)`` to ``(B, 3, 8h, 8w)``, around [-0.5, 0.5], not clamped."""
        y = self.to_quarter(self.at_eighth(self.rate(y, rate)))
        x: Tensor = self.to_pixels(self.at_quarter(self.rate_quarter(y, rate)))
        return x


class FullBlock(nn.Module):
    """Two 3 x 3 convolutions, the first to half the width, beside a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels // 2, 3, padding=1)
        self.second = nn.Conv2d(channels // 2, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to the same shape."""
        y: Tensor = x + self.second(F.leaky_relu(self.first(x), 0.125))
        return y


def _put(
    layer: nn.Conv2d | nn.ConvTranspose2d,
    filters: Tensor,
    *,
    inner: slice,
    rows: slice = slice(None),
    columns: slice = slice(None),
) -> None:
    """Write filters into the middle of a layer's kernels; what surrounds them is faint noise."""
    layer.weight.mul_(0.05)
    layer.weight[rows, columns, inner, inner] = filters
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
