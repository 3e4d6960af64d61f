"""The few bytes before the range coder's: what made a stream, for which size, and a checksum.

=========  ======================================================================
2 bytes    ``UT``
1 byte     version of the format (high four bits) and codec (low four)
1 byte     rate, from 1
1-2 bytes  width, seven bits a byte, lowest first, top bit set while more follow
1-2 bytes  height, the same way
4 bytes    CRC-32 of the weights' sha256, the fields above and the payload
=========  ======================================================================

The checksum covers the weights although the stream does not carry their name: with others the
payload would decode, to noise.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from ucip_adapt.errors import CodecError

__all__ = ["CODEC_IDS", "LARGEST_SIDE", "Header", "pack", "unpack"]

CODEC_IDS = {"tiny-mse": 1, "tiny-msssim": 2, "tiny-perceptual": 3, "tiny-elic": 4}
"""Number of each codec in streams; never reused."""

LARGEST_SIDE = 16383
"""Most pixels a side."""

_MAGIC = b"UT"
_VERSION = 1
_CHECKSUM_BYTES = 4


@dataclass(frozen=True)
class Header:
    """What a stream says of itself.

    Attributes:
        codec: Name of the codec.
        rate: From 1.
        width: In pixels.
        height: In pixels.
    """

    codec: str
    rate: int
    width: int
    height: int


def pack(header: Header, payload: bytes, weights_sha256: str) -> bytes:
    """Put a stream together.

    Args:
        header: What it is.
        payload: The range coder's bytes.
        weights_sha256: Of the weights that it is coded with.

    Example:
        >>> len(pack(Header("tiny-mse", 1, 120, 80), b"", "00")), 120 * 80 * 0.01 / 8
        (10, 12.0)
    """
    fields = _MAGIC + bytes([_VERSION << 4 | CODEC_IDS[header.codec], header.rate])
    fields += _variable(header.width) + _variable(header.height)
    checksum = _checksum(fields, payload, weights_sha256)
    return fields + checksum + payload


def unpack(stream: bytes, codec: str, weights_sha256: str) -> tuple[Header, bytes]:
    """Check a stream and take it apart.

    Args:
        stream: The whole stream.
        codec: Name of the codec that is to decode it.
        weights_sha256: Of that codec's weights.

    Returns:
        What the stream is, and its payload.

    Raises:
        CodecError: If it is no such stream, is damaged or cut short, or was made by another codec,
            other weights or a newer format.
    """
    if stream[:2] != _MAGIC or len(stream) < 6 + _CHECKSUM_BYTES:
        raise CodecError(f"this is no stream of {codec}: it does not start as one")
    version, number = stream[2] >> 4, stream[2] & 15
    if version != _VERSION:
        raise CodecError(
            f"the stream has format version {version}, this ucip_adapt reads {_VERSION}"
        )
    names = {value: name for name, value in CODEC_IDS.items()}
    if names.get(number) != codec:
        raise CodecError(
            f"the stream was made by {names.get(number, f'codec number {number}')}, not by {codec}"
        )
    width, place = _read_variable(stream, 4)
    height, place = _read_variable(stream, place)
    payload = stream[place + _CHECKSUM_BYTES :]
    checksum = _checksum(stream[:place], payload, weights_sha256)
    if stream[place : place + _CHECKSUM_BYTES] != checksum:
        raise CodecError(
            f"the stream's checksum is wrong: it is damaged or cut short, or was made with other "
            f"weights of {codec} (these: sha256 {weights_sha256[:12]}...)"
        )
    return Header(codec, stream[3], width, height), payload


def _checksum(fields: bytes, payload: bytes, weights_sha256: str) -> bytes:
    value = zlib.crc32(payload, zlib.crc32(fields, zlib.crc32(weights_sha256.encode())))
    return value.to_bytes(_CHECKSUM_BYTES, "little")


def _variable(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_variable(stream: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in (0, 7):
        if place >= len(stream):
            break
        byte = stream[place]
        value |= (byte & 127) << shift
        place += 1
        if byte < 128:
            if 1 <= value <= LARGEST_SIDE:
                return value, place
            break
    raise CodecError("the stream's header is damaged: it gives no valid size")
