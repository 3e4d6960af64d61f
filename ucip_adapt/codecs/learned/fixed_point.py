"""Convolutions whose results do not depend on the machine: fixed point held in float64.

A range decoder needs the very probabilities that the encoder had. Two machines, or two thread
counts, add up a float convolution in different orders and end with different last bits; one symbol
later the streams are out of step and the rest is noise. Here weights and activations are multiples
of 2**-12, of at most 32 and 1024. A product is then a multiple of 2**-24 below 2**15, and a float64
holds every sum of 16,384 of them **exactly**, in any order, fused or not. After each layer the
result is rounded to 2**-12 again, by exact operations too.

The same modules train in float32 without any of this: the type of the input decides.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["FRACTION_BITS", "SnapConv2d", "exact_copy", "leaky", "snap"]

FRACTION_BITS = 12
"""Binary digits after the point of every weight, activation and step size."""

_LARGEST_ACTIVATION = 1024.0
_LARGEST_WEIGHT = 32.0
_LARGEST_FAN_IN = 2**14
_SLOPE = 0.125  # a power of two: the product is exact

M = TypeVar("M", bound=nn.Module)


def snap(values: Tensor) -> Tensor:
    """Round to the nearest multiple of 2**-12, halves upwards, within plus and minus 1024.

    Args:
        values: Any shape; float64 for an exact result.

    Returns:
        The same shape and type.

    Example:
        >>> snap(torch.tensor([0.1], dtype=torch.float64)).item() * 4096
        410.0
    """
    unit = float(2**FRACTION_BITS)
    rounded = torch.floor(values * unit + 0.5) / unit
    return rounded.clamp(-_LARGEST_ACTIVATION, _LARGEST_ACTIVATION)


class SnapConv2d(nn.Conv2d):
    """A convolution that keeps the size and, in float64, is exact fixed point."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3) -> None:
        if inputs * kernel * kernel + 1 > _LARGEST_FAN_IN:
            raise ValueError(f"{inputs} inputs and a kernel of {kernel} overflow exact sums")
        super().__init__(inputs, outputs, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``(B, inputs, H, W)``; float64 inputs are multiples of 2**-12."""
        y = super().forward(x)
        return snap(y) if x.dtype == torch.float64 else y


def leaky(x: Tensor) -> Tensor:
    """Leaky ReLU of slope 1/8; exact in float64."""
    y = F.leaky_relu(x, _SLOPE)
    return snap(y) if x.dtype == torch.float64 else y


def exact_copy(module: M) -> M:
    """Copy a trained module for coding: float64, every parameter a multiple of 2**-12.

    Args:
        module: Built from :class:`SnapConv2d` and :func:`leaky`.

    Returns:
        The copy, in evaluation mode, without gradients.

    Example:
        >>> net = exact_copy(SnapConv2d(1, 1))
        >>> bool((net.weight * 4096 == (net.weight * 4096).round()).all())
        True
    """
    copied = copy.deepcopy(module).double().eval().requires_grad_(False)
    for parameter in copied.parameters():
        parameter.copy_(snap(parameter).clamp(-_LARGEST_WEIGHT, _LARGEST_WEIGHT))
    return copied
