"""The fixed-point layers against Python's whole numbers, in any order of summation."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch

from ucip_adapt.codecs.learned.fixed_point import SnapConv2d, exact_copy, leaky, snap

UNIT = 4096


def as_whole(values: torch.Tensor) -> np.ndarray:
    """Multiples of 2**-12 as Python integers; anything else fails."""
    scaled = values.double().numpy() * UNIT
    assert (scaled == np.round(scaled)).all()
    return np.vectorize(int, otypes=[object])(scaled)


def slow_convolution(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """One output pixel at a time, in whole numbers without a limit."""
    outputs, _, kernel, _ = weight.shape
    pad = kernel // 2
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)), constant_values=0)
    height, width = x.shape[1] - 2 * pad, x.shape[2] - 2 * pad
    result = np.zeros((outputs, height, width), object)
    for o in range(outputs):
        for i in range(height):
            for j in range(width):
                total = (weight[o] * x[:, i : i + kernel, j : j + kernel]).sum()
                exact = Fraction(total, UNIT) + bias[o] + Fraction(1, 2)
                result[o, i, j] = exact.numerator // exact.denominator
    return result


def make_layer(inputs: int, outputs: int, kernel: int) -> SnapConv2d:
    torch.manual_seed(0)
    layer = SnapConv2d(inputs, outputs, kernel)
    with torch.no_grad():
        layer.weight.mul_(20)  # beyond what half of a float64's digits could hold
    return exact_copy(layer)


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_a_layer_computes_in_whole_numbers(kernel):
    layer = make_layer(7, 5, kernel)
    x = snap(torch.randn(1, 7, 6, 4, dtype=torch.float64) * 30)
    found = as_whole(layer(x)[0])
    expected = slow_convolution(as_whole(x[0]), as_whole(layer.weight), as_whole(layer.bias))
    assert (found == expected).all()


def test_the_order_of_summation_does_not_matter():
    """Channels shuffled: float32 gives other bits, fixed point the same."""
    layer, order = make_layer(96, 8, 3), torch.randperm(96)
    shuffled = SnapConv2d(96, 8, 3)
    shuffled.load_state_dict({"weight": layer.weight[:, order], "bias": layer.bias})
    x = snap(torch.randn(1, 96, 9, 9, dtype=torch.float64) * 30)
    assert torch.equal(layer(x), shuffled.double()(x[:, order]))
    assert not torch.equal(layer.float()(x.float()), shuffled.float()(x[:, order].float()))


def test_activations_are_multiples_and_bounded():
    x = torch.tensor([-3.0, -1 / UNIT, 0.1, 5000.0, -5000.0], dtype=torch.float64)
    assert snap(x)[3:].tolist() == [1024.0, -1024.0]
    as_whole(leaky(snap(x)))
    # Halves go up: -1/8 of a unit is 0 units, -12/8 is -1 and not -2.
    assert (leaky(torch.tensor([-1.0, -12.0], dtype=torch.float64) / UNIT) * UNIT).tolist() == [
        0.0,
        -1.0,
    ]


def test_a_layer_whose_sums_could_overflow_is_refused():
    with pytest.raises(ValueError, match="overflow exact sums"):
        SnapConv2d(700, 1, 5)
