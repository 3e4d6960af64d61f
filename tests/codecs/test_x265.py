"""HEVC by x265: the pinned options, the measured points, and what is in the stream."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest

from ucip_adapt.codecs import base
from ucip_adapt.codecs.x265 import PARAMETERS, X265
from ucip_adapt.codecs.yuv import planes_of, to_planes, to_rgb
from ucip_adapt.data import read_rgb
from ucip_adapt.errors import CodecError

av = pytest.importorskip("av")
LUMA = np.array([0.299, 0.587, 0.114])

# bpp and luma PSNR at QP 32, 37, 42, 47, measured with PyAV 18.1 when the options were chosen.
POINTS = {
    "img_001": ((0.729, 33.46), (0.415, 29.98), (0.221, 27.11), (0.136, 24.78)),
    "img_005": ((1.386, 32.65), (0.906, 28.45), (0.602, 24.99), (0.379, 21.69)),
}


def luma_psnr_db(preds: np.ndarray, target: np.ndarray) -> float:
    error = preds.astype(float) @ LUMA - target.astype(float) @ LUMA
    return float(10 * np.log10(255**2 / np.mean(error**2)))


@pytest.mark.parametrize("name", POINTS)
def test_rate_and_fidelity_are_the_measured_ones(data_root: Path, name: str) -> None:
    """The intra QP offset alone would move them by 3 QP: 30 % of the bits, 2 dB."""
    lr = read_rgb(data_root / "Set5" / "LRbicx4" / f"{name}.png")
    for qp, (bpp, psnr) in zip((32, 37, 42, 47), POINTS[name], strict=True):
        coded = X265.roundtrip(lr, qp)
        assert coded.bpp == pytest.approx(bpp, rel=0.04)
        assert luma_psnr_db(coded.pixels, lr) == pytest.approx(psnr, abs=0.25)


def test_the_stream_is_one_picture_of_the_asked_qp_without_a_note(lr: np.ndarray) -> None:
    coded = X265.roundtrip(lr[:57, :86], 37)
    stream = coded.stream
    assert stream is not None
    assert coded.num_bytes == len(stream)
    assert coded.seconds is not None
    assert coded.seconds > 0
    # Annex B: a start code, then the type in bits 1 to 6 of the next byte.
    units = [
        unit[0] >> 1 & 63 for unit in stream.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1")[1:]
    ]
    assert units[:3] == [32, 33, 34]  # parameter sets
    assert set(units[3:]) <= {19, 20}  # the picture itself; 39 would be a note (SEI)
    with av.open(io.BytesIO(stream), format="hevc") as container:
        [frame] = container.decode(video=0)
    assert (frame.height, frame.width) == (58, 86)
    assert frame.pict_type == av.video.frame.PictureType.I
    assert frame.color_range == av.video.reformatter.ColorRange.JPEG
    np.testing.assert_array_equal(to_rgb(planes_of(frame), 57, 86), coded.pixels)


def test_lossless_samples_come_back_as_they_went_in(lr: np.ndarray) -> None:
    """At QP 0 the codec adds next to nothing: planes in the wrong order or range would show."""
    path_alone = to_rgb(to_planes(lr, bits=8), *lr.shape[:2])
    error = np.abs(X265.roundtrip(lr, 0).pixels.astype(int) - path_alone)
    assert error.mean() < 0.8
    assert error.max() <= 6


def test_options_are_pinned_and_known_to_x265() -> None:
    wanted = {"ipratio=1.0", "aq-mode=0", "cutree=0", "info=0", "pools=1", "wpp=0", "range=full"}
    assert wanted <= set(PARAMETERS.split(":"))
    assert "psy" not in PARAMETERS
    before = av.logging.get_level()
    av.logging.set_level(av.logging.WARNING)
    try:
        with av.logging.Capture() as said:
            X265.roundtrip(np.zeros((16, 16, 3), np.uint8), 37)
    finally:
        av.logging.set_level(before)
    assert said == []  # it warns of an option or a value that it does not know, and goes on
    assert X265.fingerprint()["options"]["x265-params"] == PARAMETERS


def test_a_missing_or_poorer_pyav_is_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av, "codecs_available", {"hevc"})
    assert "without libx265" in X265.available().reason
    missing = base.Availability(ok=False, reason="av is not installed", install="pip install it")
    monkeypatch.setattr("ucip_adapt.codecs.x265.pyav", lambda: missing)
    monkeypatch.setattr(base, "library_availability", lambda *_args, **_options: missing)
    assert X265.available() == missing
    with pytest.raises(CodecError, match=r"codec hevc-x265 is not available: av is not installed"):
        X265.roundtrip(np.zeros((16, 16, 3), np.uint8), 37)


def test_an_encoder_that_refuses_is_a_codec_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ucip_adapt.codecs.x265.PRESET", "no such preset")
    with pytest.raises(CodecError, match=r"hevc-x265 failed on 16 x 18 samples"):
        X265.roundtrip(np.zeros((17, 16, 3), np.uint8), 37)
    assert dataclasses.asdict(X265.spec)["faithful"] is False
