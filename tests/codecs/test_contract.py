"""What every codec of the table must do; a new entry is tested by being there."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import ucip_adapt
from ucip_adapt.codecs import CODECS, Codec, CodecSpec, Degraded
from ucip_adapt.codecs.base import fingerprint_digest
from ucip_adapt.errors import CodecError, ConfigError

# Pixels and bitstreams of a codec may take this range over the qualities of its suite: wide enough
# for any codec of the paper, narrow enough to notice a quality that is not passed on, or a rate in
# bytes or per colour channel.
BPP = (0.05, 8.0)
PSNR_DB = (18.0, 45.0)

ODD_SIZES = [(1, 1), (1, 40), (40, 1), (2, 2), (7, 13), (33, 18), (64, 35)]


# Small: slow encoders need a second for 144 x 144 pixels.
SIDE = 96


@pytest.fixture(params=CODECS)
def codec(request: pytest.FixtureRequest) -> Codec:
    """Each codec in turn, as far as it works on this machine."""
    codec = CODECS[request.param]
    availability = codec.available()
    if not availability.ok:
        pytest.skip(f"{request.param}: {availability.reason}. {availability.install}")
    return codec


@pytest.fixture(scope="module")
def image(lr: np.ndarray) -> np.ndarray:
    return lr[24 : 24 + SIDE, 24 : 24 + SIDE].copy()


@pytest.fixture(scope="module")
def coded(image: np.ndarray) -> Callable[[Codec, int], Degraded]:
    """The image after a codec; several tests look at the same result."""

    @functools.cache
    def of_name(name: str, quality: int) -> Degraded:
        return CODECS[name].roundtrip(image, quality)

    return lambda codec, quality: of_name(codec.spec.name, quality)


def psnr_db(preds: np.ndarray, target: np.ndarray) -> float:
    error = np.mean((preds.astype(np.float64) - target.astype(np.float64)) ** 2)
    return float(10 * np.log10(255**2 / error))


def test_the_table_is_not_empty_and_its_basic_codecs_work() -> None:
    assert {"jpeg", "webp"} <= set(CODECS)
    assert all(CODECS[name].available().ok for name in ("jpeg", "webp"))


@pytest.mark.parametrize("name", CODECS)
def test_the_spec_says_what_the_codec_is_without_its_library(name: str) -> None:
    spec = CODECS[name].spec
    assert isinstance(spec, CodecSpec)
    assert spec.name == name
    assert spec.family
    assert spec.parameter
    assert spec.qualities
    assert len(set(spec.qualities)) == len(spec.qualities)
    assert [spec.check_quality(quality) for quality in spec.qualities] == list(spec.qualities)
    assert spec.quality_range[0] < spec.quality_range[1]
    assert pickle.loads(pickle.dumps(spec)) == spec  # noqa: S301
    assert json.loads(json.dumps(dataclasses.asdict(spec)))["name"] == name
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.name = "other"  # type: ignore[misc]


@pytest.mark.parametrize("name", CODECS)
def test_a_codec_that_is_missing_says_why_and_what_to_do(name: str) -> None:
    availability = CODECS[name].available()
    assert availability == CODECS[name].available()
    assert availability.version if availability.ok else availability.reason and availability.install


def test_equal_input_gives_equal_output(codec: Codec, image: np.ndarray, coded) -> None:
    before = image.copy()
    for quality in codec.spec.qualities:
        first, second = coded(codec, quality), codec.roundtrip(image, quality)
        assert first.num_bytes == second.num_bytes
        assert first.stream == second.stream
        np.testing.assert_array_equal(first.pixels, second.pixels)
        assert (first.pixels.shape, first.pixels.dtype) == (image.shape, np.uint8)
        assert first.pixels.flags.writeable
    np.testing.assert_array_equal(image, before)


def test_several_threads_change_nothing(codec: Codec, image: np.ndarray) -> None:
    quality, part = codec.spec.qualities[0], image[:32, :48]
    alone = codec.roundtrip(part, quality).pixels
    with ThreadPoolExecutor(3) as pool:
        for other in pool.map(lambda _: codec.roundtrip(part, quality).pixels, range(3)):
            np.testing.assert_array_equal(other, alone)


def test_memory_layout_does_not_matter(codec: Codec, image: np.ndarray) -> None:
    quality = codec.spec.qualities[0]
    views = {
        "flipped": image[31::-1, 40::-1],
        "swapped": image[:24, :40].transpose(1, 0, 2),
        "read-only": image[:30, :20].copy(),
    }
    views["read-only"].flags.writeable = False
    for name, view in views.items():
        copied = codec.roundtrip(view.copy(order="C"), quality)
        np.testing.assert_array_equal(codec.roundtrip(view, quality).pixels, copied.pixels, name)


def test_rate_and_fidelity_rise_over_the_qualities(codec: Codec, image: np.ndarray, coded) -> None:
    """The suite names them from the worst picture to the best."""
    results = [coded(codec, quality) for quality in codec.spec.qualities]
    rates = [one.bpp for one in results]
    psnrs = [psnr_db(one.pixels, image) for one in results]
    assert all(low < high for low, high in itertools.pairwise(rates)), rates
    assert all(low < high for low, high in itertools.pairwise(psnrs)), psnrs
    assert BPP[0] < rates[0] < rates[-1] < BPP[1]
    assert PSNR_DB[0] < psnrs[0] < psnrs[-1] < PSNR_DB[1]


def test_the_rate_counts_the_bits_of_the_whole_stream(codec: Codec, coded) -> None:
    one = coded(codec, codec.spec.qualities[-1])
    assert one.bpp == pytest.approx(8 * one.num_bytes / SIDE**2, rel=1e-12)
    assert one.stream is None or len(one.stream) == one.num_bytes
    assert one.seconds is None or one.seconds > 0


def test_odd_and_tiny_sizes_keep_their_size_and_place(codec: Codec) -> None:
    """On a ramp from left to right, padding that leaks into the image or shifts it shows."""
    for height, width in ODD_SIZES:
        # At most 12 levels a pixel: two pixels far apart are lost by any coarse quantiser.
        ramp = np.linspace(60, min(200, 60 + 12 * (width - 1)), width).astype(np.uint8)
        image = np.broadcast_to(ramp[None, :, None], (height, width, 3))
        for quality in (codec.spec.qualities[0], codec.spec.qualities[-1]):
            coded = codec.roundtrip(image, quality)
            assert coded.pixels.shape == (height, width, 3)
            assert coded.num_bytes > 0
            error = np.abs(coded.pixels.astype(int) - image).mean()
            assert error < 25, f"{height} x {width} at {quality}: {error:.1f} levels off"


# Grey, alpha and 16 bits are for the reader to handle: a codec would convert them in its own way.
NOT_RGB = {
    r"float32 of shape \(8, 8, 3\)": np.zeros((8, 8, 3), np.float32),
    r"uint16 of shape \(8, 8, 3\)": np.zeros((8, 8, 3), np.uint16),
    r"bool of shape \(8, 8, 3\)": np.zeros((8, 8, 3), bool),
    r"uint8 of shape \(8, 8\)": np.zeros((8, 8), np.uint8),
    r"uint8 of shape \(8, 8, 1\)": np.zeros((8, 8, 1), np.uint8),
    r"uint8 of shape \(8, 8, 4\)": np.zeros((8, 8, 4), np.uint8),
    r"uint8 of shape \(3, 8, 8\)": np.zeros((3, 8, 8), np.uint8),
    r"uint8 of shape \(0, 8, 3\)": np.zeros((0, 8, 3), np.uint8),
}


def test_anything_but_8_bit_rgb_is_refused(codec: Codec) -> None:
    for found, image in NOT_RGB.items():
        message = rf"{codec.spec.name} codes H x W x 3 uint8 images, got {found}"
        with pytest.raises(CodecError, match=message):
            codec.roundtrip(image, codec.spec.qualities[0])


def test_a_quality_out_of_range_is_named_with_the_range(codec: Codec, lr: np.ndarray) -> None:
    low, high = codec.spec.quality_range
    for quality in (low - 1, high + 1):
        message = rf"{codec.spec.name} takes {codec.spec.parameter} {low} to {high}, not {quality}"
        with pytest.raises(ConfigError, match=message):
            codec.roundtrip(lr, quality)
    for quality in (low, high):
        assert codec.roundtrip(lr[:24, :24], quality).pixels.shape == (24, 24, 3)


def test_the_fingerprint_pins_library_version_and_options(codec: Codec) -> None:
    fingerprint = codec.fingerprint()
    assert fingerprint == codec.fingerprint()
    assert fingerprint["codec"] == codec.spec.name
    assert fingerprint["library"]
    assert any(char.isdigit() for char in fingerprint["version"])
    assert fingerprint["options"]
    assert json.loads(json.dumps(fingerprint)) == fingerprint
    here = [other for other in CODECS.values() if other.available().ok]
    assert len({fingerprint_digest(other.fingerprint()) for other in here}) == len(here)


def test_the_digest_of_a_fingerprint_follows_its_values_not_their_order() -> None:
    one = fingerprint_digest({"codec": "x", "options": {"a": 1, "b": 2}})
    assert one == fingerprint_digest({"options": {"b": 2, "a": 1}, "codec": "x"})
    assert one != fingerprint_digest({"codec": "x", "options": {"a": 1, "b": 3}})


# What the extras bring; torch and constriction are dependencies of the package itself.
EXTRAS = ("av", "compressai", "imagecodecs", "imageio_ffmpeg", "pillow_heif")


def run_alone(code: str) -> str:
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(ucip_adapt.__file__).parents[1],
        env={**os.environ, "PATH": "", "UCIP_HM": "", "UCIP_VTM": "", "UCIP_FFMPEG": ""},
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_the_table_loads_no_optional_library() -> None:
    code = (
        "import sys; import ucip_adapt.codecs as c; [x.spec for x in c.CODECS.values()]; "
        f"print(sorted({{*{EXTRAS}, 'constriction', 'torch', 'PIL'}} & set(sys.modules)))"
    )
    assert run_alone(code).strip() == "[]"


def test_without_its_library_a_codec_is_a_message() -> None:
    """As if no extra were installed: `None` in sys.modules refuses an import."""
    code = f"""
import sys
sys.modules.update(dict.fromkeys({EXTRAS!r}))
import numpy as np
from ucip_adapt.codecs import CODECS
from ucip_adapt.errors import CodecError
for name, codec in CODECS.items():
    state = codec.available()
    if state.ok:
        print("here", name)
        continue
    assert state.reason and state.install and "Traceback" not in state.reason, (name, state)
    for act in (
        codec.fingerprint,
        lambda: codec.roundtrip(np.zeros((16, 16, 3), np.uint8), codec.spec.qualities[0]),
    ):
        try:
            act()
        except CodecError as error:
            assert state.reason in str(error) and state.install in str(error), (name, str(error))
        else:
            raise AssertionError(name + " worked, and said that it would not")
"""
    here = {line.split()[1] for line in run_alone(code).splitlines()}
    assert {"jpeg", "webp", "avif", "jpeg2000"} <= here
    assert not [name for name in here if CODECS[name].spec.extra]
    assert not {"hm", "vtm", "cheng2020-mse", "elic"} & here
