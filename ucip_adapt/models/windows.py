"""Inference in overlapping, smoothly blended windows.

UCIP normalises features over the whole image (SPADE's instance norm). A network trained on small
crops therefore meets other statistics on a whole image than it has learnt; windows of the size of
the training crop give them back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

__all__ = ["upscale_windows", "window_rows", "window_starts"]

BATCH_PIXELS = 20_000
"""Pixels that go through the network at once; on one core 5,000 to 40,000 are equally fast, and
more are slower."""


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
    position = (torch.arange(size, device=like.device, dtype=like.dtype) + 0.5) / size
    return torch.sin(torch.pi * position).square()


def _axis_weights(starts: list[int], side: int, size: int, hann: Tensor) -> Tensor:
    """Sum of the windows' weights at every output pixel of an axis."""
    total = hann.new_zeros(4 * size)
    for start in starts:
        total[4 * start : 4 * (start + side)] += hann
    return total


def upscale_windows(
    network: Callable[[Tensor], Tensor],
    lq: Tensor,
    *,
    window: int,
    stride: int | None = None,
    batch_size: int | None = None,
) -> Tensor:
    """Apply a x4 network to overlapping windows and blend the results with Hann weights.

    Args:
        network: Maps ``(N, 3, h, w)`` to ``(N, 3, 4h, 4w)``.
        lq: Images, shape ``(B, 3, H, W)``.
        window: Side of a window in LQ pixels; an axis that is not longer is taken whole, so that an
            image no larger than a window gives exactly ``network(lq)``.
        stride: Step between windows; default five sixths of a window, measured as good as a half
            at 0.6 of the time.
        batch_size: Windows that go through the network at once; default as many as have about
            20,000 pixels together, so that the memory does not depend on the window: 8 windows of
            48 pixels, 1 of 256.

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
    if lq.shape[2] <= window and lq.shape[3] <= window:
        _check_stride(window, stride)
        return network(lq)
    rows = window_rows(
        network,
        lambda first, last: lq[:, :, first:last],
        lq.shape[2],
        lq.shape[3],
        window=window,
        stride=stride,
        batch_size=batch_size,
    )
    return torch.cat([strip.to(lq.dtype) for strip in rows], dim=2)


def _check_stride(window: int, stride: int | None) -> int:
    chosen = stride or max(5 * window // 6, 1)
    if window < 1 or not 1 <= chosen <= window:
        raise ValueError(
            f"window={window}, stride={chosen}: need window >= 1 and 1 <= stride <= window"
        )
    return chosen


def window_rows(
    network: Callable[[Tensor], Tensor],
    read: Callable[[int, int], Tensor],
    height: int,
    width: int,
    *,
    window: int,
    stride: int | None = None,
    batch_size: int | None = None,
) -> Iterator[Tensor]:
    """As :func:`upscale_windows`, reading rows when they are needed and giving them when ready.

    Args:
        network: Maps ``(N, 3, h, w)`` to ``(N, 3, 4h, 4w)``.
        read: Rows ``first`` to ``last`` (exclusive) of the images, ``(B, 3, last - first, W)``.
        height: Rows of the images.
        width: Columns of the images.
        window: Side of a window in LQ pixels.
        stride: Step between windows; default five sixths of a window.
        batch_size: Windows that go through the network at once.

    Yields:
        Strips of rows from top to bottom, shape ``(B, 3, n, 4W)``, float32 or float64.

    Raises:
        ValueError: If ``window`` or ``stride`` is not positive, or ``stride`` exceeds ``window``.

    Example:
        >>> from ucip_adapt.models import bicubic_x4
        >>> lq = torch.full((1, 3, 40, 30), 0.5)
        >>> rows = window_rows(bicubic_x4, lambda a, b: lq[:, :, a:b], 40, 30, window=16)
        >>> sum(strip.shape[2] for strip in rows)
        160
    """
    stride = _check_stride(window, stride)
    high, wide = min(window, height), min(window, width)
    tops, lefts = window_starts(height, high, stride), window_starts(width, wide, stride)
    places = [(top, left) for top in tops for left in lefts]
    size = batch_size or max(BATCH_PIXELS // (high * wide), 1)
    band: Tensor | None = None  # weighted sums from output row `done` on
    done = 0
    first = 0
    while first < len(places):
        start, end = places[first][0], min(places[first][0] + high, height)
        crops = read(start, end)
        batch = len(crops)
        chunk = places[first : first + max(size // batch, 1)]
        first += len(chunk)
        if chunk[-1][0] > start:
            crops = read(start, chunk[-1][0] + high)
        result = network(
            torch.cat([crops[:, :, t - start : t - start + high, k : k + wide] for t, k in chunk])
        )
        if band is None:
            dtype = torch.promote_types(result.dtype, torch.float32)
            band = result.new_zeros(batch, 3, 0, 4 * width, dtype=dtype)
            hann_rows, hann_columns = _hann(4 * high, band), _hann(4 * wide, band)
            row_sums = _axis_weights(tops, high, height, hann_rows)
            column_sums = _axis_weights(lefts, wide, width, hann_columns)
            weight = hann_rows[:, None] * hann_columns[None, :]
        missing = 4 * (chunk[-1][0] + high) - done - band.shape[2]
        if missing > 0:
            band = torch.cat([band, band.new_zeros(batch, 3, missing, 4 * width)], dim=2)
        for (top, left), sr in zip(chunk, torch.split(result, batch), strict=True):
            above = 4 * top - done
            area = band[:, :, above : above + 4 * high, 4 * left : 4 * (left + wide)]
            area += sr.to(band.dtype) * weight
        # No window that is still to come reaches above the next one.
        ready = 4 * (places[first][0] if first < len(places) else height)
        if ready > done:
            rows = band[:, :, : ready - done]
            yield rows / (row_sums[done:ready, None] * column_sums)
            band = band[:, :, ready - done :].clone()
            done = ready
