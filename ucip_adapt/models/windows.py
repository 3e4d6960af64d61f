"""Inference in overlapping, smoothly blended windows.

UCIP normalises features over the whole image (SPADE's instance norm). A network trained on small
crops therefore meets other statistics on a whole image than it has learnt; windows of the size of
the training crop give them back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

__all__ = ["upscale_windows", "window_starts"]


def window_starts(size: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows that cover an axis; the last window ends with the axis.

    Args:
        size: Length of the axis in pixels.
        window: Length of a window.
        stride: Step between windows, at most ``window``.

    Returns:
        The starts in rising order; 0 alone where one window covers all.

    Example:
        >>> window_starts(70, 32, 16)
        [0, 16, 32, 38]
        >>> window_starts(20, 32, 16)
        [0]
    """
    last = max(size - window, 0)
    return [*range(0, last, stride), last]


def _hann(size: int, like: Tensor) -> Tensor:
    """Hann weights at pixel centres: positive everywhere, so that borders keep a weight."""
    position = (torch.arange(size, device=like.device, dtype=torch.float32) + 0.5) / size
    return torch.sin(torch.pi * position).square()


def _chunks(items: list[tuple[int, int]], size: int) -> Iterator[list[tuple[int, int]]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]


def upscale_windows(
    network: Callable[[Tensor], Tensor],
    lq: Tensor,
    *,
    window: int,
    stride: int | None = None,
    batch_size: int = 8,
) -> Tensor:
    """Apply a x4 network to overlapping windows and blend the results with Hann weights.

    Args:
        network: Maps ``(N, 3, h, w)`` to ``(N, 3, 4h, 4w)``.
        lq: Images, shape ``(B, 3, H, W)``.
        window: Side of a window in LQ pixels; an axis that is not longer is taken whole, so that an
            image no larger than a window gives exactly ``network(lq)``.
        stride: Step between windows; default five sixths of a window, measured as good as a half
            at 0.6 of the time.
        batch_size: Windows that go through the network at once.

    Returns:
        Images, shape ``(B, 3, 4H, 4W)``.

    Raises:
        ValueError: If ``window`` or ``stride`` is not positive, or ``stride`` exceeds ``window``.

    Example:
        >>> from ucip_adapt.models import bicubic_x4
        >>> lq = torch.full((1, 3, 20, 30), 0.5)
        >>> sr = upscale_windows(bicubic_x4, lq, window=16)
        >>> torch.allclose(sr, torch.full((1, 3, 80, 120), 0.5))
        True
    """
    stride = stride or max(5 * window // 6, 1)
    if window < 1 or not 1 <= stride <= window:
        raise ValueError(
            f"window={window}, stride={stride}: need window >= 1 and 1 <= stride <= window"
        )
    batch, _, height, width = lq.shape
    high, wide = min(window, height), min(window, width)
    if (high, wide) == (height, width):
        return network(lq)
    places = [
        (top, left)
        for top in window_starts(height, high, stride)
        for left in window_starts(width, wide, stride)
    ]
    weight = _hann(4 * high, lq)[:, None] * _hann(4 * wide, lq)[None, :]
    total = lq.new_zeros(batch, 3, 4 * height, 4 * width, dtype=torch.float32)
    norm = lq.new_zeros(4 * height, 4 * width, dtype=torch.float32)
    for chunk in _chunks(places, max(batch_size // batch, 1)):
        crops = torch.cat([lq[:, :, top : top + high, left : left + wide] for top, left in chunk])
        for (top, left), sr in zip(chunk, torch.split(network(crops), batch), strict=True):
            rows, columns = slice(4 * top, 4 * (top + high)), slice(4 * left, 4 * (left + wide))
            total[:, :, rows, columns] += sr.float() * weight
            norm[rows, columns] += weight
    return (total / norm).to(lq.dtype)
