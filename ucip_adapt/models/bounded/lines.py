"""Strips of whole lines: where they begin, and what a convolution needs around them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["RowConvolution", "Strip", "strips"]


class Strip(NamedTuple):
    """Lines ``first`` to ``last`` (exclusive) of an axis, and the lines around them.

    A convolution applied to lines ``low`` to ``high`` pads with zeros at both ends. Where the strip
    ends inside the image these zeros are wrong, and what they reach is cut off by :attr:`own`; at
    an edge of the image there is nothing to cut off, and they are what the whole image has.
    """

    first: int
    last: int
    low: int
    high: int

    @property
    def own(self) -> slice:
        """The strip's own lines among ``low`` to ``high``."""
        return slice(self.first - self.low, self.last - self.low)


def strips(size: int, lines: int, *, halo: int = 0) -> list[Strip]:
    """Cut an axis into strips.

    Args:
        size: Length of the axis.
        lines: Lines of a strip; the last one may have fewer.
        halo: Lines to read on both sides, as far as the image has them.

    Returns:
        The strips in order.

    Example:
        >>> strips(5, 2, halo=1)[1]
        Strip(first=2, last=4, low=1, high=5)
    """
    found = []
    for first in range(0, size, lines):
        last = min(first + lines, size)
        found.append(Strip(first, last, max(first - halo, 0), min(last + halo, size)))
    return found


class RowConvolution:
    """A convolution with a centred kernel over an image that arrives from top to bottom.

    It keeps the few rows that later ones need. Unlike strips with a halo, a chain of these computes
    nothing twice but the kernel's own rows; its output lags behind.

    Args:
        conv: Maps ``(1, C, H, W)`` to as many rows, with zeros around the image; called, not read,
            so that adapters around it count.
        halo: Rows that one output row reads on each side.
    """

    def __init__(self, conv: nn.Module, halo: int = 1) -> None:
        self._conv = conv
        self._halo = halo
        self._kept: Tensor | None = None
        self._kept_from = 0  # image row of the first kept one
        self._next = 0  # next output row

    def push(self, rows: Tensor, *, last: bool) -> Tensor | None:
        """Take in the next rows ``(1, C, n, W)``; return the output rows that are complete.

        Args:
            rows: Input rows.
            last: Whether the image ends with them.

        Returns:
            ``(1, C', m, W)``, or None where no row is complete yet.
        """
        if self._kept is not None:
            rows = torch.cat([self._kept, rows], dim=2)
        end = self._kept_from + rows.shape[2]
        stop = end if last else end - self._halo
        found = None
        if stop > self._next:
            found = self._conv(rows)[:, :, self._next - self._kept_from : stop - self._kept_from]
            self._next = stop
        keep_from = max(self._kept_from, self._next - self._halo)
        # A copy: a view would hold all rows in memory.
        self._kept = rows[:, :, keep_from - self._kept_from :].clone()
        self._kept_from = keep_from
        return found
