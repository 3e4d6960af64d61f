"""What turns pixels into latents and back, started from the discrete cosine transform.

From random weights a codec this small needs hours; started from the 8 x 8 transform that JPEG uses,
it is as good as JPEG before the first step and training only has to find what JPEG lacks.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Analysis", "RateScale", "ResidualBlock", "Synthesis", "dct_basis"]


class RateScale(nn.Module):
    """One scale and one shift per rate and channel: what a shared network knows of the rate."""

    def __init__(self, rates: int, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(rates, channels))
        self.shift = nn.Parameter(torch.zeros(rates, channels))

    def forward(self, x: Tensor, rate: Tensor) -> Tensor:
        """Scale and shift ``(B, C, H, W)`` by the rows ``rate``, shape ``(B,)``."""
        return x * self.scale[rate, :, None, None] + self.shift[rate, :, None, None]


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut; starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to the same shape."""
        y: Tensor = x + self.second(F.leaky_relu(self.first(x), 0.125))
        return y


def dct_basis(side: int, luma: int, chroma: int) -> Tensor:
    """Filters of a block transform in an orthonormal luma-chroma basis, lowest frequencies first.

    Args:
        side: Side of the block in pixels.
        luma: Filters on ``(R + G + B) / sqrt(3)``, at most ``side ** 2``.
        chroma: Filters on each of ``(R - B) / sqrt(2)`` and ``(R - 2 G + B) / sqrt(6)``.

    Returns:
        Shape ``(luma + 2 * chroma, 3, side, side)``; the filters are orthonormal, so that a squared
        error in latents is the same squared error in RGB. Ordered by frequency, the three colour
        axes together at each.

    Example:
        >>> basis = dct_basis(4, 16, 16).flatten(1)
        >>> bool(torch.allclose(basis @ basis.T, torch.eye(48), atol=1e-6))
        True
    """
    k = torch.arange(side, dtype=torch.float64)
    waves = torch.cos(math.pi * k[:, None] * (2 * k[None, :] + 1) / (2 * side))
    waves *= torch.sqrt(torch.where(k == 0, 1.0, 2.0) / side)[:, None]
    order = sorted(
        ((v, h) for v in range(side) for h in range(side)), key=lambda f: (f[0] + f[1], f[0])
    )
    axes = torch.tensor([[1, 1, 1], [1, 0, -1], [1, -2, 1]], dtype=torch.float64)
    axes /= axes.norm(dim=1, keepdim=True)
    filters = []
    for place, (v, h) in enumerate(order):
        block = waves[v][:, None] * waves[h][None, :]
        used = [place < luma, place < chroma, place < chroma]
        filters += [axis[:, None, None] * block for axis in axes[used]]
    return torch.stack(filters).float()


class Analysis(nn.Module):
    """Pixels to latents at an eighth of the side: a block transform plus a small network.

    Args:
        rates: Number of rates.
        basis: Filters of the block transform, shape ``(latents, 3, 8, 8)``.
        width: Channels of the network.
    """

    def __init__(self, rates: int, basis: Tensor, width: int) -> None:
        super().__init__()
        latents = len(basis)
        self.block = nn.Conv2d(3, latents, 8, stride=8, bias=False)
        with torch.no_grad():
            self.block.weight.copy_(basis)
        self.at_half = nn.Conv2d(3, width // 2, 5, stride=2, padding=2)
        self.at_quarter = nn.Conv2d(width // 2, width, 3, stride=2, padding=1)
        self.rate = RateScale(rates, width)
        self.residual = ResidualBlock(width)
        self.at_eighth = nn.Conv2d(width, latents, 3, stride=2, padding=1)
        nn.init.zeros_(self.at_eighth.weight)
        nn.init.zeros_(self.at_eighth.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, rate: Tensor) -> Tensor:
        """``(B, 3, 8h, 8w)`` in [-0.5, 0.5] to ``(B, latents, h, w)``."""
        features = F.leaky_relu(self.at_half(x), 0.125)
        features = self.rate(F.leaky_relu(self.at_quarter(features), 0.125), rate)
        y: Tensor = self.block(x) + self.at_eighth(self.residual(features))
        return y


class Synthesis(nn.Module):
    """Latents to pixels: the inverse block transform, a network beside it, a filter after both.

    The filter works on 2 x 2 pixels at a time: at full resolution it would cost more than all the
    rest.
    """

    def __init__(self, rates: int, basis: Tensor, width: int) -> None:
        super().__init__()
        latents, narrow = len(basis), width // 2
        self.block = nn.ConvTranspose2d(latents, 3, 8, stride=8, bias=False)
        with torch.no_grad():
            self.block.weight.copy_(basis)
        self.head = nn.Conv2d(latents, width, 3, padding=1)
        self.rate = RateScale(rates, width)
        self.at_eighth = ResidualBlock(width)
        self.to_quarter = nn.Conv2d(width, 4 * narrow, 3, padding=1)
        self.at_quarter = ResidualBlock(narrow)
        self.to_half = nn.Conv2d(narrow, 4 * narrow, 1)
        self.join = nn.Conv2d(narrow + 12, narrow, 3, padding=1)
        self.join_rate = RateScale(rates, narrow)
        self.at_half = ResidualBlock(narrow)
        self.out = nn.Conv2d(narrow, 12, 3, padding=1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, y: Tensor, rate: Tensor) -> Tensor:
        """``(B, latents, h, w)`` to ``(B, 3, 8h, 8w)``, around [-0.5, 0.5], not clamped."""
        plain = self.block(y)
        features = self.at_eighth(self.rate(F.leaky_relu(self.head(y), 0.125), rate))
        features = F.leaky_relu(F.pixel_shuffle(self.to_quarter(features), 2), 0.125)
        features = F.leaky_relu(F.pixel_shuffle(self.to_half(self.at_quarter(features)), 2), 0.125)
        joined = torch.cat([features, F.pixel_unshuffle(plain, 2)], dim=1)
        joined = self.at_half(self.join_rate(F.leaky_relu(self.join(joined), 0.125), rate))
        x: Tensor = plain + F.pixel_shuffle(self.out(joined), 2)
        return x
