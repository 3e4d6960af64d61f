"""MATLAB's bicubic x1/4, bit for bit, and the bicubic x4 that every gain is measured against.

MATLAB's ``imresize(image, 1/4, "bicubic")`` on uint8 filters along the first axis, **rounds to
uint8**, then along the second; the kernel (a = -0.5) is stretched by 4. Pillow's ``BICUBIC`` has
the same kernel and rounding but goes along the second axis first and renormalises at the edge
instead of extending the image. So: extend by 16 pixels, swap the axes, let Pillow resize, swap
back, drop the frame. 219 of 219 benchmark pairs come out equal.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ucip_adapt.errors import DataError, unknown_name

__all__ = ["EdgeRule", "bicubic_down2", "bicubic_down4", "bicubic_up4", "modcrop"]

EdgeRule = Literal["edge", "symmetric"]

_FRAME = 16


def modcrop(image: NDArray[np.uint8], scale: int = 4) -> NDArray[np.uint8]:
    """Keep the top-left part whose sides are multiples of ``scale``.

    Args:
        image: ``H x W x 3`` uint8.
        scale: What both sides are to be divisible by.

    Returns:
        A view of the image; empty if a side is shorter than ``scale``.

    Example:
        >>> modcrop(np.zeros((9, 14, 3), np.uint8)).shape
        (8, 12, 3)
    """
    height, width = image.shape[:2]
    return image[: height - height % scale, : width - width % scale]


def bicubic_down4(hr: NDArray[np.uint8], *, edge: EdgeRule = "symmetric") -> NDArray[np.uint8]:
    """Reduce an image to a quarter as MATLAB does, bit for bit.

    Args:
        hr: ``H x W x 3`` uint8, sides multiples of 4 (:func:`modcrop`).
        edge: What lies outside: ``"symmetric"`` mirrors, as current MATLAB releases do;
            ``"edge"`` repeats the last pixel, as older ones did, which made the stored benchmark
            images.

    Returns:
        ``H/4 x W/4 x 3`` uint8.

    Raises:
        DataError: If a side is no multiple of 4, or under 4 pixels.
        UnknownNameError: If ``edge`` is unknown.

    Example:
        >>> bicubic_down4(np.full((8, 12, 3), 7, np.uint8)).shape
        (2, 3, 3)
    """
    return _reduce(hr, 4, edge)


def bicubic_down2(hr: NDArray[np.uint8], *, edge: EdgeRule = "symmetric") -> NDArray[np.uint8]:
    """Reduce an image to half its sides, by the rules of :func:`bicubic_down4`.

    Args:
        hr: ``H x W x 3`` uint8, sides even.
        edge: What lies outside, as for :func:`bicubic_down4`.

    Returns:
        ``H/2 x W/2 x 3`` uint8.

    Raises:
        DataError: If a side is odd, or under 2 pixels.
        UnknownNameError: If ``edge`` is unknown.

    Example:
        >>> bicubic_down2(np.full((8, 12, 3), 7, np.uint8)).shape
        (4, 6, 3)
    """
    return _reduce(hr, 2, edge)


def _reduce(hr: NDArray[np.uint8], scale: int, edge: EdgeRule) -> NDArray[np.uint8]:
    if edge not in get_args(EdgeRule):
        raise unknown_name("edge rule", edge, get_args(EdgeRule))
    height, width = hr.shape[:2]
    if height % scale or width % scale or min(height, width) < scale:
        raise DataError(
            f"an image of {height} x {width} pixels cannot be reduced to a "
            f"{'quarter' if scale == 4 else 'half'}: crop it with modcrop"
        )
    padded = np.pad(hr, ((_FRAME, _FRAME), (_FRAME, _FRAME), (0, 0)), mode=edge)
    # One axis at a time, rows first, with 8 bits between: given both, Pillow takes them in an order
    # of its own, which depends on the shape and on its version.
    low = Image.fromarray(padded).resize(
        (width + 2 * _FRAME, (height + 2 * _FRAME) // scale), Image.Resampling.BICUBIC
    )
    small = np.asarray(
        low.resize(((width + 2 * _FRAME) // scale, low.height), Image.Resampling.BICUBIC)
    )
    frame = _FRAME // scale
    return np.ascontiguousarray(small[frame:-frame, frame:-frame])


def bicubic_up4(lq: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Enlarge an image four times by Pillow's bicubic: the baseline of every gain.

    Args:
        lq: ``H x W x 3`` uint8.

    Returns:
        ``4H x 4W x 3`` uint8.

    Example:
        >>> bicubic_up4(np.full((2, 3, 3), 7, np.uint8)).shape
        (8, 12, 3)
    """
    height, width = lq.shape[:2]
    size = (4 * width, 4 * height)
    return np.asarray(Image.fromarray(lq).resize(size, Image.Resampling.BICUBIC))
