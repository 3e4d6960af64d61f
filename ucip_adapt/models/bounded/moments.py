"""Means and variances over a whole image, gathered strip by strip."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Means", "Moments"]


class Means:
    """Mean of each channel over all strips given so far, added up in float64.

    Example:
        >>> means = Means()
        >>> means.add(torch.tensor([[[[1.0], [2.0]]]]))
        >>> means.add(torch.tensor([[[[6.0]]]]))
        >>> float(means.mean)
        3.0
    """

    def __init__(self) -> None:
        self._count = 0
        self._sum: Tensor | float = 0.0

    def add(self, strip: Tensor) -> None:
        """Take in a strip ``(1, h, w, C)``; every pixel counts once."""
        count = strip.shape[1] * strip.shape[2]
        self._count += count
        self._sum = self._sum + strip.mean(dim=(0, 1, 2)).double() * count

    @property
    def mean(self) -> Tensor:
        """Mean of each channel, shape ``(C,)``, float64."""
        return torch.as_tensor(self._sum) / self._count


class Moments:
    """Mean and variance of each channel over all strips given so far.

    Strips are merged in float64 by the formula of Chan, Golub and LeVeque (1979), so that nothing
    is lost where the mean is large against the deviation.

    Example:
        >>> moments = Moments()
        >>> moments.add(torch.tensor([[[[1.0], [2.0]]]]))
        >>> moments.add(torch.tensor([[[[6.0]]]]))
        >>> float(moments.mean), float(moments.variance)
        (3.0, 4.666666666666667)
    """

    def __init__(self) -> None:
        self._count = 0
        self._mean: Tensor | float = 0.0
        self._deviation: Tensor | float = 0.0  # sum of squared distances from the mean

    def add(self, strip: Tensor) -> None:
        """Take in a strip ``(1, h, w, C)``; every pixel counts once."""
        # torch.var_mean over all axes but the last takes ten times as long on a CPU.
        mean = strip.mean(dim=(0, 1, 2))
        deviation = (strip - mean).square_().sum(dim=(0, 1, 2)).double()
        count = strip.shape[1] * strip.shape[2]
        total = self._count + count
        step = mean.double() - self._mean
        self._mean = self._mean + step * (count / total)
        self._deviation = self._deviation + deviation + step**2 * (self._count * count / total)
        self._count = total

    @property
    def mean(self) -> Tensor:
        """Mean of each channel, shape ``(C,)``, float64."""
        return torch.as_tensor(self._mean)

    @property
    def variance(self) -> Tensor:
        """Population variance of each channel, shape ``(C,)``, float64."""
        return torch.as_tensor(self._deviation) / self._count
