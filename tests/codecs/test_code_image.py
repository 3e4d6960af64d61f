"""Codecs of anybody: they may work in place, and what they give back is looked at."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ucip_adapt.assets import image_folder
from ucip_adapt.codecs import CODECS, Availability, CodecSpec, Degraded
from ucip_adapt.codecs.base import code_image
from ucip_adapt.codecs.check import check_codec
from ucip_adapt.data import ArrayCache, Setting, bicubic_down4, degrade_images, load_eval_set
from ucip_adapt.data.degrade import compress_lr
from ucip_adapt.errors import CodecError
from ucip_adapt.rate_distortion import measure_rates

QUALITIES = (1, 6)


class Own:
    """A codec whose pixels are those of a function of image and quality."""

    def __init__(self, name: str, pixels: Callable[[np.ndarray, int], Any]) -> None:
        self.spec = CodecSpec(name, name, "bits", QUALITIES, (1, 8))
        self.pixels = pixels

    def available(self) -> Availability:
        return Availability(ok=True)

    def fingerprint(self) -> dict[str, Any]:
        return {"codec": self.spec.name, "version": 1}

    def roundtrip(self, rgb: np.ndarray, quality: int) -> Degraded:
        return Degraded(pixels=self.pixels(rgb, quality), num_bytes=rgb.size * quality // 8)


def few_bits(rgb: np.ndarray, quality: int) -> np.ndarray:
    """The toy codec of the README: a new array."""
    step = 2 ** (8 - quality)
    return rgb // step * step + step // 2


def few_bits_in_place(rgb: np.ndarray, quality: int) -> np.ndarray:
    step = 2 ** (8 - quality)
    rgb //= step
    rgb *= step
    rgb += step // 2
    return rgb


@pytest.fixture
def in_place(monkeypatch: pytest.MonkeyPatch) -> Own:
    codec = Own("inplace", few_bits_in_place)
    monkeypatch.setitem(CODECS, "inplace", codec)
    return codec


@pytest.fixture
def lr() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (24, 36, 3), np.uint8)


@pytest.mark.parametrize("writable", [True, False])
def test_a_codec_may_work_in_place(in_place: Own, lr: np.ndarray, writable: bool) -> None:
    before = lr.copy()
    lr.flags.writeable = writable
    for quality in QUALITIES:
        coded = code_image(in_place, lr, quality, name="noise")
        np.testing.assert_array_equal(coded.pixels, few_bits(before, quality))
    np.testing.assert_array_equal(lr, before)


def test_training_images_of_other_codecs_are_not_touched(in_place: Own, tmp_path: Path) -> None:
    """All settings of an image share one reduced image; WebP again by Pillow itself."""
    path = image_folder("validation") / "nyc.webp"
    settings = [*(Setting("inplace", quality) for quality in QUALITIES), Setting("webp", 20)]
    [image] = degrade_images([path], settings, ArrayCache(tmp_path))
    lr = bicubic_down4(np.asarray(image.gt))
    for quality in QUALITIES:
        coded = np.asarray(image.lq[Setting("inplace", quality)])
        np.testing.assert_array_equal(coded, few_bits(lr, quality))
    stream = io.BytesIO()
    Image.fromarray(lr).save(stream, "WEBP", quality=20, method=4)
    webp = np.asarray(Image.open(stream).convert("RGB"))
    np.testing.assert_array_equal(np.asarray(image.lq[Setting("webp", 20)]), webp)


def test_measurements_of_other_codecs_are_not_touched(
    in_place: Own, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CODECS, "copying", Own("copying", few_bits))
    images = load_eval_set("GB82-val", limit=1)
    mine, _ = measure_rates({"inplace": QUALITIES, "webp": (20,)}, images, {})
    expected, _ = measure_rates({"copying": QUALITIES, "webp": (20,)}, images, {})
    assert [point.psnr_db for point in mine] == [point.psnr_db for point in expected]


def test_the_check_of_a_codec_takes_one_that_works_in_place(in_place: Own) -> None:
    assert check_codec(in_place) == check_codec(Own("inplace", few_bits))
    assert check_codec(in_place).ok


@pytest.mark.parametrize(
    ("pixels", "found"),
    [
        (lambda rgb, _: rgb[1:], r"uint8 of shape \(23, 36, 3\)"),
        (lambda rgb, _: rgb[..., 0], r"uint8 of shape \(24, 36\)"),
        (lambda rgb, _: rgb / 1.0, r"float64 of shape \(24, 36, 3\)"),
        (lambda rgb, _: Image.fromarray(rgb), "a Image"),
        (lambda rgb, _: None, "a NoneType"),
    ],
)
def test_what_is_no_picture_of_that_size_is_refused_before_it_is_cached(
    pixels: Callable[[np.ndarray, int], Any], found: str, lr: np.ndarray, tmp_path: Path
) -> None:
    codec, cache = Own("faulty", pixels), ArrayCache(tmp_path / "cache")
    setting = Setting("faulty", 6)
    message = rf"^faulty: {found} came back at bits 6, not uint8 of shape \(24, 36, 3\)$"
    with pytest.raises(CodecError, match=message):
        compress_lr(lr, setting, cache, codec=codec)
    assert not cache.root.exists()
    codec.pixels = few_bits  # mended, under the same fingerprint
    np.testing.assert_array_equal(compress_lr(lr, setting, cache, codec=codec), few_bits(lr, 6))


def test_pixels_alone_are_refused(lr: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = Own("bare", few_bits)
    monkeypatch.setattr(codec, "roundtrip", few_bits)
    with pytest.raises(CodecError, match=r"^bare gave a ndarray at bits 6, not a Degraded\("):
        code_image(codec, lr, 6, name="noise")


@pytest.mark.parametrize(("name", "what"), [("nyc", "'nyc', "), ("", "an image of ")])
def test_an_error_of_its_own_says_what_was_being_coded(
    name: str, what: str, lr: np.ndarray
) -> None:
    def fail(_rgb: np.ndarray, quality: int) -> np.ndarray:
        raise KeyError(quality)

    with pytest.raises(KeyError) as caught:
        code_image(Own("failing", fail), lr, 6, name=name)
    assert caught.value.__notes__ == [f"failing was coding {what}36 x 24 pixels, at bits 6"]
