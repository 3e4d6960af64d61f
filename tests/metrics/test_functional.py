"""PSNR, SSIM and luma against scikit-image and against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from ucip_adapt.metrics import psnr, rgb_to_y, ssim


def _pair(seed: int, *, channels: int = 3, height: int = 29, width: int = 24, noise: float = 0.1):
    """A smooth random image and a noisy copy of it, (1, C, H, W) in [0, 1], float64."""
    rng = np.random.default_rng(seed)
    target = np.cumsum(rng.random((1, channels, height, width)), axis=-1) / width
    preds = np.clip(target + noise * rng.standard_normal(target.shape), 0.0, 1.0)
    return torch.from_numpy(preds), torch.from_numpy(target)


def test_psnr_of_a_two_by_two_image_worked_out_by_hand() -> None:
    target = torch.tensor([[[[0.0, 10.0], [20.0, 30.0]]]])
    preds = torch.tensor([[[[3.0, 10.0], [20.0, 25.0]]]])
    # Squared errors 9, 0, 0, 25: the mean is 8.5.
    expected = 10 * math.log10(255**2 / 8.5)
    assert psnr(preds, target, data_range=255.0).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("crop_border", [0, 4])
@pytest.mark.parametrize("data_range", [1.0, 255.0])
def test_psnr_equals_scikit_image(channels: int, crop_border: int, data_range: float) -> None:
    preds, target = (data_range * image for image in _pair(1, channels=channels))
    end = -crop_border or None
    inner = (..., slice(crop_border, end), slice(crop_border, end))
    expected = peak_signal_noise_ratio(
        target[inner].numpy(), preds[inner].numpy(), data_range=data_range
    )
    found = psnr(preds, target, data_range=data_range, crop_border=crop_border)
    assert found.item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("crop_border", [0, 4])
@pytest.mark.parametrize("data_range", [1.0, 255.0])
def test_ssim_equals_scikit_image(channels: int, crop_border: int, data_range: float) -> None:
    preds, target = (data_range * image for image in _pair(2, channels=channels))
    end = -crop_border or None
    inner = (0, slice(None), slice(crop_border, end), slice(crop_border, end))
    # scikit-image filters with reflected edges and then leaves out (11 - 1) / 2 pixels: the valid
    # region.
    expected = structural_similarity(
        target[inner].numpy(),
        preds[inner].numpy(),
        data_range=data_range,
        channel_axis=0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    found = ssim(preds, target, data_range=data_range, crop_border=crop_border)
    assert 0.2 < expected < 0.99
    assert found.item() == pytest.approx(expected, abs=1e-10)


def test_ssim_of_one_window_follows_the_equation() -> None:
    preds, target = _pair(3, channels=1, height=11, width=11)
    p, t = preds.numpy()[0, 0], target.numpy()[0, 0]
    rows, columns = np.mgrid[-5:6, -5:6]
    weights = np.exp(-(rows**2 + columns**2) / (2 * 1.5**2))
    weights /= weights.sum()
    mean_p, mean_t = (weights * p).sum(), (weights * t).sum()
    var_p, var_t = (weights * (p - mean_p) ** 2).sum(), (weights * (t - mean_t) ** 2).sum()
    covariance = (weights * (p - mean_p) * (t - mean_t)).sum()
    c1, c2 = 0.01**2, 0.03**2
    expected = (2 * mean_p * mean_t + c1) * (2 * covariance + c2)
    expected /= (mean_p**2 + mean_t**2 + c1) * (var_p + var_t + c2)
    assert ssim(preds, target, data_range=1.0).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_a_batch_equals_its_images_one_by_one(metric) -> None:
    pairs = [_pair(seed, noise=noise) for seed, noise in ((4, 0.02), (5, 0.1), (6, 0.3))]
    preds, target = (torch.cat(images) for images in zip(*pairs, strict=True))
    together = metric(preds, target, data_range=1.0)
    alone = [metric(p, t, data_range=1.0).item() for p, t in pairs]
    assert together.shape == (3,)
    assert together.dtype == torch.float64
    assert together.tolist() == pytest.approx(alone, abs=1e-12)
    assert len({round(value, 3) for value in alone}) == 3


def test_equal_images_have_infinite_psnr_and_ssim_one() -> None:
    _, target = _pair(7)
    assert psnr(target, target, data_range=1.0).item() == math.inf
    assert ssim(target, target, data_range=1.0).item() == pytest.approx(1.0, abs=1e-12)


def test_8_bit_tensors_do_not_wrap_around() -> None:
    target = torch.full((1, 3, 16, 16), 1, dtype=torch.uint8)
    preds = torch.full((1, 3, 16, 16), 255, dtype=torch.uint8)
    expected = 10 * math.log10(255**2 / 254**2)
    assert psnr(preds, target, data_range=255.0).item() == pytest.approx(expected, abs=1e-12)
    assert ssim(preds, target, data_range=255.0).item() < 0.02


def test_float32_images_are_measured_in_float64() -> None:
    preds, target = (image.float() for image in _pair(8))
    for metric in (psnr, ssim):
        in_double = metric(preds.double(), target.double(), data_range=1.0)
        assert torch.equal(metric(preds, target, data_range=1.0), in_double)


def test_luma_has_the_textbook_coefficients() -> None:
    # Pure red, green, blue, black and white as five pixels.
    colours = torch.tensor([[1, 0, 0, 0, 1], [0, 1, 0, 0, 1], [0, 0, 1, 0, 1]], dtype=torch.float64)
    images = colours.view(1, 3, 1, 5)
    expected = [16 + 65.481, 16 + 128.553, 16 + 24.966, 16.0, 235.0]
    in_levels = rgb_to_y(images * 255.0, data_range=255.0)
    assert in_levels.shape == (1, 1, 1, 5)
    assert in_levels.flatten().tolist() == pytest.approx(expected, abs=1e-12)
    in_unit_range = rgb_to_y(images, data_range=1.0)
    assert (255.0 * in_unit_range).flatten().tolist() == pytest.approx(expected, abs=1e-12)


def test_luma_equals_scikit_image_and_is_not_rounded() -> None:
    rng = np.random.default_rng(9)
    image = rng.integers(0, 256, (7, 5, 3), dtype=np.uint8)
    batch = torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0)
    found = rgb_to_y(batch, data_range=255.0)[0, 0].numpy()
    assert found == pytest.approx(rgb2ycbcr(image)[..., 0], abs=1e-9)
    assert np.abs(found - np.round(found)).max() > 0.1


def _zeros(*shape: int) -> torch.Tensor:
    return torch.zeros(shape)


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize(
    ("preds", "target", "options", "message"),
    [
        (
            (1, 3, 16, 16),
            (1, 3, 16, 20),
            {},
            r"preds \(1, 3, 16, 16\) and target \(1, 3, 16, 20\) differ in shape",
        ),
        ((1, 3, 16, 16), (1, 1, 16, 16), {}, "differ in shape"),
        ((3, 16, 16), (3, 16, 16), {}, r"preds must have shape \(B, C, H, W\), not \(3, 16, 16\)"),
        (
            (1, 3, 8, 20),
            (1, 3, 8, 20),
            {"crop_border": 4},
            r"crop_border=4 leaves no pixel of 8 x 20",
        ),
        ((1, 3, 16, 16), (1, 3, 16, 16), {"crop_border": -1}, "crop_border=-1 is negative"),
        (
            (1, 3, 16, 16),
            (1, 3, 16, 16),
            {"data_range": 0.0},
            r"data_range=0.0 is not a positive number",
        ),
        (
            (1, 3, 16, 16),
            (1, 3, 16, 16),
            {"data_range": math.nan},
            "data_range=nan is not a positive number",
        ),
    ],
)
def test_wrong_inputs_are_refused(metric, preds, target, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        metric(_zeros(*preds), _zeros(*target), **{"data_range": 1.0, **options})


@pytest.mark.parametrize(("side", "crop_border"), [(10, 0), (18, 4)])
def test_ssim_refuses_less_than_one_window(side: int, crop_border: int) -> None:
    image = _zeros(1, 3, side, 40)
    with pytest.raises(
        ValueError, match=rf"at least 11 x 11 pixels; crop_border={crop_border} leaves 10 x"
    ):
        ssim(image, image, data_range=1.0, crop_border=crop_border)


def test_luma_refuses_images_without_three_channels() -> None:
    with pytest.raises(ValueError, match=r"shape \(B, 3, H, W\), not \(1, 1, 4, 4\)"):
        rgb_to_y(_zeros(1, 1, 4, 4), data_range=1.0)
