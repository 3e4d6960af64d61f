"""The header: what it costs, what it refuses."""

from __future__ import annotations

import pytest

from ucip_adapt.codecs.learned.container import CODEC_IDS, LARGEST_SIDE, Header, pack, unpack
from ucip_adapt.errors import CodecError

SHA, PAYLOAD = "ab" * 32, bytes(range(40))


@pytest.mark.parametrize("side", [1, 127, 128, 129, 480, LARGEST_SIDE])
def test_what_goes_in_comes_out(side):
    header = Header("tiny-elic", 3, side, 1 + LARGEST_SIDE - side)
    stream = pack(header, PAYLOAD, SHA)
    assert unpack(stream, "tiny-elic", SHA) == (header, PAYLOAD)
    assert len(stream) - len(PAYLOAD) <= 12


def test_every_cut_and_every_flipped_bit_is_noticed():
    stream = pack(Header("tiny-mse", 2, 120, 300), PAYLOAD, SHA)
    for length in range(len(stream)):
        with pytest.raises(CodecError):
            unpack(stream[:length], "tiny-mse", SHA)
    for place in range(8 * len(stream)):
        damaged = bytearray(stream)
        damaged[place // 8] ^= 1 << place % 8
        with pytest.raises(CodecError):
            unpack(bytes(damaged), "tiny-mse", SHA)
    with pytest.raises(CodecError):
        unpack(stream + b"\0", "tiny-mse", SHA)


def test_messages_say_what_is_wrong():
    stream = pack(Header("tiny-mse", 2, 120, 80), PAYLOAD, SHA)
    with pytest.raises(CodecError, match="made by tiny-mse, not by tiny-elic"):
        unpack(stream, "tiny-elic", SHA)
    with pytest.raises(CodecError, match="other weights of tiny-mse"):
        unpack(stream, "tiny-mse", "cd" * 32)
    with pytest.raises(CodecError, match="format version 9, this ucip_adapt reads 1"):
        unpack(stream[:2] + bytes([0x91]) + stream[3:], "tiny-mse", SHA)
    with pytest.raises(CodecError, match="no stream of tiny-mse"):
        unpack(b"RIFF" + stream, "tiny-mse", SHA)


def test_numbers_of_codecs_never_change():
    assert CODEC_IDS == {"tiny-mse": 1, "tiny-msssim": 2, "tiny-perceptual": 3, "tiny-elic": 4}
