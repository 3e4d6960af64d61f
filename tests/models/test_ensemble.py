"""The mean over eight orientations, against one written out with NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ucip_adapt import UCIPConfig
from ucip_adapt.models import UCIP, bicubic_x4, self_ensemble

ORIENTATIONS = [
    (lambda a: a, lambda a: a),
    (lambda a: a[..., ::-1, :], lambda a: a[..., ::-1, :]),
    (lambda a: a[..., ::-1], lambda a: a[..., ::-1]),
    (lambda a: a[..., ::-1, ::-1], lambda a: a[..., ::-1, ::-1]),
    (lambda a: a.swapaxes(-1, -2), lambda a: a.swapaxes(-1, -2)),
    (lambda a: a.swapaxes(-1, -2)[..., ::-1, :], lambda a: a[..., ::-1, :].swapaxes(-1, -2)),
    (lambda a: a.swapaxes(-1, -2)[..., ::-1], lambda a: a[..., ::-1].swapaxes(-1, -2)),
    (
        lambda a: a.swapaxes(-1, -2)[..., ::-1, ::-1],
        lambda a: a[..., ::-1, ::-1].swapaxes(-1, -2),
    ),
]


@pytest.fixture
def network():
    """A network that turns matter to: every parameter is random."""
    torch.manual_seed(0)
    model = UCIP(UCIPConfig.preset("nano")).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


def test_against_numpy(network):
    lq = torch.rand(2, 3, 11, 17, generator=torch.Generator().manual_seed(1))
    results = []
    for turn, back in ORIENTATIONS:
        seen = torch.from_numpy(np.ascontiguousarray(turn(lq.numpy())))
        results.append(back(network.upscale(seen).numpy()).astype(np.float64))
    spread = np.max(results, axis=0) - np.min(results, axis=0)
    assert spread.max() > 0.05, "orientations that come out alike would prove nothing"
    ours = self_ensemble(network.upscale, lq)
    assert ours.shape == (2, 3, 44, 68)
    np.testing.assert_allclose(ours.numpy(), np.mean(results, axis=0), atol=1e-6)


def test_a_turned_picture_gives_the_turned_result(network):
    lq = torch.rand(1, 3, 9, 14, generator=torch.Generator().manual_seed(2))
    whole = self_ensemble(network.upscale, lq)
    for turn, _ in ORIENTATIONS:
        seen = torch.from_numpy(np.ascontiguousarray(turn(lq.numpy())))
        turned = torch.from_numpy(np.ascontiguousarray(turn(whole.numpy())))
        torch.testing.assert_close(self_ensemble(network.upscale, seen), turned, atol=2e-6, rtol=0)


def test_what_turns_alike_is_left_as_it_is():
    lq = torch.rand(1, 3, 5, 8, generator=torch.Generator().manual_seed(3))
    for upscale in (torch.nn.Upsample(scale_factor=4), bicubic_x4):
        torch.testing.assert_close(self_ensemble(upscale, lq), upscale(lq), atol=1e-6, rtol=0)
