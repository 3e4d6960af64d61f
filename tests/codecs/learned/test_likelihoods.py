"""What training takes for bits is a distribution, and agrees with what streams then cost."""

from __future__ import annotations

import dataclasses
from statistics import NormalDist

import numpy as np
import pytest
import torch

from ucip_adapt.codecs.learned import TINY_CODECS
from ucip_adapt.codecs.learned.likelihoods import (
    SCALE_COUNT,
    LogisticMixture,
    gaussian_bits,
    index_of,
    scale_of,
)
from ucip_adapt.codecs.learned.weights import load_codec
from ucip_adapt.data.paired import to_tensor


def test_gaussian_bits_are_those_of_the_gaussian():
    values = torch.tensor([0.0, 1.0, -1.0, 0.3, 12.0], dtype=torch.float64)
    index = torch.full_like(values, 21.4)
    cdf = NormalDist(0, float(scale_of(index[0]))).cdf
    expected = [-np.log2(cdf(v + 0.5) - cdf(v - 0.5)) for v in values.tolist()]
    np.testing.assert_allclose(gaussian_bits(values, index), expected, rtol=1e-9)


@pytest.mark.parametrize("index", [0.0, 10.0, SCALE_COUNT - 1.0])
def test_gaussian_probabilities_sum_to_1(index):
    values = torch.arange(-400, 401, dtype=torch.float64)
    total = torch.exp2(-gaussian_bits(values, torch.full_like(values, index))).sum()
    assert total.item() == pytest.approx(1, abs=1e-4)
    assert index_of(scale_of(torch.tensor(index))).item() == pytest.approx(index, abs=1e-4)


def test_the_mixture_is_a_distribution_for_every_rate_and_channel():
    torch.manual_seed(0)
    prior = LogisticMixture(2, 3).double()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(torch.randn_like(parameter))
    values = torch.arange(-300, 301, dtype=torch.float64).expand(2, 3, 1, -1)
    mass = prior.probability(values, torch.tensor([0, 1]))
    np.testing.assert_allclose(mass.sum(-1).detach(), 1, atol=1e-6)
    assert (mass >= 0).all()
    # One logistic by hand: weights that leave only the first.
    with torch.no_grad():
        prior.weight.copy_(torch.tensor([50.0, -50.0, -50.0]))
    mean, scale = prior.mean[1, 2, 0].item(), prior.log_scale[1, 2, 0].exp().item()
    logistic = [1 / (1 + np.exp(-(x - mean) / scale)) for x in (2.5, 1.5)]
    two = torch.full((1, 3, 1, 1), 2.0, dtype=torch.float64)
    found = prior.probability(two, torch.tensor([1]))[0, 2, 0, 0].item()
    assert found == pytest.approx(logistic[0] - logistic[1], rel=1e-6)


@pytest.mark.parametrize("name", TINY_CODECS)
def test_streams_cost_what_training_estimates(name, lr):
    codec = TINY_CODECS[name]
    network = load_codec(codec.path).network.eval()
    for quality in codec.spec.qualities:
        with torch.no_grad():
            bits = network(to_tensor(lr)[None], torch.tensor([quality - 1])).bits.item()
        # Headers, whole words, tables of 2**16 and 40 scales are what the estimate leaves out.
        assert 8 * len(codec.encode(lr, quality)) == pytest.approx(bits + 80 + 16, rel=0.02)


def test_the_codec_of_a_larger_image_is_the_same(lr):
    """Bits per pixel of an image and of four of it side by side differ by headers only."""
    codec = TINY_CODECS["tiny-mse"]
    four = np.tile(lr, (2, 2, 1))
    one = codec.roundtrip(lr, 2)
    assert codec.roundtrip(four, 2).bpp == pytest.approx(one.bpp, rel=0.03)
    assert dataclasses.replace(codec, weights=codec.path).roundtrip(lr, 2).bpp == one.bpp
