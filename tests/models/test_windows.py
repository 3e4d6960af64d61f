"""Inference in overlapping windows against a slow blend, and what it must leave alone."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ucip_adapt.models import upscale_windows
from ucip_adapt.models.windows import window_starts


def nearest(crops: Tensor) -> Tensor:
    """Enlarge by repeating pixels: what it makes of a pixel does not depend on the window."""
    return F.interpolate(crops, scale_factor=4, mode="nearest")


def mean_of_window(crops: Tensor) -> Tensor:
    """Paint each window with its mean: what it makes of a pixel depends on the window alone."""
    return crops.mean(dim=(2, 3), keepdim=True).expand(
        -1, -1, 4 * crops.shape[2], 4 * crops.shape[3]
    )


def slow_blend(lq: Tensor, window: int, stride: int) -> Tensor:
    """Blend the means of all windows, one output pixel after the other."""
    _, _, height, width = lq.shape
    high, wide = min(window, height), min(window, width)

    def weight(position: int, size: int) -> float:
        return math.sin(math.pi * (position + 0.5) / size) ** 2

    def starts(size: int, side: int) -> list[int]:
        steps = math.ceil((size - side) / stride)
        return sorted({min(k * stride, size - side) for k in range(steps + 1)})

    out = torch.zeros(1, 3, 4 * height, 4 * width, dtype=torch.float64)
    for i in range(4 * height):
        for j in range(4 * width):
            total = 0.0
            for top in starts(height, high):
                for left in starts(width, wide):
                    y, x = i - 4 * top, j - 4 * left
                    if 0 <= y < 4 * high and 0 <= x < 4 * wide:
                        amount = weight(y, 4 * high) * weight(x, 4 * wide)
                        mean = lq[0, :, top : top + high, left : left + wide].mean(dim=(1, 2))
                        out[0, :, i, j] += amount * mean
                        total += amount
            out[0, :, i, j] /= total
    return out


@pytest.mark.parametrize(
    ("size", "window", "stride"), [((11, 14), 8, 4), ((9, 5), 6, 5), ((10, 10), 4, 4)]
)
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_blend_equals_the_slow_one(size, window, stride, batch_size):
    lq = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    expected = slow_blend(lq.double(), window, stride)
    found = upscale_windows(mean_of_window, lq, window=window, stride=stride, batch_size=batch_size)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("size", [(9, 30), (33, 8), (40, 41)])
@pytest.mark.parametrize(("window", "stride"), [(8, 4), (8, 8), (16, 5), (8, 1)])
def test_a_network_that_ignores_its_window_is_blended_to_itself(size, window, stride):
    lq = torch.rand(2, 3, *size)
    found = upscale_windows(nearest, lq, window=window, stride=stride)
    torch.testing.assert_close(found, nearest(lq), rtol=0, atol=1e-6)


def test_images_of_a_batch_do_not_meet():
    lq = torch.rand(3, 3, 12, 20)
    together = upscale_windows(mean_of_window, lq, window=8)
    for index in range(3):
        alone = upscale_windows(mean_of_window, lq[index : index + 1], window=8)
        torch.testing.assert_close(together[index], alone[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(8, 8), (3, 8), (8, 1), (5, 6)])
def test_an_image_no_larger_than_a_window_is_taken_whole(lively, size):
    model = lively("nano")
    lq = torch.rand(1, 3, *size)
    with torch.no_grad():
        assert torch.equal(upscale_windows(model, lq, window=8), model(lq))


def test_a_network_in_windows_restores_the_statistics_of_crops(lively):
    """Far from the other windows a window's middle is what the network makes of that crop."""
    model = lively("nano", global_skip="none")
    lq = torch.rand(1, 3, 8, 24)
    with torch.no_grad():
        found = upscale_windows(model, lq, window=8, stride=8)
        torch.testing.assert_close(found[..., 32:64], model(lq[..., 8:16]), rtol=0, atol=1e-5)
        assert (found - model(lq)).abs().max() > 0.01


@pytest.mark.parametrize("size", range(1, 40))
def test_windows_cover_the_axis_and_stay_inside(size):
    for window, stride in ((8, 4), (8, 8), (7, 3), (1, 1), (32, 16)):
        starts = window_starts(size, min(window, size), stride)
        covered = [p for start in starts for p in range(start, start + min(window, size))]
        assert sorted(set(covered)) == list(range(size))
        assert starts == sorted(set(starts))


@pytest.mark.parametrize(("window", "stride"), [(0, 1), (8, 9), (8, -1)])
def test_refuses_windows_that_leave_gaps(window, stride):
    with pytest.raises(ValueError, match=f"window={window}, stride={stride}: need window >= 1"):
        upscale_windows(nearest, torch.rand(1, 3, 20, 20), window=window, stride=stride)


def test_keeps_the_dtype():
    lq = torch.rand(1, 3, 12, 12).bfloat16()
    assert upscale_windows(nearest, lq, window=8).dtype == torch.bfloat16
