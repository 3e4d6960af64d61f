"""Luma, PSNR and SSIM as functions of tensors; range and border are always said by the caller.

Everything is computed in float64, whatever the inputs are: in float32 the variances inside SSIM are
differences of large, nearly equal numbers, and 8-bit inputs would wrap around when subtracted.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["SSIM_WINDOW", "psnr", "rgb_to_y", "ssim"]

SSIM_WINDOW = 11
"""Side of the gaussian window of :func:`ssim`, in pixels."""

_SSIM_SIGMA = 1.5
_SSIM_K1 = 0.01
_SSIM_K2 = 0.03

# ITU-R BT.601, studio range: black is 16 and white 235 on the scale of 8-bit levels.
_Y_WEIGHTS = (65.481, 128.553, 24.966)
_Y_OFFSET = 16.0


def rgb_to_y(images: Tensor, *, data_range: float) -> Tensor:
    r"""Luma of RGB images after BT.601, studio range, not rounded (MATLAB's ``rgb2ycbcr``).

    On 8-bit levels ``Y = 16 + (65.481 R + 128.553 G + 24.966 B) / 255``, so Y runs from 16 to 235.
    The scale of the images is kept: with ``data_range=1.0`` Y runs from 16/255 to 235/255.

    Args:
        images: RGB images, shape ``(B, 3, H, W)``, values in ``[0, data_range]``; any real dtype.
        data_range: 1.0 for float images, 255.0 for 8-bit levels.

    Returns:
        Shape ``(B, 1, H, W)``, float64.

    Raises:
        ValueError: If the shape is not ``(B, 3, H, W)`` or ``data_range`` is not a positive number.

    Example:
        >>> white = torch.full((1, 3, 1, 1), 255, dtype=torch.uint8)
        >>> round(rgb_to_y(white, data_range=255.0).item(), 6)
        235.0
    """
    _check_data_range(data_range)
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must have shape (B, 3, H, W), not {tuple(images.shape)}")
    weights = torch.tensor(_Y_WEIGHTS, dtype=torch.float64, device=images.device) / 255.0
    luma = (images.double() * weights.view(1, 3, 1, 1)).sum(dim=1, keepdim=True)  # (B, 1, H, W)
    return luma + _Y_OFFSET / 255.0 * data_range


def psnr(preds: Tensor, target: Tensor, *, data_range: float, crop_border: int = 0) -> Tensor:
    r"""Peak signal-to-noise ratio of each image, in dB.

    The squared error is averaged over all channels and pixels of an image before the
    logarithm is taken.

    Args:
        preds: Restored images, shape ``(B, C, H, W)``, values in ``[0, data_range]``.
        target: Ground truth, same shape and range as ``preds``.
        data_range: 1.0 for float images, 255.0 for 8-bit levels.
        crop_border: Pixels ignored along each edge.

    Returns:
        Shape ``(B,)``, float64; ``inf`` where the two images are equal.

    Raises:
        ValueError: If the shapes differ, the crop leaves no pixel or ``data_range`` is not a
            positive number.

    Example:
        >>> target = torch.zeros(1, 3, 8, 8)
        >>> psnr(target + 0.1, target, data_range=1.0)
        tensor([20.0000], dtype=torch.float64)
    """
    preds, target = _prepare(preds, target, data_range=data_range, crop_border=crop_border)
    mean_squared_error = (preds - target).square().mean(dim=(1, 2, 3))  # (B,)
    return 10.0 * torch.log10(data_range * data_range / mean_squared_error)


def ssim(preds: Tensor, target: Tensor, *, data_range: float, crop_border: int = 0) -> Tensor:
    r"""Structural similarity of each image (Wang et al., IEEE TIP 13(4), 2004).

    The window is an 11 x 11 gaussian of standard deviation 1.5 that lies wholly inside the image
    (valid region), K1 = 0.01, K2 = 0.03, and the variances are those of the population (weights
    that sum to 1, no ``n - 1``), as in the authors' MATLAB code. Unlike that code it never shrinks
    large images first. The map is averaged over pixels and channels.

    Args:
        preds: Restored images, shape ``(B, C, H, W)``, values in ``[0, data_range]``.
        target: Ground truth, same shape and range as ``preds``.
        data_range: 1.0 for float images, 255.0 for 8-bit levels.
        crop_border: Pixels ignored along each edge.

    Returns:
        Shape ``(B,)``, float64, in ``[-1, 1]``; 1 where the two images are equal.

    Raises:
        ValueError: If the shapes differ, less than 11 x 11 pixels are left after the crop, or
            ``data_range`` is not a positive number.

    Example:
        >>> target = torch.rand(2, 1, 16, 16)
        >>> ssim(target, target, data_range=1.0)
        tensor([1., 1.], dtype=torch.float64)
    """
    preds, target = _prepare(preds, target, data_range=data_range, crop_border=crop_border)
    height, width = preds.shape[-2:]
    if min(height, width) < SSIM_WINDOW:
        raise ValueError(
            f"SSIM needs at least {SSIM_WINDOW} x {SSIM_WINDOW} pixels; "
            f"crop_border={crop_border} leaves {height} x {width} (height x width)"
        )
    maps = torch.stack([preds, target, preds * preds, target * target, preds * target])
    mean_p, mean_t, square_p, square_t, product = _gaussian_mean(maps)  # each (B, C, H-10, W-10)

    c1, c2 = (_SSIM_K1 * data_range) ** 2, (_SSIM_K2 * data_range) ** 2
    covariance = product - mean_p * mean_t
    variances = (square_p - mean_p * mean_p) + (square_t - mean_t * mean_t)
    luminance = (2 * mean_p * mean_t + c1) / (mean_p * mean_p + mean_t * mean_t + c1)
    contrast_structure = (2 * covariance + c2) / (variances + c2)
    similarity: Tensor = (luminance * contrast_structure).mean(dim=(1, 2, 3))  # (B,)
    return similarity


def _gaussian_mean(maps: Tensor) -> Tensor:
    """Windowed means of ``(..., H, W)``, as two passes of 11 taps: the gaussian is separable.

    A sum of shifted maps, because torch's convolution in float64 took 20 times as long on a CPU
    (101 ms against 5 ms for five maps of 321 x 481 pixels, one thread).
    """
    radius = SSIM_WINDOW // 2
    taps = [math.exp(-0.5 * (offset / _SSIM_SIGMA) ** 2) for offset in range(-radius, radius + 1)]
    total = math.fsum(taps)
    for dim in (-2, -1):
        length = maps.shape[dim] - 2 * radius
        means = torch.zeros_like(maps.narrow(dim, 0, length))
        for start, tap in enumerate(taps):
            means.add_(maps.narrow(dim, start, length), alpha=tap / total)
        maps = means
    return maps  # (..., H - 10, W - 10)


def _prepare(
    preds: Tensor, target: Tensor, *, data_range: float, crop_border: int
) -> tuple[Tensor, Tensor]:
    """Check a pair of image batches and return both in float64, without their border."""
    _check_data_range(data_range)
    if preds.ndim != 4:
        raise ValueError(f"preds must have shape (B, C, H, W), not {tuple(preds.shape)}")
    if preds.shape != target.shape:
        raise ValueError(
            f"preds {tuple(preds.shape)} and target {tuple(target.shape)} differ in shape"
        )
    if crop_border < 0:
        raise ValueError(f"crop_border={crop_border} is negative")
    height, width = preds.shape[-2:]
    if min(height, width) <= 2 * crop_border:
        raise ValueError(
            f"crop_border={crop_border} leaves no pixel of {height} x {width} (height x width)"
        )
    inner = (..., slice(crop_border, height - crop_border), slice(crop_border, width - crop_border))
    return preds[inner].double(), target[inner].double()


def _check_data_range(data_range: float) -> None:
    if not (math.isfinite(data_range) and data_range > 0):
        raise ValueError(f"data_range={data_range} is not a positive number; use 1.0 or 255.0")
