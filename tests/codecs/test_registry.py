"""The table of codecs, and the pinned options of JPEG and WebP."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image, JpegImagePlugin, features

from ucip_adapt.codecs import CODECS, get_codec, list_codecs
from ucip_adapt.codecs.base import fingerprint_digest
from ucip_adapt.codecs.gif import GIF
from ucip_adapt.codecs.heic import HEIC
from ucip_adapt.codecs.jpegxl import JPEGXL, distance_of
from ucip_adapt.codecs.pillow import AVIF, JPEG, JPEG2000, WEBP
from ucip_adapt.errors import CodecError, UnknownNameError


def test_codecs_are_found_by_name() -> None:
    assert get_codec("jpeg") is JPEG
    assert [spec.name for spec, _ in list_codecs()] == list(CODECS)


@pytest.mark.parametrize(("name", "hint"), [("wepb", "did you mean 'webp'"), ("", "Known")])
def test_an_unknown_codec_names_the_known_ones(name: str, hint: str) -> None:
    with pytest.raises(UnknownNameError, match=f"unknown codec '{name}'.*{hint}") as caught:
        get_codec(name)
    assert all(known in str(caught.value) for known in CODECS)


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        (JPEG, {"format": "JPEG", "subsampling": 2, "optimize": False, "progressive": False}),
        (WEBP, {"format": "WEBP", "method": 4, "lossless": False}),
    ],
    ids=["jpeg", "webp"],
)
def test_bytes_and_pixels_are_pillows_with_the_options_of_the_suite(
    codec, options, lr: np.ndarray
) -> None:
    for quality in (10, 20, 30, 40):
        buffer = io.BytesIO()
        Image.fromarray(lr).save(buffer, quality=quality, **options)
        coded = codec.roundtrip(lr, quality)
        assert coded.num_bytes == len(buffer.getvalue())
        np.testing.assert_array_equal(coded.pixels, np.asarray(Image.open(buffer).convert("RGB")))


@pytest.mark.parametrize("name", ["avif", "jpeg2000", "jpegxl", "heic"])
def test_the_settings_are_those_found_to_spend_the_bits_of_webp(name: str, repo_root: Path) -> None:
    record = json.loads((repo_root / "results" / "matched_rates.json").read_text())
    found = record["scores"]["settings"][name]
    assert list(found) == [str(quality) for quality in WEBP.spec.qualities]
    assert tuple(row["setting"] for row in found.values()) == CODECS[name].spec.qualities
    assert all(abs(row["off_percent"]) < 5 for row in found.values())


def test_avif_and_jpeg_2000_are_pillows_with_the_options_that_matter(lr: np.ndarray) -> None:
    for codec, quality, options in (
        (AVIF, 45, {"quality": 45, "speed": 6, "subsampling": "4:2:0", "max_threads": 1}),
        (JPEG2000, 277, {"quality_mode": "dB", "quality_layers": [27.7], "mct": 1}),
    ):
        buffer = io.BytesIO()
        more = {"irreversible": True} if codec is JPEG2000 else {}
        Image.fromarray(lr).save(buffer, codec.pillow_format, **options, **more)
        coded = codec.roundtrip(lr, quality)
        assert coded.stream == buffer.getvalue()
        np.testing.assert_array_equal(coded.pixels, np.asarray(Image.open(buffer).convert("RGB")))


def test_colour_transform_of_jpeg_2000_saves_bits(lr: np.ndarray) -> None:
    """Pillow leaves it out unless told otherwise."""
    apart = dataclasses.replace(JPEG2000, options=(("irreversible", True), ("mct", 0)))
    together, separate = JPEG2000.roundtrip(lr, 277), apart.roundtrip(lr, 277)
    assert together.num_bytes < 0.8 * separate.num_bytes


def test_streams_are_what_another_decoder_reads(lr: np.ndarray) -> None:
    imagecodecs = pytest.importorskip("imagecodecs")
    for codec, decode in ((JPEG, imagecodecs.jpeg8_decode), (WEBP, imagecodecs.webp_decode)):
        coded = codec.roundtrip(lr, 30)
        np.testing.assert_array_equal(decode(coded.stream), coded.pixels)


@pytest.mark.parametrize("colours", [2, 16, 200])
def test_gif_has_few_colours(colours: int, lr: np.ndarray) -> None:
    coded = GIF.roundtrip(lr, colours)
    palette = np.unique(coded.pixels.reshape(-1, 3), axis=0)
    assert colours / 2 <= len(palette) <= colours
    imagecodecs = pytest.importorskip("imagecodecs")
    np.testing.assert_array_equal(imagecodecs.gif_decode(coded.stream), coded.pixels)


def test_gif_dithers() -> None:
    """On a ramp, between the palette's ends: diffused errors cancel over an area."""
    ramp = np.linspace(0, 255, 128).round().astype(np.uint8)
    picture = np.repeat(np.tile(ramp, (128, 1))[..., None], 3, axis=2)
    coded = GIF.roundtrip(picture, 4).pixels.astype(float)
    palette = np.unique(coded)
    assert len(palette) == 4
    nearest = palette[np.abs(palette - picture[..., :1]).argmin(axis=2)][..., None]

    def error(pixels: np.ndarray, side: int) -> float:
        """Root mean square error of means over squares of the middle."""
        off = (pixels - picture)[:, 32:96].mean(axis=2)
        off = off.reshape(128 // side, side, 64 // side, side)
        return float(np.sqrt(np.square(off.mean(axis=(1, 3))).mean()))

    assert error(coded, 1) > error(nearest, 1)
    assert error(coded, 8) < 0.3 * error(nearest, 8)


def test_heic_does_not_depend_on_the_number_of_cores(lr: np.ndarray) -> None:
    """With wavefronts, x265's default where it has threads, the bytes differ from none."""
    library = pytest.importorskip("pillow_heif")

    def encode(**options: object) -> bytes:
        buffer = io.BytesIO()
        library.encode("RGB", (144, 144), lr.tobytes(), buffer, quality=31, chroma=420, **options)
        return buffer.getvalue()

    one_thread = {"x265:pools": "1", "x265:frame-threads": "1", "x265:wpp": "0"}
    coded = HEIC.roundtrip(lr, 31)
    assert coded.stream == encode(enc_params=one_thread)
    assert len(encode()) != coded.num_bytes
    image = library.open_heif(io.BytesIO(coded.stream))
    np.testing.assert_array_equal(np.asarray(image.to_pillow().convert("RGB")), coded.pixels)


def test_quality_of_jpeg_xl_follows_libjxl(lr: np.ndarray) -> None:
    """As documented for `cjxl`: -q 90 is a distance of 1, -q 30 one of 6.4."""
    imagecodecs = pytest.importorskip("imagecodecs")
    assert [round(distance_of(quality), 3) for quality in (100, 90, 30)] == [0.1, 1.0, 6.4]
    assert 6.4 < distance_of(29) < distance_of(20) == pytest.approx(9.067, abs=1e-3)
    for quality, distance in ((90, 1.0), (30, 6.4)):
        stream = imagecodecs.jpegxl_encode(lr, distance=distance, effort=7, numthreads=1)
        assert JPEGXL.roundtrip(lr, quality).stream == stream


def test_jpeg_halves_the_chroma(lr: np.ndarray) -> None:
    """4:2:0, what the paper's baselines were made with; 4:4:4 would be 1 dB better in RGB."""
    buffer = io.BytesIO()
    Image.fromarray(lr).save(buffer, "JPEG", quality=40, **dict(JPEG.options))
    assert JpegImagePlugin.get_sampling(Image.open(buffer)) == 2


@pytest.mark.parametrize(
    ("codec", "bpp"),
    [(JPEG, (0.613, 0.830, 1.025, 1.179)), (WEBP, (0.409, 0.530, 0.653, 0.782))],
    ids=["jpeg", "webp"],
)
def test_rates_stay_near_the_measured_ones(codec, bpp, lr: np.ndarray) -> None:
    """Measured with Pillow 13.0; a digest would hold for one library build only."""
    rates = [codec.roundtrip(lr, quality).bpp for quality in (10, 20, 30, 40)]
    assert rates == pytest.approx(bpp, rel=0.05)


@pytest.mark.parametrize("codec", [JPEG, WEBP], ids=["jpeg", "webp"])
def test_the_fingerprint_changes_with_options_and_versions(
    codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    fingerprint = codec.fingerprint()
    assert fingerprint["options"] == dict(codec.options)
    assert fingerprint["version"] == PIL.__version__
    assert fingerprint["encoder"] == f"{codec.feature} {features.version(codec.feature)}"

    name, value = codec.options[0]
    other = dataclasses.replace(codec, options=((name, value + 1), *codec.options[1:]))
    assert fingerprint_digest(other.fingerprint()) != fingerprint_digest(fingerprint)
    monkeypatch.setattr(PIL, "__version__", "99.0")
    assert fingerprint_digest(codec.fingerprint()) != fingerprint_digest(fingerprint)


def test_a_pillow_without_the_format_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda name: False)
    availability = WEBP.available()
    assert not availability.ok
    assert availability.reason == "this build of Pillow has no WEBP"
    assert availability.install == "pip install --upgrade pillow"


def test_a_side_beyond_the_formats_limit_is_refused() -> None:
    with pytest.raises(CodecError, match=r"webp allows 16383 pixels a side, .*\(1, 16384\)"):
        WEBP.roundtrip(np.zeros((1, 16384, 3), np.uint8), 10)
    assert WEBP.roundtrip(np.zeros((1, 16383, 3), np.uint8), 10).pixels.shape == (1, 16383, 3)
    assert JPEG.roundtrip(np.zeros((1, 65500, 3), np.uint8), 10).pixels.shape == (1, 65500, 3)


def test_a_library_that_fails_is_a_codec_error(
    monkeypatch: pytest.MonkeyPatch, lr: np.ndarray
) -> None:
    def fail(*_args: object, **_options: object) -> None:
        raise OSError("encoder error -2")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(CodecError, match=r"jpeg failed on \(144, 144\) pixels: encoder error -2"):
        JPEG.roundtrip(lr, 10)
