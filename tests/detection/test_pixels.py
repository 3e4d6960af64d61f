"""Codec and quality by pixels: the measurements, and what is said of held-out pictures."""

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw
from safetensors.numpy import load_file, save_file

from ucip_adapt.assets import detector_file
from ucip_adapt.codecs import get_codec
from ucip_adapt.data import load_eval_set
from ucip_adapt.detection import choose_adapter, detect_picture, detect_pixels
from ucip_adapt.detection.features import (
    _harmonics,
    _sliding_dct,
    feature_names,
    traces_of,
    windows_of,
)
from ucip_adapt.detection.pixels import load_detector, shipped_detector
from ucip_adapt.errors import DataError
from ucip_adapt.imaging import Picture


@pytest.fixture(scope="module")
def pictures():
    return [image.lr for image in load_eval_set("GB82-val").images]


def coded(image, name, quality):
    return get_codec(name).roundtrip(image, quality).pixels


def test_the_sliding_dct_is_that_of_scipy():
    fft = pytest.importorskip("scipy.fft")
    plane = np.random.default_rng(0).uniform(0, 255, (21, 26)).astype(np.float32)
    for size in (4, 8):
        found = _sliding_dct(plane, size)
        assert found.shape == (22 - size, 27 - size, size, size)
        for y, x in ((0, 0), (5, 9), (21 - size, 26 - size)):
            block = plane[y : y + size, x : x + size] - 128
            np.testing.assert_allclose(found[y, x], fft.dctn(block, norm="ortho"), atol=2e-3)


@pytest.mark.parametrize("period", [2, 4, 8, 16])
def test_a_grid_has_the_same_strength_wherever_it_starts(period):
    columns = np.arange(80)
    found = [_harmonics((columns[None] % period == start) * 1.0) for start in range(period)]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=1e-6)
    assert found[0].argmax() == 16 // period - 1
    assert found[0].max() > 1 / period - 0.02


def test_the_quality_of_a_jpeg_is_read_at_every_place_of_its_grid(pictures):
    image = pictures[0]
    for quality in (10, 25, 40, 75):
        pixels = coded(image, "jpeg", quality)
        for top, left in ((0, 0), (1, 0), (3, 5), (7, 7)):
            traces = traces_of(pixels[top:, left:])
            assert (traces.jpeg_quality, traces.jpeg_fit > 0.5) == (quality, True)
    assert traces_of(image).jpeg_fit < 0.3


def test_any_size_from_16_pixels_has_finite_features(pictures):
    for height, width in ((16, 16), (16, 61), (97, 17), (33, 40)):
        pixels = pictures[0][:height, :width]
        for image in (pixels, np.zeros_like(pixels), np.full_like(pixels, 255)):
            features = traces_of(image).features
            assert features.shape == (len(feature_names()),)
            assert np.isfinite(features).all()
            assert 0 <= detect_pixels(image).confidence <= 1
    assert detect_pixels(pictures[0][:15]).reason == "too small to tell from its pixels"


@pytest.mark.parametrize("side", [20, 47])
def test_of_small_pictures_nothing_is_said(pictures, side):
    assert detect_pixels(pictures[0][:side]).reason == "too small to tell from its pixels"


def test_of_drawings_nothing_is_said(pictures):
    steps = np.linspace(0, 255, 120).astype(np.uint8)
    across = np.broadcast_to(steps[None, :, None], (80, 120, 3))
    text = Image.new("RGB", (260, 180), "white")
    draw = ImageDraw.Draw(text)
    draw.fontmode = "1"  # without grey edges
    for y in range(4, 180, 12):
        draw.text((4, y), "the quick brown fox jumps over the lazy dog", "black")
    drawings = {
        "all rows are alike": [across, np.zeros((64, 64, 3), np.uint8)],
        "all columns are alike": [across.transpose(1, 0, 2)],
        "they have 2 colours": [np.array(text)],
        "every pixel is repeated": [
            np.repeat(np.repeat(image, times, axis=0), times, axis=1)
            for image in pictures[:2]
            for times in (2, 3, 4)
        ],
    }
    for reason, images in drawings.items():
        for image in images:
            found = detect_pixels(image)
            assert found.codec is None
            assert found.reason == f"its pixels are no photograph's: {reason}"
    for image in pictures:  # the coarsest of photographs are looked at all the same
        for name, quality in (("jpeg", 5), ("webp", 5), ("gif", 16)):
            assert "photograph" not in detect_pixels(coded(image, name, quality)).reason


def test_a_large_picture_is_looked_at_in_four_windows_on_its_grid():
    image = np.arange(700 * 900).reshape(700, 900, 1)
    windows = windows_of(image)
    assert [window.shape for window in windows] == [(256, 256, 1)] * 4
    starts = [divmod(int(window[0, 0, 0]), 900) for window in windows]
    assert all(y % 16 == 0 and x % 16 == 0 for y, x in starts)
    assert len(set(starts)) == 4


def test_held_out_pictures_are_told(pictures):
    """Bounds are well below what docs/detection.md measured, and far above guessing."""
    right, wrong, count = 0, 0, 0
    for image in pictures:
        for name, quality in (("jpeg", 10), ("jpeg", 40), ("webp", 20), ("jpeg2000", 264)):
            found = detect_pixels(coded(image, name, quality))
            count += 1
            right += found.codec == name
            wrong += found.codec not in {name, None}
            if (found.codec, name) == ("jpeg", "jpeg"):
                assert found.quality == quality
    assert right >= 0.7 * count
    assert wrong <= 0.1 * count
    clean = [detect_pixels(image) for image in pictures]
    assert sum(found.codec is not None for found in clean) <= 1


def test_what_is_unsure_is_not_said():
    detector = shipped_detector()
    count = len(detector.codecs)
    odds = np.full(count, (1.0 - detector.threshold + 0.01) / (count - 1))
    odds[2] = detector.threshold - 0.01
    unsure = detector.decide(odds, {})
    assert (unsure.codec, unsure.confidence) == (None, round(detector.threshold - 0.01, 3))
    assert "too unsure" in unsure.reason
    choice = choose_adapter("auto", unsure)
    assert choice.adapter is None
    assert choice.reason.endswith("nothing to choose by: the base alone")
    odds[2] += 0.02
    sure = detector.decide(odds, {detector.codecs[2]: 20})
    assert (sure.codec, sure.quality) == (detector.codecs[2], 20)


def test_depth_and_channels_change_nothing_that_is_seen(pictures):
    pixels = coded(pictures[0], "jpeg", 20)
    plain = detect_picture(Picture(pixels))
    deep = detect_picture(Picture(pixels.astype(np.uint16) * 257))
    assert (plain.codec, plain.quality) == ("jpeg", 20)
    assert deep == plain
    grey = coded(np.repeat(pictures[0][..., :1], 3, axis=2), "jpeg", 20)[..., :1]
    assert detect_picture(Picture(grey)).codec in {"jpeg", None}
    assert traces_of(np.repeat(grey, 3, axis=2)).jpeg_quality == 20
    silent = detect_picture(Picture(pixels), b"\x89PNG", pixels=False)
    assert (silent.codec, silent.reason.startswith("the container does not say")) == (None, True)


def test_a_damaged_detector_is_refused_with_its_name(tmp_path):
    weights = load_file(detector_file())
    path = tmp_path / "other.safetensors"
    for tensors, metadata in (
        (weights, None),
        (weights, {"ucip_adapt": "{}"}),
        (weights, {"ucip_adapt": json.dumps({"format_version": "9.0"})}),
        ({"mean": weights["mean"]}, None),
    ):
        save_file(tensors, path, metadata)
        with pytest.raises(DataError, match=r"other\.safetensors"):
            load_detector(path)
    path.write_bytes(b"no tensors")
    with pytest.raises(DataError, match="cannot be used"):
        load_detector(path)


def test_the_shipped_detector_is_small_and_of_images_that_may_be_passed_on():
    assert detector_file().stat().st_size < 100_000
    detector = shipped_detector()
    assert detector.training["train_data_dir"] == ["embedded", "CID22"]
    assert {"jpeg", "webp", "avif", "heic", "jpegxl", "jpeg2000"} < set(detector.codecs)
    licence = (detector_file().parent / "LICENSE").read_text(encoding="utf-8")
    assert "Attribution-ShareAlike 4.0" in licence
    assert "Cloudinary" in licence
