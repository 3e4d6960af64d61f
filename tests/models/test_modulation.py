"""SPADE's normalisation and modulation against the equation in float64, gradients included."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ucip_adapt.models.modulation import modulate
from ucip_adapt.models.token_mixer import SPADE


def equation(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    count = x.shape[1] * x.shape[2]
    mean = x.sum((1, 2), keepdim=True) / count
    variance = ((x - mean) ** 2).sum((1, 2), keepdim=True) / count
    return (x - mean) / (variance + 1e-5) ** 0.5 * (1 + gamma) + beta


def example(batch: int = 2, dim: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return list(torch.randn(3, batch, 6, 7, dim, generator=generator, dtype=torch.float64))


@pytest.mark.parametrize("grad", [True, False])
def test_equals_the_equation(grad):
    inputs = [value.requires_grad_(grad) for value in example()]
    torch.testing.assert_close(
        modulate(*inputs, eps=1e-5), equation(*inputs), rtol=1e-12, atol=1e-13
    )


@pytest.mark.parametrize("frozen", [(), (0,), (1, 2), (1,)])
def test_gradients(frozen):
    inputs = [value.requires_grad_(i not in frozen) for i, value in enumerate(example())]
    weight = example()[0].flip(0)
    leaves = [value for value in inputs if value.requires_grad]
    found = torch.autograd.grad((modulate(*inputs, eps=1e-5) * weight).sum(), leaves)
    expected = torch.autograd.grad((equation(*inputs) * weight).sum(), leaves)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("grad", [True, False])
def test_a_large_mean_costs_no_digits(grad):
    """A mean of squares minus a squared mean would be wrong in the first digit here."""
    x, gamma, beta = (value.float() for value in example())
    x = (x * 0.1 + 300).requires_grad_(grad)
    exact = equation(x.double(), gamma.double(), beta.double())
    # The input's own rounding at 300 is 3e-5 of a standard deviation of 0.1.
    torch.testing.assert_close(
        modulate(x, gamma, beta, eps=1e-5).double(), exact, rtol=0, atol=1e-3
    )


@pytest.mark.parametrize("grad", [True, False])
def test_a_large_image_costs_no_digits(grad):
    """Two million squares, added one to the next in float32, are wrong in the fourth digit."""
    generator = torch.Generator().manual_seed(0)
    x = 3 + torch.randn(1, 1500, 1400, 2, generator=generator)
    x[:, :200] *= 20  # what is added to an already large sum loses most
    x[..., 1] = x[..., 1] * 0.01 + 300  # a mean that float32 rounds
    zeros = torch.zeros_like(x)
    exact = equation(x.double(), zeros.double(), zeros.double())
    found = modulate(x.requires_grad_(grad), zeros, zeros, eps=1e-5).detach().double()
    torch.testing.assert_close(found[..., 0], exact[..., 0], rtol=1e-6, atol=1e-6)
    # The input's own rounding at 300 is 2e-4 of a standard deviation.
    torch.testing.assert_close(found[..., 1], exact[..., 1], rtol=0, atol=1e-3)


@pytest.mark.parametrize("frozen", [(), (0,), (1, 2)])
def test_gradients_of_a_large_image(frozen):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4, 1, 130, 130, 2, generator=generator, dtype=torch.float64)
    weight, *inputs = [*values]
    inputs = [value.requires_grad_(i not in frozen) for i, value in enumerate(inputs)]
    leaves = [value for value in inputs if value.requires_grad]
    found = torch.autograd.grad((modulate(*inputs, eps=1e-5) * weight).sum(), leaves)
    expected = torch.autograd.grad((equation(*inputs) * weight).sum(), leaves)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_what_is_kept_for_backward():
    x, gamma, beta = (value.requires_grad_() for value in example(1, 64))
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        modulate(x * 2, gamma * 2, beta * 2, eps=1e-5)
    size = x.numel() * x.element_size()
    assert 2 * size <= sum(kept.values()) < 2.2 * size


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_statistics_of_half_precision_features_are_of_float32(dtype: torch.dtype) -> None:
    """bfloat16 alone loses a hundredth here, float32 a thousandth of that."""
    torch.manual_seed(0)
    spade = SPADE(dim=8, prompt_dim=4)
    for layer in (spade.gamma, spade.beta):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    x = (100.2 + 3 * torch.randn(1, 24, 24, 8)).to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        found = spade(x, torch.zeros(1, 24, 24, 4)).double()
    exact = x.double()
    mean = exact.mean((1, 2), keepdim=True)
    variance = exact.var((1, 2), keepdim=True, correction=0)
    expected = (exact - mean) / (variance + 1e-5).sqrt()
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
