"""Slow, independent versions of what the model computes, as fixtures."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ucip_adapt import UCIP, UCIPConfig

SlowSample = Callable[[Tensor, Tensor, str], Tensor]


def _tap(line: Tensor, index: int) -> Tensor:
    """Return one value of a line of pixels; outside of it, zero."""
    return line[index] if 0 <= index < len(line) else line.new_zeros(())


def _slow_sample(z: Tensor, offset: Tensor, axis: str) -> Tensor:
    """Sample along one axis, one pixel after the other, as the equation says.

    Args:
        z: Features, shape ``(B, C, H, W)``.
        offset: Offsets in pixels, shape ``(B, G, H, W)``; channel c uses number ``c // (C / G)``.
        axis: ``"w"`` moves along a row, ``"h"`` along a column.
    """
    batch, channels, height, width = z.shape
    share = channels // offset.shape[1]
    values = []
    for b in range(batch):
        for c in range(channels):
            for i in range(height):
                for j in range(width):
                    line, start = (z[b, c, i, :], j) if axis == "w" else (z[b, c, :, j], i)
                    position = start + offset[b, c // share, i, j]
                    left = math.floor(position.item())
                    right_share = position - left
                    values.append(
                        _tap(line, left) * (1 - right_share) + _tap(line, left + 1) * right_share
                    )
    return torch.stack(values).reshape(z.shape)


@pytest.fixture(scope="session")
def slow_sample() -> SlowSample:
    """The 1-D deformable sampling as a plain Python loop, differentiable."""
    return _slow_sample


@pytest.fixture(scope="session")
def lively() -> Callable[..., UCIP]:
    """Make a network in which every part matters: at its initial weights offsets are almost 0."""

    def make(preset: str, *, seed: int = 0, **changes: object) -> UCIP:
        torch.manual_seed(seed)
        model = UCIP(UCIPConfig.preset(preset, **changes))
        with torch.no_grad():
            for name, value in model.named_parameters():
                nn.init.normal_(value, std=0.5 if "offset.linear" in name else 0.2)
                if "norm" in name and name.endswith("weight"):
                    value.add_(1)
            model.head.conv_last.weight.mul_(0.05)
        return model.eval()

    return make
