"""Protocols: the table, the 8-bit comparison, rounding, and published bicubic baselines."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from ucip_adapt.errors import NonFiniteError, UnknownNameError
from ucip_adapt.metrics import PROTOCOLS, get_protocol, score, to_uint8


def test_the_table_holds_the_four_settled_protocols() -> None:
    table = {name: (row.luma, row.crop_border) for name, row in PROTOCOLS.items()}
    assert table == {
        "y-c4": (True, 4),
        "rgb-c4": (False, 4),
        "y-c0": (True, 0),
        "rgb-c0": (False, 0),
    }


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_does_what_its_name_says(name: str, make_pairs) -> None:
    (*_, pred), (*_, target) = make_pairs(5)
    protocol = get_protocol(name)
    assert protocol.name == name
    space, crop = name.split("-c")
    border = slice(int(crop), -int(crop) or None)
    p, t = (image[border, border].astype(np.float64) for image in (pred, target))
    if space == "y":
        p, t = (rgb2ycbcr(image / 255.0)[..., :1] for image in (p, t))
    similarity = structural_similarity(
        t,
        p,
        data_range=255,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    found = score(pred, target, protocol)
    assert found.psnr_db == pytest.approx(peak_signal_noise_ratio(t, p, data_range=255), abs=1e-9)
    assert found.ssim == pytest.approx(similarity, abs=1e-9)


def test_an_unknown_protocol_names_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="'y_c4'; did you mean 'y-c4'") as caught:
        get_protocol("y_c4")
    assert all(name in str(caught.value) for name in PROTOCOLS)


@pytest.mark.parametrize(
    ("pred", "message"),
    [
        (np.zeros((20, 20, 3)), "preds_u8 must be RGB .* and float64"),
        (np.zeros((20, 20), dtype=np.uint8), r"preds_u8 must be RGB .* not \(20, 20\) and uint8"),
        (np.zeros((20, 20, 4), dtype=np.uint8), r"not \(20, 20, 4\)"),
        (np.zeros((20, 24, 3), dtype=np.uint8), "differ in shape"),
    ],
)
def test_wrong_images_are_refused(pred: np.ndarray, message: str) -> None:
    target = np.zeros((20, 20, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match=message):
        score(pred, target, get_protocol("rgb-c0"))


def test_flipped_and_read_only_images_can_be_scored(make_pairs) -> None:
    (pred,), (target,) = make_pairs(1)
    read_only = np.asarray(PIL.Image.fromarray(target[:, ::-1]))
    protocol = get_protocol("y-c0")
    flipped = score(pred[:, ::-1], read_only, protocol)
    assert flipped.psnr_db == pytest.approx(score(pred, target, protocol).psnr_db, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_8_bit_level_survives_and_values_in_between_round_to_the_nearest(dtype) -> None:
    levels = torch.arange(256, dtype=torch.float64)
    for offset in (-0.49, 0.0, 0.49):
        image = ((levels + offset) / 255).to(dtype).expand(3, 1, 256)
        assert np.array_equal(to_uint8(image)[0, :, 0], np.arange(256))


def test_to_uint8_clips_and_moves_the_channels_last() -> None:
    image = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)) * 3 - 1
    found = to_uint8(image.requires_grad_())
    assert found.shape == (2, 4, 5, 3)
    assert found.dtype == np.uint8
    expected = np.rint(np.clip(image.detach().numpy(), 0, 1) * np.float32(255))
    assert np.array_equal(found, expected.transpose(0, 2, 3, 1))
    assert np.array_equal(to_uint8(image[1]), found[1])
    assert found.min() == 0
    assert found.max() == 255


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_not_rounded_twice(dtype) -> None:
    # Every number of the type from 0 to 1, by its bits; multiplied in half precision some of them
    # land on the middle between two levels and then on the wrong one.
    one = torch.ones(1, dtype=dtype).view(torch.int16).item()
    values = torch.arange(one + 1, dtype=torch.int16).view(dtype)
    found = to_uint8(values.expand(3, 1, -1))[0, :, 0]
    assert np.array_equal(found, np.rint(values.double().numpy() * 255))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_to_uint8_refuses_values_that_are_not_numbers(value: float) -> None:
    image = torch.zeros(3, 2, 2)
    image[1, 1, 0] = value
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        to_uint8(image)


def test_to_uint8_refuses_other_shapes_and_integers() -> None:
    with pytest.raises(ValueError, match=r"not \(1, 4, 4\)"):
        to_uint8(torch.zeros(1, 4, 4))
    with pytest.raises(ValueError, match=r"floating point in \[0, 1\], not torch.uint8"):
        to_uint8(torch.zeros(3, 4, 4, dtype=torch.uint8))


def _bicubic_scores(folder: Path) -> tuple[int, float, float]:
    """Number of images and mean y-c4 scores of Pillow's BICUBIC x4 on the stored LR images."""
    rows = []
    for path in sorted((folder / "HR").iterdir()):
        with PIL.Image.open(folder / "LRbicx4" / f"{path.stem}.png") as file:
            lq = file.convert("RGB")
        with PIL.Image.open(path) as file:
            gt = np.asarray(file.convert("RGB"))
        sr = lq.resize((4 * lq.width, 4 * lq.height), PIL.Image.Resampling.BICUBIC)
        rows.append(score(np.asarray(sr), gt, get_protocol("y-c4")))
    psnr_db = float(np.mean([row.psnr_db for row in rows]))
    return len(rows), psnr_db, float(np.mean([row.ssim for row in rows]))


@pytest.mark.parametrize(
    ("name", "count", "psnr_db", "ssim"),
    [
        ("Set5", 5, 28.43, 0.811),
        ("Set14", 14, 26.09, 0.705),
        ("BSD100", 100, 25.96, 0.668),
    ],
)
def test_clean_bicubic_has_its_known_scores(
    data_root: Path, name: str, count: int, psnr_db: float, ssim: float
) -> None:
    found = _bicubic_scores(data_root / name)
    # The known scores are given with two and three decimals.
    assert found[0] == count
    assert found[1] == pytest.approx(psnr_db, abs=0.005)
    assert found[2] == pytest.approx(ssim, abs=0.001)
