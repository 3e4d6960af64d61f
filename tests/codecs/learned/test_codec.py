"""Whole streams of the codecs that ship: other processes, damage, sizes, monotony."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from ucip_adapt.codecs import CODECS
from ucip_adapt.codecs.learned import TINY_CODECS, TINY_ELIC, TINY_MSE
from ucip_adapt.codecs.learned.container import unpack
from ucip_adapt.codecs.learned.weights import load_codec, save_codec
from ucip_adapt.errors import CodecError, ConfigError

SIZES = [(1, 1), (1, 37), (29, 1), (8, 8), (9, 23), (64, 65)]

DECODE_ELSEWHERE = """
import sys
from pathlib import Path
import numpy as np
import torch
torch.set_num_threads(2)
from ucip_adapt import get_codec
for path in sorted(Path(sys.argv[1]).glob("*/*.bin")):
    np.save(path.with_suffix(".npy"), get_codec(path.parent.name).decode(path.read_bytes()))
"""


@pytest.fixture(params=TINY_CODECS)
def codec(request):
    return TINY_CODECS[request.param]


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    error = (first.astype(np.float64) - second.astype(np.float64)) ** 2
    return float(10 * np.log10(255**2 / error.mean()))


def test_all_four_ship_and_are_in_the_table():
    assert list(TINY_CODECS) == ["tiny-mse", "tiny-msssim", "tiny-perceptual", "tiny-elic"]
    for name, codec in TINY_CODECS.items():
        assert CODECS[name] is codec
        assert codec.available().ok
        assert not codec.spec.faithful
        assert codec.path.stat().st_size < 1_000_000
        stored = load_codec(codec.path)
        assert stored.codec == name
        assert stored.network.config.rates == len(codec.spec.qualities)
        assert set(stored.training["train_data_dir"]) <= {"CID22", "embedded"}


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_stream_alone_gives_the_pixels(codec, lr, size):
    image = np.ascontiguousarray(lr[20 : 20 + size[0], 30 : 30 + size[1]])
    quality = codec.spec.qualities[-1]
    coded, stream = codec.roundtrip(image, quality), codec.encode(image, quality)
    assert coded.pixels.shape == image.shape
    assert coded.pixels.dtype == np.uint8
    assert coded.num_bytes == len(stream)
    np.testing.assert_array_equal(codec.decode(stream), coded.pixels)
    assert psnr(coded.pixels, image) > 22


def test_another_process_decodes_the_same_pixels(lr, tmp_path):
    """One that computes in two threads."""
    expected = {}
    for name, codec in TINY_CODECS.items():
        (tmp_path / name).mkdir()
        for quality in codec.spec.qualities:
            image = np.ascontiguousarray(lr[: 50 + quality, : 61 + 9 * quality])
            place = tmp_path / name / str(quality)
            place.with_suffix(".bin").write_bytes(codec.encode(image, quality))
            expected[place.with_suffix(".npy")] = codec.roundtrip(image, quality).pixels
    command = [sys.executable, "-c", DECODE_ELSEWHERE, str(tmp_path)]
    subprocess.run(command, check=True, timeout=200)
    assert len(expected) == 15
    for path, pixels in expected.items():
        np.testing.assert_array_equal(np.load(path), pixels)


def test_a_damaged_stream_is_an_error(codec, picture):
    stream = codec.encode(picture, 2)
    rng = np.random.default_rng(0)
    damaged = [stream[:length] for length in (0, 1, 9, len(stream) // 2, len(stream) - 1)]
    damaged += [stream + b"\0\0\0\0", stream[:6] + stream[10:]]
    for place in rng.integers(0, len(stream), 30):
        one = bytearray(stream)
        one[place] ^= int(rng.integers(1, 256))
        damaged.append(bytes(one))
    for data in damaged:
        with pytest.raises(CodecError):
            codec.decode(data)


def test_a_payload_that_lies_ends_too(picture):
    """Whoever forges the checksum gets noise or an error, and at once."""
    stream = TINY_MSE.encode(picture, 1)
    coder, sha256 = TINY_MSE._coder()
    header, payload = unpack(stream, "tiny-mse", sha256)
    rng = np.random.default_rng(0)
    for _ in range(10):
        noise = rng.integers(0, 256, len(payload), np.uint8).tobytes()
        try:
            pixels = coder.decode(noise, header.rate - 1, header.height, header.width)
            assert pixels.shape == picture.shape
        except CodecError:
            pass
    with pytest.raises(CodecError, match="no whole number of words"):
        coder.decode(payload[:-1], 0, header.height, header.width)


def test_streams_of_other_weights_are_refused(picture, tmp_path):
    other = tmp_path / "tiny-mse.safetensors"
    save_codec(other, "tiny-mse", load_codec(TINY_MSE.path).network, {"the same": "but a note"})
    stream = TINY_MSE.encode(picture, 1)
    with pytest.raises(CodecError, match="other weights of tiny-mse"):
        dataclasses.replace(TINY_MSE, weights=other).decode(stream)
    with pytest.raises(CodecError, match="made by tiny-mse, not by tiny-elic"):
        TINY_ELIC.decode(stream)
    elic = shutil.copy(TINY_ELIC.path, tmp_path / "elic.safetensors")
    with pytest.raises(CodecError, match="holds weights of tiny-elic, not of tiny-mse"):
        dataclasses.replace(TINY_MSE, weights=tmp_path / elic).encode(picture, 1)
    other.write_bytes(TINY_MSE.path.read_bytes()[:1000])
    with pytest.raises(CodecError, match="is no readable codec"):
        dataclasses.replace(TINY_MSE, weights=other).encode(picture, 1)
    other.unlink()
    with pytest.raises(CodecError, match=r"no file of weights tiny-mse.safetensors. train"):
        dataclasses.replace(TINY_MSE, weights=other).encode(picture, 1)


def test_rate_and_quality_rise_together(codec, lr):
    coded = [codec.roundtrip(lr, quality) for quality in codec.spec.qualities]
    sizes = [one.num_bytes for one in coded]
    scores = [psnr(one.pixels, lr) for one in coded]
    assert sizes == sorted(set(sizes))
    assert scores == sorted(set(scores))
    with pytest.raises(ConfigError, match=f"takes rate 1 to {len(sizes)}, not {len(sizes) + 1}"):
        codec.encode(lr, len(sizes) + 1)


def test_threads_change_nothing_and_come_back(codec, picture):
    one = codec.encode(picture, 3)
    torch.set_num_threads(2)
    assert codec.encode(picture, 3) == one
    assert torch.get_num_threads() == 2


def test_what_a_training_sets_changes_nothing_and_comes_back(codec, lr):
    """Some processors round factors to bfloat16 under these settings."""
    image = lr[:64, :64]
    expected = codec.encode(image, 3)
    pixels = codec.decode(expected)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            assert codec.encode(image, 3) == expected
            assert np.array_equal(codec.decode(expected), pixels)
            assert torch.is_autocast_enabled("cpu")
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_the_fingerprint_names_the_weights(codec):
    print_ = codec.fingerprint()
    assert print_["weights_sha256"] == hashlib.sha256(codec.path.read_bytes()).hexdigest()
    assert print_["codec"] == codec.spec.name
    assert json.loads(json.dumps(print_)) == print_


def test_naming_the_codecs_imports_nothing_heavy():
    code = (
        "import sys, ucip_adapt.codecs.learned as t\n"
        "assert t.TINY_MSE.path.is_file()\n"
        "print([m for m in ('torch', 'safetensors', 'constriction') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
