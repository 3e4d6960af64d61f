"""A dense oracle of the sampling: every pixel of a line weighed, no index anywhere."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

Oracle = Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor, Tensor]]


def _dense(x: Tensor, offset: Tensor, gradient: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Values and both gradients in float64, from the hat function and its right-hand slope.

    Args:
        x: Shape ``(B, C, H, W)``.
        offset: Shape ``(B, C / S, H, W)``.
        gradient: Of the values, shape of ``x``.
        dim: 3 for horizontal, 2 for vertical.
    """
    share = x.shape[1] // offset.shape[1]
    lines, moves, weights = (t.double().movedim(dim, -1) for t in (x, offset, gradient))
    n = lines.shape[-1]
    pixel = torch.arange(n, dtype=torch.float64)
    p = (pixel + moves).repeat_interleave(share, dim=1)[..., None]  # (B, C, other, n, 1)
    hat = (1 - (p - pixel).abs()).clamp(min=0)
    values = (hat * lines[..., None, :]).sum(-1)
    rising, falling = (pixel > p) & (pixel <= p + 1), (pixel > p - 1) & (pixel <= p)
    slope = ((rising.double() - falling.double()) * lines[..., None, :]).sum(-1)
    of_x = (hat * weights[..., None]).sum(-2)
    of_offset = (slope * weights).unflatten(1, (-1, share)).sum(2)
    return tuple(t.movedim(-1, dim) for t in (values, of_x, of_offset))  # type: ignore[return-value]


@pytest.fixture(scope="session")
def dense() -> Oracle:
    return _dense
