"""x265 and vvenc against the true streams of HM and VTM: near, and never the same."""

from __future__ import annotations

import numpy as np
import pytest

from ucip_adapt.codecs import Codec
from ucip_adapt.codecs.pyav import decode_rgb
from ucip_adapt.codecs.streams import embedded_streams, open_streams
from ucip_adapt.codecs.vvenc import VVENC
from ucip_adapt.codecs.x265 import X265
from ucip_adapt.errors import CodecError

pytest.importorskip("av")
LUMA = np.array([0.299, 0.587, 0.114])


def luma_psnr_db(preds: np.ndarray, target: np.ndarray) -> float:
    error = preds.astype(float) @ LUMA - target.astype(float) @ LUMA
    return float(10 * np.log10(255**2 / np.mean(error**2)))


@pytest.mark.parametrize(
    ("codec", "reference", "rate", "gain_db"),
    [(X265, "hm", (0.96, 1.12), (-0.45, 0.25)), (VVENC, "vtm", (0.97, 1.14), (-0.8, 0.2))],
    ids=["x265", "vvenc"],
)
def test_equal_qp_is_nearly_equal_rate_and_fidelity(
    codec: Codec,
    reference: str,
    rate: tuple[float, float],
    gain_db: tuple[float, float],
    lr: np.ndarray,
) -> None:
    """An intra QP of 3 less, what both encoders do unasked, is 25 % and 1.5 dB more."""
    if not codec.available().ok:
        pytest.skip(codec.available().reason)
    truth = open_streams(reference, [embedded_streams()])
    for qp in codec.spec.qualities:
        ours, theirs = codec.roundtrip(lr, qp), truth.roundtrip(lr, qp)
        assert rate[0] < ours.bpp / theirs.bpp < rate[1], qp
        gain = luma_psnr_db(ours.pixels, lr) - luma_psnr_db(theirs.pixels, lr)
        assert gain_db[0] < gain < gain_db[1], qp
        assert luma_psnr_db(ours.pixels, theirs.pixels) < 45
    assert not codec.spec.faithful


def test_a_stream_of_another_size_or_of_two_pictures_is_refused(lr: np.ndarray) -> None:
    stream = open_streams("hm", [embedded_streams()]).roundtrip(lr, 47).stream
    with pytest.raises(
        CodecError, match=r"x: the stream holds 1 pictures \[\(144, 144\)\], one of"
    ):
        decode_rgb(stream, "hevc", 140, 144, what="x")
    with pytest.raises(CodecError, match="x: the stream holds 2 pictures"):
        decode_rgb(stream + stream, "hevc", 144, 144, what="x")
