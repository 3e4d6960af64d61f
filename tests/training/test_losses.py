"""Losses against NumPy and by hand."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch

from ucip_adapt.training.losses import LOSSES, Loss, psnr_loss


def test_the_table_has_every_name():
    assert tuple(LOSSES) == get_args(Loss)


def test_psnr_against_numpy():
    rng = np.random.default_rng(0)
    sr, gt = rng.random((2, 3, 3, 8, 5))
    by_image = [10 * np.log10(1 / np.mean((a - b) ** 2)) for a, b in zip(sr, gt, strict=True)]
    loss = psnr_loss(torch.from_numpy(sr), torch.from_numpy(gt))
    assert loss.item() == pytest.approx(-np.mean(by_image) / 20, rel=1e-12)


def test_every_image_has_the_same_say():
    """A tenth of the error away is worth the same in an image with small and with large errors."""
    errors = torch.tensor([0.001, 0.1]).view(2, 1, 1, 1).expand(2, 3, 4, 4).clone().requires_grad_()
    psnr_loss(errors, torch.zeros(2, 3, 4, 4)).backward()
    relative = (errors.grad * errors).sum(dim=(1, 2, 3))
    torch.testing.assert_close(relative[0], relative[1])


def test_no_error_has_a_finite_gradient():
    same = torch.rand(1, 3, 4, 4)
    sr = same.clone().requires_grad_()
    psnr_loss(sr, same).backward()
    assert torch.isfinite(sr.grad).all()


def test_l1():
    sr, gt = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 5.0]])
    assert LOSSES["l1"](sr, gt).item() == 2.0
