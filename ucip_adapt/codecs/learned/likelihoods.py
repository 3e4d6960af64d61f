"""Bits of a symbol while training: smooth stand-ins for the tables of real streams."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["SCALE_COUNT", "LogisticMixture", "gaussian_bits", "scale_of"]

SCALE_COUNT = 40
"""Number of gaussian tables."""

_SMALLEST_SCALE, _LARGEST_SCALE = 0.11, 40.0
_LOG_RATIO = math.log(_LARGEST_SCALE / _SMALLEST_SCALE) / (SCALE_COUNT - 1)
_SMALLEST_PROBABILITY = 2.0**-24  # what the range coder can resolve


def scale_of(index: Tensor) -> Tensor:
    """Standard deviation, in steps, of a scale index; indices between two tables are allowed.

    Example:
        >>> scale_of(torch.tensor([0.0, 39.0]))
        tensor([ 0.1100, 40.0000])
    """
    return _SMALLEST_SCALE * torch.exp(index * _LOG_RATIO)


def index_of(scale: Tensor) -> Tensor:
    """The inverse of :func:`scale_of`."""
    return torch.log(scale / _SMALLEST_SCALE) / _LOG_RATIO


def gaussian_bits(values: Tensor, index: Tensor) -> Tensor:
    """Bits of values in steps around their mean, rounded to whole steps or with uniform noise.

    Args:
        values: ``(y - mean) / step``, any shape.
        index: Scale index of each, the same shape.

    Returns:
        Bits, the same shape.

    Example:
        >>> gaussian_bits(torch.tensor([0.0, 3.0]), torch.tensor([0.0, 0.0]))[0].item() < 1e-3
        True
    """
    scale = scale_of(index.clamp(-8, SCALE_COUNT + 8))
    distance = values.abs()
    upper = torch.special.ndtr((0.5 - distance) / scale)
    lower = torch.special.ndtr((-0.5 - distance) / scale)
    return -torch.log2((upper - lower).clamp_min(_SMALLEST_PROBABILITY))


class LogisticMixture(nn.Module):
    """Factorised prior of the side information: three logistics per rate and channel.

    Args:
        rates: Number of rates.
        channels: Channels of the side information.
    """

    def __init__(self, rates: int, channels: int) -> None:
        super().__init__()
        shape = (rates, channels, 3)
        self.weight = nn.Parameter(torch.zeros(shape))
        self.mean = nn.Parameter(torch.tensor([-1.0, 0.0, 1.0]).expand(shape).clone())
        self.log_scale = nn.Parameter(torch.zeros(shape))

    def probability(self, values: Tensor, rate: Tensor) -> Tensor:
        """Probability of the unit interval around each value.

        Args:
            values: Shape ``(B, channels, H, W)``.
            rate: Row of each image, shape ``(B,)``.

        Returns:
            The same shape as ``values``.
        """
        x = values[..., None]  # (B, C, H, W, 1)
        weight = self.weight[rate].softmax(-1)[:, :, None, None]
        mean = self.mean[rate][:, :, None, None]
        scale = self.log_scale[rate].exp()[:, :, None, None]
        # On the far side of the mean both terms are near 1 and their difference would be lost.
        sign = torch.where(x > mean, -1.0, 1.0)
        upper = torch.sigmoid(sign * (x + 0.5 - mean) / scale)
        lower = torch.sigmoid(sign * (x - 0.5 - mean) / scale)
        return (weight * (upper - lower).abs()).sum(-1)

    def bits(self, values: Tensor, rate: Tensor) -> Tensor:
        """Bits of each value; shapes as in :meth:`probability`."""
        return -torch.log2(self.probability(values, rate).clamp_min(_SMALLEST_PROBABILITY))
