"""VVC by vvenc: which FFmpeg is taken, the measured points, and what is in the stream."""

from __future__ import annotations

import io
import itertools
import stat
from pathlib import Path

import numpy as np
import pytest

from ucip_adapt.codecs import vvenc
from ucip_adapt.codecs.vvenc import OPTIONS, VVENC
from ucip_adapt.codecs.yuv import to_planes, to_rgb
from ucip_adapt.data import read_rgb
from ucip_adapt.errors import CodecError

av = pytest.importorskip("av")
LUMA = np.array([0.299, 0.587, 0.114])

# bpp and luma PSNR at QP 32, 37, 42, 47, measured with vvenc in FFmpeg n9.0.2.
POINTS = {
    "img_001": ((0.654, 33.88), (0.369, 30.52), (0.200, 27.42), (0.120, 24.75)),
    "img_005": ((1.289, 33.27), (0.842, 29.14), (0.550, 25.58), (0.346, 22.13)),
}


@pytest.fixture(autouse=True)
def _forget() -> None:
    vvenc._find.cache_clear()
    vvenc._version.cache_clear()


@pytest.fixture
def here() -> None:
    state = VVENC.available()
    if not state.ok:
        pytest.skip(f"{state.reason}. {state.install}")


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", POINTS)
def test_rate_and_fidelity_are_the_measured_ones(data_root: Path, name: str) -> None:
    """Without intraqpoffset=0 they would be those of a QP lower by 3: a third more bits."""
    lr = read_rgb(data_root / "Set5" / "LRbicx4" / f"{name}.png")
    for qp, (bpp, psnr) in zip((32, 37, 42, 47), POINTS[name], strict=True):
        coded = VVENC.roundtrip(lr, qp)
        error = coded.pixels.astype(float) @ LUMA - lr.astype(float) @ LUMA
        assert coded.bpp == pytest.approx(bpp, rel=0.02)
        assert 10 * np.log10(255**2 / np.mean(error**2)) == pytest.approx(psnr, abs=0.1)


@pytest.mark.usefixtures("here")
def test_the_stream_is_one_picture_that_decodes_to_the_pixels(lr: np.ndarray) -> None:
    part = lr[20:53, 30:61]
    coded = VVENC.roundtrip(part, 20)
    assert coded.num_bytes == len(coded.stream)
    assert coded.seconds > 0
    with av.open(io.BytesIO(coded.stream), format="vvc") as container:
        [frame] = container.decode(video=0)
    assert (frame.height, frame.width, frame.format.name) == (34, 32, "yuv420p10le")
    # Ten bits, little-endian, in order: a plane out of place would be tens of levels off.
    path_alone = to_rgb(to_planes(part, bits=10), 33, 31)
    assert np.abs(coded.pixels.astype(int) - path_alone).mean() < 3


@pytest.mark.usefixtures("here")
def test_the_fingerprint_holds_the_program_and_every_option() -> None:
    fingerprint = VVENC.fingerprint()
    assert "intraqpoffset=0" in fingerprint["options"]["arguments"]
    assert {("-qpa", "0"), ("-threads", "1")} <= set(itertools.pairwise(OPTIONS))
    assert len(fingerprint["sha256"]) == 64
    assert fingerprint["version"] in VVENC.available().version


@pytest.mark.usefixtures("here")
def test_an_ffmpeg_without_vvenc_on_the_path_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("imageio_ffmpeg")
    script(tmp_path / "ffmpeg", "echo ' V..... libx264 H.264'")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("UCIP_FFMPEG", raising=False)
    state = VVENC.available()
    assert state.ok
    assert state.version.endswith("(imageio-ffmpeg)")


def test_the_users_own_ffmpeg_is_taken_or_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What UCIP_FFMPEG names is never silently replaced by another program."""
    poor = script(tmp_path / "poor", "echo ' V..... libx264 H.264'")
    broken = script(tmp_path / "broken", "echo no licence >&2; exit 3")
    rich = script(
        tmp_path / "rich",
        'if [ "$1" = -version ]; then echo ffmpeg version 7.7-mine; else '
        "echo ' V..... libvvenc H.266'; fi",
    )
    for program, reason in (
        (poor, r"UCIP_FFMPEG: .*poor was built without libvvenc"),
        (broken, r"UCIP_FFMPEG: broken: exit code 3; its last words: no licence"),
        (tmp_path / "missing", r"UCIP_FFMPEG: .*missing is no file"),
    ):
        monkeypatch.setenv("UCIP_FFMPEG", str(program))
        with pytest.raises(CodecError, match=rf"codec vvc-vvenc is not available: {reason}"):
            VVENC.roundtrip(np.zeros((16, 16, 3), np.uint8), 32)
    monkeypatch.setenv("UCIP_FFMPEG", str(rich))
    assert VVENC.available().version == "FFmpeg 7.7-mine (UCIP_FFMPEG)"
    assert VVENC.fingerprint()["version"] == "7.7-mine"


def test_no_ffmpeg_at_all_is_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("UCIP_FFMPEG", raising=False)
    monkeypatch.setitem(__import__("sys").modules, "imageio_ffmpeg", None)
    state = VVENC.available()
    assert state.reason == "no FFmpeg on the PATH, and imageio-ffmpeg is not installed"
    assert state.install == 'pip install "ucip-adapt[video]", or name an FFmpeg with UCIP_FFMPEG'


@pytest.mark.parametrize(
    ("does", "problem"),
    [
        ("cat >/dev/null; exit 1", r"vvc-vvenc: exit code 1"),
        ("cat >/dev/null", r"vvc-vvenc: wrote nothing"),
        ("cat", r"vvc-vvenc: the stream holds 0 pictures"),
    ],
)
def test_an_encoder_that_fails_is_a_codec_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, problem: str
) -> None:
    answers = "case $2 in -encoders) echo ' libvvenc ';; -nostdin) "
    fake = script(tmp_path / "fake", f"{answers}{does};; *) echo ffmpeg version 1;; esac")
    monkeypatch.setenv("UCIP_FFMPEG", str(fake))
    with pytest.raises(CodecError, match=problem):
        VVENC.roundtrip(np.zeros((16, 16, 3), np.uint8), 32)
