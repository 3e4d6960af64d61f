"""Measurement protocols: what a PSNR or SSIM measures, as a short id that is printed with it.

On the same images RGB and Y differ by about 2 dB, so a number without its protocol means little.
Published tables of super-resolution hold ``y-c4``: luma, 4 pixels (the scale) cut off each edge,
measured on 8-bit images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ucip_adapt.errors import NonFiniteError, unknown_name
from ucip_adapt.metrics.functional import psnr, rgb_to_y, ssim

__all__ = ["PROTOCOLS", "Protocol", "Scores", "get_protocol", "score", "to_uint8"]

# The peak of Y is 255 too, not 235 - 16: so do the MATLAB scripts behind published tables.
_PEAK = 255.0


@dataclass(frozen=True)
class Protocol:
    """How two 8-bit images are compared.

    Attributes:
        name: The id to print with every number.
        luma: Compare BT.601 studio-range luma (float, not rounded); otherwise all three RGB
            channels together.
        crop_border: Pixels ignored along each edge.

    Example:
        >>> PROTOCOLS["rgb-c0"].crop_border
        0
    """

    name: str
    luma: bool
    crop_border: int


@dataclass(frozen=True)
class Scores:
    """PSNR and SSIM of one image under one protocol.

    Attributes:
        psnr_db: Peak signal-to-noise ratio in dB; ``inf`` for equal images.
        ssim: Structural similarity, in ``[-1, 1]``.

    Example:
        >>> Scores(psnr_db=30.0, ssim=0.9).psnr_db
        30.0
    """

    psnr_db: float
    ssim: float


PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        # Super-resolved image against ground truth; 4 is the scale.
        "y-c4": Protocol(name="y-c4", luma=True, crop_border=4),
        "rgb-c4": Protocol(name="rgb-c4", luma=False, crop_border=4),
        # Decoded low-resolution image against the one that was encoded: rate-distortion curves.
        "y-c0": Protocol(name="y-c0", luma=True, crop_border=0),
        "rgb-c0": Protocol(name="rgb-c0", luma=False, crop_border=0),
    }
)
"""Every protocol by its id."""


def get_protocol(name: str) -> Protocol:
    """Look a protocol up by its id.

    Args:
        name: One of ``y-c4``, ``rgb-c4``, ``y-c0``, ``rgb-c0``.

    Returns:
        The protocol.

    Raises:
        UnknownNameError: If there is no such protocol; the message lists the known ones.

    Example:
        >>> get_protocol("y-c4")
        Protocol(name='y-c4', luma=True, crop_border=4)
    """
    try:
        return PROTOCOLS[name]
    except KeyError:
        raise unknown_name("protocol", name, PROTOCOLS) from None


def score(preds_u8: NDArray[np.uint8], target_u8: NDArray[np.uint8], protocol: Protocol) -> Scores:
    """Compare one restored 8-bit image with its ground truth.

    Args:
        preds_u8: Restored image, RGB, shape ``(H, W, 3)``, uint8 (see :func:`to_uint8`).
        target_u8: Ground truth, same shape and dtype.
        protocol: What to measure (see :func:`get_protocol`).

    Returns:
        PSNR in dB and SSIM.

    Raises:
        ValueError: If an image is not uint8 RGB, the shapes differ, or less than 11 x 11 pixels are
            left after the protocol's crop.

    Example:
        >>> black = np.zeros((20, 20, 3), dtype=np.uint8)
        >>> round(score(black + np.uint8(1), black, get_protocol("rgb-c4")).psnr_db, 4)
        48.1308
    """
    preds = _to_batch(preds_u8, "preds_u8")
    target = _to_batch(target_u8, "target_u8")
    if protocol.luma:
        preds = rgb_to_y(preds, data_range=_PEAK)
        target = rgb_to_y(target, data_range=_PEAK)
    psnr_db = psnr(preds, target, data_range=_PEAK, crop_border=protocol.crop_border)
    similarity = ssim(preds, target, data_range=_PEAK, crop_border=protocol.crop_border)
    return Scores(psnr_db=psnr_db.item(), ssim=similarity.item())


def to_uint8(images: Tensor) -> NDArray[np.uint8]:
    """Turn network output into 8-bit images: clipped to [0, 1], times 255, rounded to nearest.

    Truncating instead of rounding darkens by half a level on average and lowers a good PSNR.

    Args:
        images: Shape ``(B, 3, H, W)`` or ``(3, H, W)``, floating point; values outside ``[0, 1]``
            are clipped.

    Returns:
        Shape ``(B, H, W, 3)`` or ``(H, W, 3)``, uint8, on the CPU.

    Raises:
        ValueError: If the shape is another one or the dtype is not floating point.
        NonFiniteError: If a value is NaN, which no 8-bit level can stand for, or infinite.

    Example:
        >>> to_uint8(torch.tensor([-1.0, 0.499, 2.0]).view(3, 1, 1))
        array([[[  0, 127, 255]]], dtype=uint8)
    """
    if images.ndim not in (3, 4) or images.shape[-3] != 3:
        raise ValueError(
            f"images must have shape (B, 3, H, W) or (3, H, W), not {tuple(images.shape)}"
        )
    if not images.is_floating_point():
        raise ValueError(f"images must be floating point in [0, 1], not {images.dtype}")
    # The product would be rounded in half precision first, and then to some other level.
    images = images.detach().float()
    if not torch.isfinite(images).all():
        raise NonFiniteError(
            "the images hold NaN or infinite values; nothing was converted to 8 bit"
        )
    levels = images.clamp(0.0, 1.0).mul(_PEAK).round().to(torch.uint8)
    pixels: NDArray[np.uint8] = levels.movedim(-3, -1).contiguous().cpu().numpy()
    return pixels


def _to_batch(image: NDArray[Any], name: str) -> Tensor:
    """Check an 8-bit RGB image and return it as ``(1, 3, H, W)``, uint8."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"{name} must be RGB of shape (H, W, 3) and dtype uint8, "
            f"not {image.shape} and {image.dtype}"
        )
    # A copy: the array may be read-only (Pillow's are) or a flipped view with negative strides.
    return torch.from_numpy(image.copy()).permute(2, 0, 1).unsqueeze(0)
