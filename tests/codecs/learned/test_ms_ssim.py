"""MS-SSIM against scikit-image and a slow formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d
from skimage.metrics import structural_similarity

from ucip_adapt.codecs.learned.ms_ssim import SCALE_WEIGHTS, SMALLEST_SIDE, ms_ssim, ssim_terms


@pytest.fixture(scope="module")
def pair(lr) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    noisy = np.clip(lr + rng.normal(0, 20, lr.shape), 0, 255)
    return noisy[:90, :71].astype(np.float64), lr[:90, :71].astype(np.float64)


def tensor(image: np.ndarray, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)[None].to(dtype)


def test_one_scale_is_scikit_images(pair):
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    _, full = structural_similarity(*pair, channel_axis=2, data_range=255.0, full=True, **options)
    inner = full[5:-5, 5:-5].mean(axis=(0, 1))  # the window wholly inside
    whole, _ = ssim_terms(tensor(pair[0]), tensor(pair[1]), data_range=255.0)
    np.testing.assert_allclose(whole[0], inner, atol=1e-9)


def slow_ms_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """One channel, three scales, straight from the definition."""
    taps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    taps /= taps.sum()

    def mean(image):
        return correlate1d(correlate1d(image, taps, 0), taps, 1)[5:-5, 5:-5]

    product = 1.0
    for scale, weight in enumerate(np.array([0.0448, 0.2856, 0.3001]) / 0.6305):
        mx, my = mean(x), mean(y)
        vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
        structure = (2 * cov + 58.5225) / (vx + vy + 58.5225)
        luminance = (2 * mx * my + 6.5025) / (mx**2 + my**2 + 6.5025)
        term = (structure * (luminance if scale == 2 else 1)).mean()
        product *= term**weight
        if scale < 2:
            even = [side - side % 2 for side in x.shape]
            x, y = (
                image[: even[0], : even[1]]
                .reshape(even[0] // 2, 2, even[1] // 2, 2)
                .mean(axis=(1, 3))
                for image in (x, y)
            )
    return product


def test_three_scales_are_the_definition(pair):
    expected = np.mean([slow_ms_ssim(pair[0][..., c], pair[1][..., c]) for c in range(3)])
    assert ms_ssim(tensor(pair[0]), tensor(pair[1]), data_range=255.0).item() == pytest.approx(
        expected, abs=1e-9
    )
    # In float32 on [0, 1], as in training.
    small = [tensor(image / 255, torch.float32) for image in pair]
    assert ms_ssim(*small, data_range=1.0).item() == pytest.approx(expected, abs=1e-5)


def test_gradients_are_finite_and_equal_images_score_1():
    image = torch.rand(2, 3, 44, 47)
    assert torch.equal(ms_ssim(image, image, data_range=1.0), torch.ones(2))
    opposite = (1 - image).requires_grad_()
    ms_ssim(opposite, image, data_range=1.0).sum().backward()
    assert opposite.grad.isfinite().all()
    assert sum(SCALE_WEIGHTS) == pytest.approx(1)


def test_what_is_too_small_is_refused():
    image = torch.rand(1, 3, SMALLEST_SIDE - 1, 60)
    with pytest.raises(ValueError, match="needs sides of 44 pixels, got \\(43, 60\\)"):
        ms_ssim(image, image, data_range=1.0)
