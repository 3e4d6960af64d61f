"""Quality of a WebP file from the quantiser of its VP8 frame (RFC 6386 and RFC 9649)."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ucip_adapt.detection.bits import MalformedError

__all__ = ["QUANTISERS", "is_lossless", "quality_of", "webp_chunks"]

_MAX_CHUNKS = 1000

# Quantiser index that libwebp takes for qualities 0 to 100 on a flat image, asked of Pillow's
# encoder; a test asks again.
QUANTISERS = (
    *(127, 103, 96, 92, 89, 86, 83, 81, 79, 77, 75, 73, 72, 70, 69, 68, 66, 65, 64, 63),
    *(62, 61, 60, 59, 58, 57, 56, 55, 54, 53, 52, 51, 51, 50, 49, 48, 48, 47, 46, 45),
    *(45, 44, 43, 43, 42, 41, 41, 40, 40, 39, 38, 38, 37, 37, 36, 36, 35, 35, 34, 33),
    *(33, 32, 32, 31, 31, 30, 30, 29, 29, 28, 28, 28, 27, 27, 26, 26, 24, 23, 22, 21),
    *(19, 18, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 0),
)


def webp_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    r"""Chunks of a WebP file, those of its frames included.

    Args:
        data: The file, from its ``RIFF``.

    Yields:
        Name, first byte and end of each chunk's content; the end is never past the file's.

    Example:
        >>> [name for name, *_ in webp_chunks(b"RIFF....WEBPVP8L\x01\0\0\0\x2f\0")]
        [b'VP8L']
    """
    at = 12
    for _ in range(_MAX_CHUNKS):
        if at + 8 > len(data):
            return
        name = data[at : at + 4]
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        begin, end = at + 8, min(at + 8 + size, len(data))
        yield name, begin, end
        # A frame of an animation holds chunks of its own behind 16 bytes: step into it.
        at = begin + 16 if name == b"ANMF" else begin + size + size % 2


def is_lossless(data: bytes) -> bool:
    r"""Whether the first picture of a WebP file is coded without loss.

    Args:
        data: The file.

    Example:
        >>> is_lossless(b"RIFF....WEBPVP8L\x01\0\0\0\x2f\0")
        True
    """
    names = (name for name, *_ in webp_chunks(data) if name in {b"VP8 ", b"VP8L"})
    return next(names, None) == b"VP8L"


def quality_of(data: bytes) -> int:
    """Quality from 0 to 100 that libwebp was asked for.

    libwebp gives up to four segments quantisers of their own, finer for flat ones, such that the
    mean of ``log(1 - index / 127)`` over the picture stays that of the quality. Their shares are in
    the frame's header too.

    Args:
        data: The file.

    Returns:
        The quality whose quantiser is nearest. Exact for libwebp at its default settings but for
        rounding: several qualities share one index.

    Raises:
        MalformedError: If there is no VP8 key frame, or it ends too early.
    """
    for name, begin, end in webp_chunks(data):
        if name == b"VP8 ":
            index = _mean_index(data[begin:end])
            return min(range(101), key=lambda quality: abs(QUANTISERS[quality] - index))
    raise MalformedError("no VP8 frame")


def _mean_index(frame: bytes) -> float:
    if len(frame) < 12 or frame[0] & 1 or frame[3:6] != b"\x9d\x01\x2a":
        raise MalformedError("no VP8 key frame")
    coder = _BoolDecoder(frame[10:])
    coder.bits(2)  # colour space, clamping
    segments: list[int] = []
    shares = (255, 255, 255)
    relative = False
    if coder.bits(1):
        update_map, update_values = coder.bits(1), coder.bits(1)
        if update_values:
            relative = not coder.bits(1)
            segments = [coder.optional(7) for _ in range(4)]
            for _ in range(4):
                coder.optional(6)  # loop filter's levels
        if update_map:
            one, two, three = (coder.bits(8) if coder.bits(1) else 255 for _ in range(3))
            shares = (one, two, three)
    coder.bits(1 + 6 + 3)  # loop filter: kind, level, sharpness
    if coder.bits(1) and coder.bits(1):
        for _ in range(8):
            coder.optional(6)
    coder.bits(2)  # partitions
    base = coder.bits(7)
    if not segments:
        return float(base)
    first, left, right = (share / 255 for share in shares)
    weights = (first * left, first * (1 - left), (1 - first) * right, (1 - first) * (1 - right))
    indices = [min(max(value + base * relative, 0), 127) for value in segments]
    logs = [math.log(max(1 - index / 127, 1e-3)) for index in indices]
    mean = sum(weight * value for weight, value in zip(weights, logs, strict=True))
    return 127 * (1 - math.exp(mean))


class _BoolDecoder:
    """The arithmetic decoder of RFC 6386, section 7, at even odds: a header uses no others."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 2
        self._value = int.from_bytes(data[:2].ljust(2, b"\0"), "big")
        self._range = 255
        self._shift = 0

    def _bit(self) -> int:
        split = 1 + ((self._range - 1) * 128 >> 8)
        high = split << 8
        bit = int(self._value >= high)
        if bit:
            self._range -= split
            self._value -= high
        else:
            self._range = split
        while self._range < 128:
            self._value <<= 1
            self._range <<= 1
            self._shift += 1
            if self._shift == 8:
                self._shift = 0
                # Past the end come zeros, as the decoders do it.
                self._value |= self._data[self._at] if self._at < len(self._data) else 0
                self._at += 1
        return bit

    def bits(self, count: int) -> int:
        """A number, its highest bit first."""
        value = 0
        for _ in range(count):
            value = value << 1 | self._bit()
        return value

    def optional(self, count: int) -> int:
        """0, or a number with a sign behind it."""
        if not self._bit():
            return 0
        value = self.bits(count)
        return -value if self._bit() else value
