"""Depth-wise convolutions: the backward pass of ours against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ucip_adapt.models import UCIP, UCIPConfig
from ucip_adapt.models.depthwise import depthwise, is_depthwise
from ucip_adapt.models.modulation import convolve

KERNELS = [(5, 5), (3, 3), (7, 7), (1, 5), (5, 1), (3, 7), (1, 1)]


def layer(kernel: tuple[int, int], dim: int = 6) -> nn.Conv2d:
    torch.manual_seed(0)
    height, width = kernel
    return nn.Conv2d(dim, dim, kernel, padding=(height // 2, width // 2), groups=dim).double()


def example(*, height: int = 9, width: int = 11) -> Tensor:
    x = torch.randn(2, 6, height, width, dtype=torch.float64)
    return x.to(memory_format=torch.channels_last).requires_grad_()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("size", [(9, 11), (2, 3), (1, 4)])
def test_gradients_are_those_of_pytorch(kernel, size):
    conv, x = layer(kernel), example(height=size[0], width=size[1])
    weight = torch.randn_like(x)
    leaves = [x, conv.weight, conv.bias]
    expected = torch.autograd.grad((conv(x) * weight).sum(), leaves)
    found = torch.autograd.grad((depthwise(conv, x) * weight).sum(), leaves)
    torch.testing.assert_close(depthwise(conv, x), conv(x), rtol=0, atol=0)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


def test_gradcheck():
    conv, x = layer((5, 5), 6), example(height=4, width=5)
    assert torch.autograd.gradcheck(lambda x: depthwise(conv, x), [x], fast_mode=True)


def test_autocast_changes_nothing():
    """In bfloat16 the weight gradient would be off in its third digit, and slower."""
    conv = layer((5, 5)).float()
    x = example().detach().float().requires_grad_()
    exact = torch.autograd.grad(depthwise(conv, x).square().sum(), [x, conv.weight])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = convolve(conv, x)
        assert under.dtype == torch.float32
    for a, b in zip(
        torch.autograd.grad(under.square().sum(), [x, conv.weight]), exact, strict=True
    ):
        assert torch.equal(a, b)


def test_a_frozen_convolution_keeps_no_image():
    conv, x = layer((5, 5)).requires_grad_(False), example(height=64, width=64)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()), lambda t: t):
        convolve(conv, x)
    assert kept == [6 * 25]


@pytest.mark.parametrize(
    "other",
    [
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Conv2d(4, 8, 3, padding=1, groups=4),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.Conv2d(4, 4, 3, padding=1, stride=2, groups=4),
        nn.Conv2d(4, 4, 3, padding=1, dilation=2, groups=4),
        nn.Conv2d(4, 4, 4, padding=2, groups=4),
        nn.Conv2d(4, 4, (1, 9), padding=(0, 4), groups=4),
        nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False),
        nn.Conv2d(4, 4, 3, padding=1, groups=4, padding_mode="reflect"),
    ],
)
def test_other_convolutions_are_left_alone(other):
    assert not is_depthwise(other)


def test_the_network_uses_it(monkeypatch):
    """Wide depth-wise convolutions of a training step go this way; gradients stay the same."""
    torch.manual_seed(0)
    model, lq = UCIP(UCIPConfig.preset("nano")).double(), torch.rand(1, 3, 9, 10).double()

    def gradients() -> list[Tensor]:
        model.zero_grad()
        model(lq).square().sum().backward()
        return [p.grad for p in model.parameters() if p.grad is not None]

    seen: list[nn.Conv2d] = []

    def counted(conv: nn.Conv2d, x: Tensor) -> Tensor:
        seen.append(conv)
        return depthwise(conv, x)

    monkeypatch.setattr("ucip_adapt.models.modulation.depthwise", counted)
    found = gradients()
    assert len(seen) == 2, "the local branch of two PTMMs; the 3 x 3 PEG is quicker without"
    monkeypatch.setattr("ucip_adapt.models.modulation.pays", lambda conv, x: False)
    expected = gradients()
    assert len(seen) == 2
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
