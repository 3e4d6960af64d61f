"""From the features of a whole image to its enlarged rows, from top to bottom."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch.nn.functional as F
from torch import Tensor

from ucip_adapt.models.bounded.body import ReadRows
from ucip_adapt.models.bounded.lines import RowConvolution, strips
from ucip_adapt.models.bounded.store import FeatureMap
from ucip_adapt.models.config import SCALE
from ucip_adapt.models.token_mixer import to_channels_first
from ucip_adapt.models.ucip import UCIP
from ucip_adapt.models.upsampler import UpsamplingHead, bicubic_x4

__all__ = ["enlarged_rows"]


class _HeadRows:
    """The x4 head over an image that arrives in rows; its output lags by nine rows."""

    def __init__(self, head: UpsamplingHead) -> None:
        # Convolution, slope of the leaky ReLU behind it (None: none), enlargement before it.
        self._steps = (
            (RowConvolution(head.conv_before_up), 0.01, 1),
            (RowConvolution(head.conv_up1), 0.2, 2),
            (RowConvolution(head.conv_up2), 0.2, 2),
            (RowConvolution(head.conv_hr), 0.2, 1),
            (RowConvolution(head.conv_last), None, 1),
        )

    def push(self, features: Tensor, *, last: bool) -> Tensor | None:
        """Take in the next rows ``(1, C, n, W)``; return the image rows that are complete."""
        rows: Tensor | None = features
        for conv, slope, enlarge in self._steps:
            if rows is None:
                return None
            if enlarge > 1:
                rows = F.interpolate(rows, scale_factor=float(enlarge), mode="nearest")
            rows = conv.push(rows, last=last)
            if rows is not None and slope is not None:
                rows = F.leaky_relu(rows, slope)
        return rows


def enlarged_rows(
    network: UCIP,
    features: FeatureMap,
    shallow: Callable[[int, int], Tensor],
    read: ReadRows,
    *,
    rows: int,
    tick: Callable[[float], None],
) -> Iterator[Tensor]:
    """The image ``(1, 3, 4H, 4W)``, not clipped, as strips of rows from top to bottom.

    Args:
        network: The network.
        features: What its last block returned.
        shallow: Rows of the shallow features.
        read: Rows of the input image.
        rows: LQ rows of a strip.
        tick: Called after every strip with its share of the image.

    Yields:
        Strips, shape ``(1, 3, n, 4W)``.
    """
    height = features.shape[0]
    head = _HeadRows(network.head)
    done = 0
    for strip in strips(height, rows, halo=1):
        normed = network.norm(features.read_rows(strip.low, strip.high))
        deep = network.conv_after_body(to_channels_first(normed))[:, :, strip.own]
        deep = deep + shallow(strip.first, strip.last)
        sr = head.push(deep, last=strip.last == height)
        tick((strip.last - strip.first) / height)
        if sr is None:
            continue
        if network.config.global_skip == "bicubic":
            sr = sr + _bicubic_rows(read, done, done + sr.shape[2], height)
        done += sr.shape[2]
        yield sr


def _bicubic_rows(read: ReadRows, first: int, last: int, height: int) -> Tensor:
    """Output rows ``first`` to ``last`` of the input enlarged by Pillow's bicubic."""
    low = max(first // SCALE - 2, 0)
    high = min(-(-last // SCALE) + 2, height)
    image = bicubic_x4(read(low, high))
    return image[:, :, first - SCALE * low : last - SCALE * low]
