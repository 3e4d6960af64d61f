"""Enlarge a picture by a network that knows three 8-bit-like channels and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ucip_adapt.errors import NonFiniteError
from ucip_adapt.imaging.picture import Picture

__all__ = ["check_finite_image", "enlarge_picture"]

_LUMA = (0.299, 0.587, 0.114)  # BT.601; grey stays grey where all three channels agree


def enlarge_picture(picture: Picture, upscale: Callable[[Tensor], Tensor]) -> Picture:
    """Enlarge colours by a network, transparency by bicubic, and keep the rest.

    Args:
        picture: The picture, ``H x W``.
        upscale: Maps ``(1, 3, H, W)`` in [0, 1] to ``(1, 3, 4H, 4W)``.

    Returns:
        The picture, ``4H x 4W``, with the channels, depth and metadata of the first.

    Raises:
        NonFiniteError: If the network gives NaN or infinite values.

    Example:
        >>> from ucip_adapt.models import bicubic_x4
        >>> grey = Picture(np.full((5, 7, 1), 40000, np.uint16))
        >>> large = enlarge_picture(grey, bicubic_x4)
        >>> large.mode, large.size, large.colour.max()
        ('L;16', (20, 28), np.uint16(40000))
    """
    levels = 2**picture.depth - 1
    planes = torch.from_numpy(picture.colour.astype(np.float32) / levels)
    lq = planes.permute(2, 0, 1)[None].expand(-1, 3, -1, -1).contiguous()
    sr = upscale(lq)[0].float()
    check_finite_image(sr)
    if picture.colour.shape[2] == 1:
        sr = torch.tensordot(torch.tensor(_LUMA, device=sr.device), sr, dims=1)[None]
    colour = _quantise(sr.permute(1, 2, 0).cpu().numpy(), picture.colour.dtype, levels)
    alpha = None if picture.alpha is None else _enlarge_alpha(picture.alpha, levels)
    return Picture(colour, alpha, picture.icc_profile, picture.exif, picture.notes)


def check_finite_image(sr: Tensor) -> None:
    """Refuse what a network gives when it overflows, or its weights are damaged.

    Args:
        sr: What it gave.

    Raises:
        NonFiniteError: If a value is NaN or infinite.

    Example:
        >>> check_finite_image(torch.zeros(1, 3, 4, 4))
    """
    if not bool(torch.isfinite(sr).all()):
        raise NonFiniteError(
            "the network gave values that are not finite; try again with --dtype float32"
        )


def _quantise(values: NDArray[np.floating[Any]], dtype: np.dtype[Any], levels: int) -> NDArray[Any]:
    return np.clip(np.rint(values.astype(np.float64) * levels), 0, levels).astype(dtype)


def _enlarge_alpha(alpha: NDArray[Any], levels: int) -> NDArray[Any]:
    height, width = alpha.shape
    plane = Image.fromarray(alpha.astype(np.float32))
    large = plane.resize((4 * width, 4 * height), Image.Resampling.BICUBIC)
    return _quantise(np.asarray(large) / np.float32(levels), alpha.dtype, levels)
