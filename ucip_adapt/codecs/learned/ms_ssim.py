"""Multi-scale structural similarity with three scales, so that small images have it too."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["SCALE_WEIGHTS", "SMALLEST_SIDE", "ms_ssim", "ssim_terms"]

_WINDOW = 11
_SIGMA = 1.5

_PUBLISHED = (0.0448, 0.2856, 0.3001)  # the first three of five (Wang et al., Asilomar 2003)
SCALE_WEIGHTS = tuple(weight / math.fsum(_PUBLISHED) for weight in _PUBLISHED)
"""Exponents of the scales, finest first: the published ones, made to sum to 1."""

SMALLEST_SIDE = _WINDOW * 2 ** (len(SCALE_WEIGHTS) - 1)
"""Pixels that each side needs at least; five scales would need 176."""


def ms_ssim(preds: Tensor, target: Tensor, *, data_range: float) -> Tensor:
    """MS-SSIM of each image over three scales, with gradients.

    Contrast and structure at the two finer scales, the whole SSIM at the coarsest; means over
    pixels first, then over channels. Between scales, 2 x 2 pixels become their mean.

    Args:
        preds: Decoded images, shape ``(B, C, H, W)``, values in ``[0, data_range]``.
        target: Originals, the same shape and range.
        data_range: 1.0 for float images, 255.0 for 8-bit levels.

    Returns:
        Shape ``(B,)``; 1 where the two are equal.

    Raises:
        ValueError: If the shapes differ or a side is under :data:`SMALLEST_SIDE` pixels.

    Example:
        >>> image = torch.rand(2, 3, 44, 60)
        >>> ms_ssim(image, image, data_range=1.0)
        tensor([1., 1.])
    """
    if preds.shape != target.shape or preds.ndim != 4:
        raise ValueError(f"preds {tuple(preds.shape)} and target {tuple(target.shape)} differ")
    if min(preds.shape[-2:]) < SMALLEST_SIDE:
        raise ValueError(
            f"MS-SSIM over {len(SCALE_WEIGHTS)} scales needs sides of {SMALLEST_SIDE} pixels, "
            f"got {tuple(preds.shape[-2:])}"
        )
    product = torch.ones_like(preds[:, :, 0, 0])
    for scale, weight in enumerate(SCALE_WEIGHTS):
        if scale:
            preds, target = F.avg_pool2d(preds, 2), F.avg_pool2d(target, 2)
        whole, structure = ssim_terms(preds, target, data_range=data_range)
        term = whole if scale == len(SCALE_WEIGHTS) - 1 else structure
        # A power of a negative number is none, and its gradient at 0 would be infinite.
        product = product * term.clamp_min(1e-4) ** weight
    return product.mean(dim=1)


def ssim_terms(preds: Tensor, target: Tensor, *, data_range: float) -> tuple[Tensor, Tensor]:
    """SSIM and its contrast-structure part at one scale, means over pixels.

    Args:
        preds: Shape ``(B, C, H, W)``.
        target: The same shape.
        data_range: 1.0 for float images, 255.0 for 8-bit levels.

    Returns:
        Both of shape ``(B, C)``.
    """
    channels = preds.shape[1]
    offsets = torch.arange(_WINDOW, dtype=preds.dtype, device=preds.device) - _WINDOW // 2
    taps = torch.exp(-0.5 * (offsets / _SIGMA) ** 2)
    taps = (taps / taps.sum()).expand(5 * channels, 1, 1, -1)
    # Around the middle, or float32 loses the variance in the difference of two squares.
    x, y = preds - data_range / 2, target - data_range / 2
    maps = torch.cat([x, y, x * x, y * y, x * y], dim=1)
    maps = F.conv2d(maps, taps, groups=5 * channels)
    maps = F.conv2d(maps, taps.transpose(2, 3), groups=5 * channels)
    mean_x, mean_y, square_x, square_y, product = maps.chunk(5, dim=1)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    variance = square_x - mean_x**2 + square_y - mean_y**2
    structure = (2 * (product - mean_x * mean_y) + c2) / (variance + c2)
    mean_x, mean_y = mean_x + data_range / 2, mean_y + data_range / 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return (luminance * structure).mean(dim=(2, 3)), structure.mean(dim=(2, 3))
