"""From features to an image four times as large: the head, and Pillow's bicubic as a skip."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ucip_adapt.models.folding import is_plain, is_traced, needs_graph

__all__ = ["HEAD_HALO", "UpsamplingHead", "bicubic_x4", "head_rows"]

HEAD_HALO = 3
"""Rows of features above and below that the rows of an image made by the head depend on: one each
for the convolutions at x1 and x2, half a row for the next, a quarter each for the last two."""

_STRIP_PIXELS = 16384
_LEAST_ROWS = 48


def head_rows(batch: int, width: int) -> int:
    """Rows of features that go through the head at once where no graph is recorded.

    Enough pixels that a strip costs no more time than the whole, and enough rows that the halo,
    which is computed twice, stays an eighth of them.

    Args:
        batch: Images.
        width: Columns of features.

    Example:
        >>> head_rows(1, 256), head_rows(1, 4000)
        (64, 48)
    """
    return max(_STRIP_PIXELS // (batch * width), _LEAST_ROWS)


class UpsamplingHead(nn.Module):
    """Nearest-neighbour upsampling and convolutions, as in the released code.

    Args:
        dim: Channels of the features.
        head_dim: Channels in between.

    Example:
        >>> UpsamplingHead(dim=16, head_dim=8)(torch.zeros(1, 16, 5, 7)).shape
        torch.Size([1, 3, 20, 28])
    """

    def __init__(self, dim: int, head_dim: int) -> None:
        super().__init__()
        self.conv_before_up = nn.Conv2d(dim, head_dim, 3, padding=1)
        self.conv_up1 = nn.Conv2d(head_dim, head_dim, 3, padding=1)
        self.conv_up2 = nn.Conv2d(head_dim, head_dim, 3, padding=1)
        self.conv_hr = nn.Conv2d(head_dim, head_dim, 3, padding=1)
        self.conv_last = nn.Conv2d(head_dim, 3, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(B, C, H, W)`` to an image ``(B, 3, 4H, 4W)``.

        Without a graph it goes over strips of rows, so that the features at x4, by far the largest
        tensors of the network, never exist as a whole.
        """
        height = features.shape[2]
        if is_traced() or needs_graph(self, features) or not is_plain(self):
            return self._enlarge(features)
        rows = head_rows(features.shape[0], features.shape[3])
        if height <= rows + 2 * HEAD_HALO:
            return self._enlarge(features)
        strips = []
        for first in range(0, height, rows):
            last = min(first + rows, height)
            above, below = min(HEAD_HALO, first), min(HEAD_HALO, height - last)
            strip = self._enlarge(features[:, :, first - above : last + below])
            strips.append(strip.narrow(2, 4 * above, 4 * (last - first)))
        return torch.cat(strips, dim=2)

    def _enlarge(self, features: Tensor) -> Tensor:
        # In place: these are the largest tensors of the network, and no convolution needs its
        # output.
        x = F.leaky_relu(self.conv_before_up(features), 0.01, inplace=True)
        for conv in (self.conv_up1, self.conv_up2):
            x = F.leaky_relu(_convolve_doubled(x, conv), 0.2, inplace=True)
        image: Tensor = self.conv_last(F.leaky_relu(self.conv_hr(x), 0.2, inplace=True))
        return image


def _convolve_doubled(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """A 3 x 3 convolution of the nearest-neighbour enlargement, 16 products for each 36.

    Of the nine taps of an output pixel, those on copies of one input pixel are added up first: a
    transposed convolution by 4 x 4 with step 2. The enlarged features are never made.
    """
    if not is_plain(conv):
        return cast(Tensor, conv(F.interpolate(x, scale_factor=2.0, mode="nearest")))
    kernel = _add_shifted(_add_shifted(conv.weight, 2), 3).flip(2, 3).transpose(0, 1)
    return F.conv_transpose2d(x, kernel, conv.bias, stride=2, padding=1)


def _add_shifted(weight: Tensor, dim: int) -> Tensor:
    """Add a kernel to itself moved by one tap: 3 taps become 4."""
    zero = torch.zeros_like(weight.narrow(dim, 0, 1))
    return torch.cat([weight, zero], dim) + torch.cat([zero, weight], dim)


def _cubic(distance: Tensor) -> Tensor:
    """Keys' kernel with a = -0.5, as in Pillow and MATLAB; torch's own bicubic has a = -0.75."""
    d = distance.abs()
    near = (1.5 * d - 2.5) * d * d + 1
    far = ((-0.5 * d + 2.5) * d - 4) * d + 2
    return torch.where(d <= 1, near, torch.where(d < 2, far, torch.zeros_like(d)))


def _stretch_rows(x: Tensor) -> Tensor:
    """Enlarge the last axis four times; as in Pillow, the taps inside share the whole weight."""
    count, _, height, width = x.shape
    phase = (torch.arange(4, dtype=torch.float64) + 0.5) / 4 - 0.5
    taps = torch.arange(-2, 3, dtype=torch.float64)
    kernel = (
        _cubic(taps[None, :] - phase[:, None]).to(device=x.device, dtype=x.dtype).view(4, 1, 1, 5)
    )
    inside = F.conv2d(x.new_ones(1, 1, 1, width), kernel, padding=(0, 2))
    out = F.conv2d(x, kernel, padding=(0, 2)) / inside  # (N, 4, H, W)
    return out.permute(0, 2, 3, 1).reshape(count, 1, height, 4 * width)


def bicubic_x4(lq: Tensor) -> Tensor:
    """Enlarge images four times by Pillow's bicubic, without its rounding to 8 bit.

    Args:
        lq: Images, shape ``(B, 3, H, W)``.

    Returns:
        Shape ``(B, 3, 4H, 4W)``; not clipped.

    Example:
        >>> bicubic_x4(torch.full((1, 3, 2, 5), 0.5)).unique()
        tensor([0.5000])
    """
    batch, channels, height, width = lq.shape
    with torch.autocast(lq.device.type, enabled=False):
        planes = lq.reshape(batch * channels, 1, height, width)
        wide = _stretch_rows(planes).transpose(2, 3)
        return _stretch_rows(wide).transpose(2, 3).reshape(batch, channels, 4 * height, 4 * width)
