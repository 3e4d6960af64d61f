"""The global skip against Pillow, whose bicubic is the baseline of every table."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ucip_adapt import UCIP, UCIPConfig
from ucip_adapt.assets import image_folder
from ucip_adapt.models import bicubic_x4
from ucip_adapt.models.upsampler import HEAD_HALO, UpsamplingHead, head_rows


def pillow_float(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pillow's bicubic of one plane to (height, width), in floats, which it does not round."""
    image = Image.fromarray(plane.astype(np.float32))
    return np.array(image.resize(size[::-1], Image.Resampling.BICUBIC))


@pytest.mark.parametrize("size", [(12, 17), (5, 4), (2, 3), (1, 9), (6, 1), (1, 1)])
def test_equals_pillow_in_floats(size):
    lq = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    found = bicubic_x4(lq)
    for b in range(2):
        for c in range(3):
            enlarged = pillow_float(lq[b, c].numpy(), (4 * size[0], 4 * size[1]))
            expected = torch.from_numpy(enlarged)
            torch.testing.assert_close(found[b, c], expected, rtol=0, atol=2e-6)


def natural_images() -> list[Image.Image]:
    paths = sorted(image_folder("train").glob("*.webp"))[:4]
    paths += sorted(image_folder("validation").glob("*.webp"))[:4]
    assert len(paths) == 8, "the embedded images are missing"
    images = []
    for path in paths:
        with Image.open(path) as image:
            # Two corners of the picture, so that both kinds of border are compared.
            small = image.convert("RGB").resize((96, 96), Image.Resampling.LANCZOS)
        images += [small.crop((0, 0, 41, 30)), small.crop((55, 66, 96, 96))]
    return images


def clipped_between_the_axes(levels: np.ndarray) -> np.ndarray:
    """Output pixels with a tap that Pillow's first pass (along the rows) clipped to 0..255."""
    height, width, _ = levels.shape
    planes = levels.transpose(2, 0, 1)
    first = np.stack([pillow_float(plane, (height, 4 * width)) for plane in planes], axis=-1)
    outside = (first < -0.5) | (first > 255.5)
    near = [outside[max(i - 2, 0) : i + 3].any(axis=0) for i in range(height)]
    return np.stack(near).repeat(4, axis=0)


def test_within_one_level_of_pillow_on_natural_images():
    """Pillow rounds and clips to 8 bit after each axis, ours does not; borders included."""
    for image in natural_images():
        levels = np.array(image)
        lq = torch.from_numpy(levels).permute(2, 0, 1)[None] / 255
        found = (bicubic_x4(lq).clamp(0, 1) * 255).round()[0].permute(1, 2, 0).numpy()
        width, height = image.size
        pillow = image.resize((4 * width, 4 * height), Image.Resampling.BICUBIC)
        difference = np.abs(found - np.asarray(pillow, dtype=np.float32))
        clipped = clipped_between_the_axes(levels)
        assert clipped.mean() < 0.03
        assert difference[~clipped].max() <= 1
        assert (difference == 0).mean() > 0.75


def test_a_ramp_stays_a_ramp_inside():
    """Bicubic with a = -0.5 reproduces straight lines, at pixel centres (i + 0.5) / 4 - 0.5."""
    ramp = torch.arange(12.0).expand(1, 3, 12, 12) / 12
    columns = bicubic_x4(ramp)[0, 0, 20, 8:-8]
    expected = ((torch.arange(48.0) + 0.5) / 4 - 0.5)[8:-8] / 12
    torch.testing.assert_close(columns, expected, rtol=0, atol=1e-6)


def test_stays_in_float32_under_autocast():
    lq = torch.rand(1, 3, 6, 7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(bicubic_x4(lq), bicubic_x4(lq).float())
        found = bicubic_x4(lq)
    assert torch.equal(found, bicubic_x4(lq))


def test_network_with_a_silent_head_is_bicubic():
    model = UCIP(UCIPConfig.preset("nano", last_conv_scale=0.0))
    lq = torch.rand(1, 3, 6, 7)
    assert torch.equal(model(lq), bicubic_x4(lq))


def test_a_fresh_network_with_a_skip_starts_near_bicubic():
    torch.manual_seed(0)
    lq = torch.rand(2, 3, 16, 16)

    def distance(**changes: object) -> Tensor:
        torch.manual_seed(1)
        return (UCIP(UCIPConfig.preset("nano", **changes))(lq) - bicubic_x4(lq)).abs().mean()

    assert distance() < 0.1
    assert distance(last_conv_scale=1.0, global_skip="none") > 0.3


def test_head_equals_enlarging_and_convolving(monkeypatch):
    """The head never makes the enlarged features; values and gradients are those of doing so."""
    torch.manual_seed(0)
    head = UpsamplingHead(dim=6, head_dim=4).double()
    features = torch.randn(2, 6, 3, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, 12, 20, dtype=torch.float64)
    x = torch.nn.functional.leaky_relu(head.conv_before_up(features), 0.01)
    for conv in (head.conv_up1, head.conv_up2):
        enlarged = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        x = torch.nn.functional.leaky_relu(conv(enlarged), 0.2)
    expected = head.conv_last(torch.nn.functional.leaky_relu(head.conv_hr(x), 0.2))
    leaves = [features, *head.parameters()]
    expected_gradients = torch.autograd.grad((expected * weight).sum(), leaves)
    # If the features were enlarged all the same, nothing would be saved.
    monkeypatch.setattr(torch.nn.functional, "interpolate", None)
    found = head(features)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    gradients = torch.autograd.grad((found * weight).sum(), leaves)
    for a, b in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("batch", "height", "width"), [(1, 55, 400), (1, 96, 400), (1, 97, 400), (2, 200, 81)]
)
def test_head_goes_over_strips_where_no_graph_is_recorded(monkeypatch, batch, height, width):
    torch.manual_seed(0)
    head = UpsamplingHead(dim=6, head_dim=4).double()
    features = torch.randn(batch, height, width, 6, dtype=torch.float64).permute(0, 3, 1, 2)
    expected = head._enlarge(features)
    sizes: list[int] = []
    enlarge = head._enlarge

    def watched(strip: Tensor) -> Tensor:
        sizes.append(strip.shape[2])
        return enlarge(strip)

    # On the class: on the instance the head would no longer be plain.
    monkeypatch.setattr(UpsamplingHead, "_enlarge", lambda _, strip: watched(strip))
    with torch.no_grad():
        found = head(features)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert found.is_contiguous(memory_format=torch.channels_last)
    rows = head_rows(batch, width)
    assert len(sizes) > 1
    assert max(sizes) <= rows + 2 * HEAD_HALO
    # No pixel is made more often than the halo wants.
    assert sum(sizes) <= height + 2 * HEAD_HALO * (len(sizes) - 1)


def test_head_takes_the_whole_where_somebody_watches_or_learns():
    torch.manual_seed(0)
    head = UpsamplingHead(dim=6, head_dim=4)
    features = torch.randn(1, 6, 100, 400)
    head(features).sum().backward()
    seen: list[tuple[int, ...]] = []
    handle = head.conv_hr.register_forward_hook(lambda *call: seen.append(call[2].shape))
    with torch.no_grad():
        head(features)
    handle.remove()
    assert seen == [(1, 4, 400, 1600)]
    assert head.conv_hr.weight.grad is not None
