"""The one-dimensional deformable sampling against the plain loop, and its corner cases."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ucip_adapt.errors import UnknownNameError
from ucip_adapt.models import deform_sample_1d

AXES = ("horizontal", "vertical")
METHODS = ("grid", "gather", "fused")
LETTER = {"horizontal": "w", "vertical": "h"}

pytestmark = [pytest.mark.parametrize("axis", AXES), pytest.mark.parametrize("method", METHODS)]


def features(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def fractional_offsets(*shape: int, reach: float, seed: int = 1) -> Tensor:
    """Offsets up to ``reach`` pixels, none closer than 0.05 to an integer, where a kink is."""
    generator = torch.Generator().manual_seed(seed)
    whole = torch.randint(-int(reach), int(reach) + 1, shape, generator=generator)
    return whole + 0.05 + 0.9 * torch.rand(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("share", [1, 2])
@pytest.mark.parametrize("reach", [1, 8])
def test_values_and_gradients_equal_the_loop(axis, method, share, reach, slow_sample):
    x = features(2, 4, 3, 5).requires_grad_()
    offset = fractional_offsets(2, 4 // share, 3, 5, reach=reach).requires_grad_()
    weight = features(2, 4, 3, 5, seed=2)

    expected = slow_sample(x, offset, LETTER[axis])
    expected_grads = torch.autograd.grad((expected * weight).sum(), (x, offset))
    found = deform_sample_1d(x, offset, axis=axis, method=method)
    found_grads = torch.autograd.grad((found * weight).sum(), (x, offset))

    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)
    assert expected_grads[1].abs().max() > 0.1
    for found_grad, expected_grad in zip(found_grads, expected_grads, strict=True):
        torch.testing.assert_close(found_grad, expected_grad, rtol=0, atol=1e-12)


def test_gradcheck(axis, method):
    x = features(1, 2, 3, 4).requires_grad_()
    offset = fractional_offsets(1, 1, 3, 4, reach=3).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda a, b: deform_sample_1d(a, b, axis=axis, method=method), (x, offset), atol=1e-8
    )


def test_float32_equals_the_loop(axis, method, slow_sample):
    x, offset = features(1, 4, 6, 9).float(), fractional_offsets(1, 2, 6, 9, reach=6).float()
    expected = slow_sample(x.double(), offset.double(), LETTER[axis])
    found = deform_sample_1d(x, offset, axis=axis, method=method)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)


def test_zero_offset_is_the_identity(axis, method):
    x = features(1, 3, 4, 6)
    found = deform_sample_1d(x, torch.zeros_like(x), axis=axis, method=method)
    torch.testing.assert_close(found, x, rtol=0, atol=1e-14)


@pytest.mark.parametrize("shift", [-7, -3, -1, 1, 2, 6])
def test_integer_offset_shifts_and_fills_with_zero(axis, method, shift):
    x = features(1, 2, 6, 6)
    dim = 3 if axis == "horizontal" else 2
    expected = torch.zeros_like(x)
    for target in range(6):
        if 0 <= target + shift < 6:
            expected.select(dim, target).copy_(x.select(dim, target + shift))
    found = deform_sample_1d(x, torch.full_like(x, shift), axis=axis, method=method)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


def test_gradient_of_x_at_integer_offsets(axis, method):
    x = features(1, 1, 5, 5).requires_grad_()
    offset = torch.full_like(x, 2.0)
    (gradient,) = torch.autograd.grad(
        deform_sample_1d(x, offset, axis=axis, method=method).sum(), x
    )
    expected = torch.zeros_like(x)
    expected.narrow(3 if axis == "horizontal" else 2, 2, 3).fill_(1)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-13)


def test_outside_fades_linearly_and_is_not_clamped(axis, method):
    """Half a pixel outside gives half of the border pixel; a clamped sampler gives all of it."""
    line = torch.tensor([3.0, 1.0, 4.0, 5.0])
    shape = (1, 1, 1, 4) if axis == "horizontal" else (1, 1, 4, 1)
    x = line.view(shape)
    cases = {-0.25: (2.25, 4.75), -0.5: (1.5, 4.5), -1.0: (0.0, 4.0), -1.5: (0.0, 2.5)}
    for offset, (first, last) in cases.items():
        found = deform_sample_1d(x, torch.full(shape, offset), axis=axis, method=method).flatten()
        assert found[0].item() == pytest.approx(first, abs=1e-5)
        assert found[3].item() == pytest.approx(last, abs=1e-5)
    for offset, last in {0.5: 2.5, 0.75: 1.25, 1.0: 0.0, 1.5: 0.0}.items():
        found = deform_sample_1d(x, torch.full(shape, offset), axis=axis, method=method).flatten()
        assert found[3].item() == pytest.approx(last, abs=1e-5)


def test_gradient_beyond_the_border_is_that_of_the_fading(axis, method):
    """Between -1 and 0 the value is (1 + p) times the border's, so the slope is the border's."""
    shape = (1, 1, 1, 3) if axis == "horizontal" else (1, 1, 3, 1)
    x = torch.tensor([3.0, 1.0, 4.0], dtype=torch.float64).view(shape)
    offset = torch.full(shape, -0.4, dtype=torch.float64, requires_grad=True)
    value = deform_sample_1d(x, offset, axis=axis, method=method).flatten()[0]
    (gradient,) = torch.autograd.grad(value, offset)
    assert gradient.flatten().tolist() == pytest.approx([3.0, 0.0, 0.0], abs=1e-12)


@pytest.mark.parametrize("far", [1e6, -1e6, 1e30, float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_far_offsets_give_exact_zeros(axis, method, far, dtype):
    x = features(1, 2, 4, 5).to(dtype).requires_grad_()
    offset = torch.full((1, 1, 4, 5), far, dtype=dtype, requires_grad=True)
    found = deform_sample_1d(x, offset, axis=axis, method=method)
    gradients = torch.autograd.grad(found.sum(), (x, offset))
    for tensor in (found, *gradients):
        assert torch.equal(tensor, torch.zeros_like(tensor))


@pytest.mark.parametrize("shape", [(1, 7), (7, 1), (2, 1)])
def test_axes_of_one_pixel(axis, method, shape, slow_sample):
    x = features(1, 2, *shape)
    for offset in (fractional_offsets(1, 1, *shape, reach=1), torch.full((1, 1, *shape), -0.5)):
        expected = slow_sample(x, offset.double(), LETTER[axis])
        found = deform_sample_1d(x, offset.double(), axis=axis, method=method)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


def test_channels_share_an_offset_in_neighbouring_pairs(axis, method):
    """Channel c reads offset c // 2: channels 0 and 1 move, 2 and 3 stay."""
    x = features(1, 4, 5, 5)
    offset = torch.zeros(1, 2, 5, 5, dtype=torch.float64)
    offset[:, 0] = 1
    found = deform_sample_1d(x, offset, axis=axis, method=method)
    torch.testing.assert_close(found[:, 2:], x[:, 2:], rtol=0, atol=1e-13)
    assert (found[:, :2] - x[:, :2]).abs().amax(dim=(0, 2, 3)).min() > 0.1


def test_positions_stay_in_float32_under_bfloat16(axis, method):
    """600 pixels of stripes: bfloat16 has no odd numbers above 256 and would read wrong ones."""
    shape = (1, 1, 1, 600) if axis == "horizontal" else (1, 1, 600, 1)
    stripes = (torch.arange(600) % 2).float()
    expected = {0.0: stripes, -1.0: 1 - stripes, -0.25: 0.25 * (1 - stripes) + 0.75 * stripes}
    for dtype in (torch.float32, torch.bfloat16):
        x = stripes.view(shape).to(dtype)
        for value, wanted in expected.items():
            offset = torch.full(shape, value, dtype=dtype)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                found = deform_sample_1d(x, offset, axis=axis, method=method)
            assert found.dtype == dtype
            torch.testing.assert_close(found.flatten()[1:].float(), wanted[1:], rtol=0, atol=1e-3)


def test_equals_torchvision(axis, method):
    """``deform_conv2d`` with a 1 x 1 identity kernel; its offsets are pairs (down, right)."""
    ops = pytest.importorskip("torchvision.ops")
    x = features(2, 4, 5, 7)
    offset = fractional_offsets(2, 4, 5, 7, reach=7)
    pairs = torch.zeros(2, 8, 5, 7, dtype=torch.float64)
    pairs[:, (1 if axis == "horizontal" else 0) :: 2] = offset
    expected = ops.deform_conv2d(x, pairs, torch.eye(4, dtype=torch.float64)[:, :, None, None])
    found = deform_sample_1d(x, offset, axis=axis, method=method)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-13)


def test_refuses_shapes_that_do_not_fit(axis, method):
    x = torch.zeros(1, 4, 3, 5)
    for shape in ((2, 2, 3, 5), (1, 2, 5, 3), (1, 3, 3, 5)):
        with pytest.raises(ValueError, match=r"x of shape \(1, 4, 3, 5\) and offset of shape"):
            deform_sample_1d(x, torch.zeros(shape), axis=axis, method=method)
    for scalar in (torch.zeros(()), torch.zeros(4)):
        with pytest.raises(ValueError, match=r"x and offset must be \(B, C, H, W\)"):
            deform_sample_1d(x, scalar, axis=axis, method=method)
    with pytest.raises(UnknownNameError, match=r"unknown axis 'diagonal'.*horizontal, vertical"):
        deform_sample_1d(x, x, axis="diagonal", method=method)
    with pytest.raises(UnknownNameError, match=r"unknown sampling method 'grids'.*fused, gather"):
        deform_sample_1d(x, x, axis=axis, method="grids")
