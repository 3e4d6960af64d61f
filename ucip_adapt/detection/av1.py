"""Quantiser of an AV1 picture, from the headers of its stream (AV1 specification, 5.5 and 5.9)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ucip_adapt.detection.bits import BitReader, MalformedError

__all__ = ["QUANTISERS", "base_quantiser"]

_SEQUENCE, _FRAME_HEADER, _FRAME = 1, 3, 6
_MAX_UNITS = 50
_SELECT = 2  # a choice that the sequence leaves to the frame

# Base quantiser that libavif with aom takes for qualities 0 to 100, whatever the picture; asked of
# Pillow's encoder, and a test asks again.
QUANTISERS = (
    *(255, 255, 255, 249, 249, 249, 244, 244, 240, 240, 236, 236, 232, 232, 228, 228, 224),
    *(224, 220, 220, 216, 216, 212, 212, 208, 208, 204, 204, 200, 200, 196, 196, 192, 192),
    *(188, 184, 184, 180, 180, 176, 172, 172, 168, 168, 164, 160, 160, 156, 156, 152, 148),
    *(148, 144, 144, 140, 136, 132, 132, 128, 124, 120, 120, 116, 112, 108, 108, 104, 100),
    *(96, 96, 92, 88, 84, 84, 80, 76, 72, 72, 68, 64, 60, 60, 56, 52, 48),
    *(48, 44, 40, 36, 36, 32, 28, 24, 24, 20, 16, 12, 12, 8, 4, 0),
)


@dataclass(frozen=True)
class _Sequence:
    """What of the sequence header the frame header needs."""

    reduced: bool
    width: int
    height: int
    size_bits: tuple[int, int]
    superblock: int
    superres: bool
    screen_content: int
    integer_motion: int
    order_hint_bits: int
    frame_id_bits: int


def base_quantiser(stream: bytes) -> int:
    """Base quantiser index, 0 (lossless) to 255, of the first picture of a stream.

    Args:
        stream: Open bitstream units (OBUs), each with its size.

    Returns:
        ``base_q_idx``.

    Raises:
        MalformedError: If the headers end too early, or are of a kind that still pictures are not.
    """
    sequence = None
    for kind, content in _units(stream):
        if kind == _SEQUENCE:
            sequence = _read_sequence(BitReader(content))
        elif kind in {_FRAME, _FRAME_HEADER}:
            if sequence is None:
                raise MalformedError("a frame before its sequence")
            return _read_frame(BitReader(content), sequence)
    raise MalformedError("no frame")


def _units(stream: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    for _ in range(_MAX_UNITS):
        if at >= len(stream):
            return
        head = stream[at]
        at += 1 + (head >> 2 & 1)
        if not head & 2:  # no size: the rest
            yield head >> 3 & 15, stream[at:]
            return
        size = 0
        for place in range(8):
            if at >= len(stream):
                raise MalformedError("a unit ends too early")
            byte = stream[at]
            at += 1
            size |= (byte & 127) << 7 * place
            if byte < 128:
                break
        yield head >> 3 & 15, stream[at : at + size]
        at += size


def _read_sequence(reader: BitReader) -> _Sequence:
    reader.bits(3)  # profile
    reader.bits(1)  # still picture
    reduced = reader.flag()
    if reduced:
        reader.bits(5)
    else:
        if reader.flag():
            raise MalformedError("a stream with a clock")
        has_delays = reader.flag()
        for _ in range(reader.bits(5) + 1):
            reader.bits(12)
            if reader.bits(5) > 7:
                reader.bits(1)
            if has_delays and reader.flag():
                reader.bits(4)
    width_bits, height_bits = reader.bits(4) + 1, reader.bits(4) + 1
    width, height = reader.bits(width_bits) + 1, reader.bits(height_bits) + 1
    frame_id_bits = 0
    if not reduced and reader.flag():
        delta = reader.bits(4) + 2
        frame_id_bits = reader.bits(3) + delta + 1
    superblock = 128 if reader.flag() else 64
    reader.bits(2)  # filter intra, intra edge filter
    screen_content = integer_motion = _SELECT
    order_hint_bits = 0
    if not reduced:
        reader.bits(4)  # kinds of prediction between pictures
        has_order = reader.flag()
        if has_order:
            reader.bits(2)
        if not reader.flag():
            screen_content = reader.bits(1)
        if screen_content > 0 and not reader.flag():
            integer_motion = reader.bits(1)
        if has_order:
            order_hint_bits = reader.bits(3) + 1
    return _Sequence(
        reduced=reduced,
        width=width,
        height=height,
        size_bits=(width_bits, height_bits),
        superblock=superblock,
        superres=reader.flag(),
        screen_content=screen_content,
        integer_motion=integer_motion,
        order_hint_bits=order_hint_bits,
        frame_id_bits=frame_id_bits,
    )


def _read_frame(reader: BitReader, sequence: _Sequence) -> int:
    """Read a shown key frame's header as far as its quantiser."""
    if not sequence.reduced:
        if reader.bits(1):
            raise MalformedError("no frame of its own")
        if reader.bits(2) or not reader.bits(1):
            raise MalformedError("no key frame that is shown")
    no_update = reader.flag()
    screen = sequence.screen_content
    screen = reader.bits(1) if screen == _SELECT else screen
    if screen and sequence.integer_motion == _SELECT:
        reader.bits(1)
    reader.bits(sequence.frame_id_bits)
    own_size = False if sequence.reduced else reader.flag()
    reader.bits(sequence.order_hint_bits)
    width, height = sequence.width, sequence.height
    if own_size:
        width, height = (reader.bits(count) + 1 for count in sequence.size_bits)
    coded_width = width
    if sequence.superres and reader.flag():
        denominator = reader.bits(3) + 9
        coded_width = (width * 8 + denominator // 2) // denominator
    if reader.flag():
        reader.bits(32)  # size to be shown at
    if screen and coded_width == width:
        reader.bits(1)
    if not sequence.reduced and not no_update:
        reader.bits(1)
    _skip_tiles(reader, coded_width, height, sequence.superblock)
    return reader.bits(8)


def _skip_tiles(reader: BitReader, width: int, height: int, superblock: int) -> None:
    """Read over how the picture is cut into tiles (5.9.15)."""
    columns, rows = -(-width // superblock), -(-height // superblock)
    widest, largest = 4096 // superblock, 4096 * 2304 // superblock**2
    least_columns = _log2(columns, widest)
    least = max(least_columns, _log2(rows * columns, largest))
    if reader.flag():  # even tiles
        column_bits = _counted(reader, least_columns, _log2(min(columns, 64)))
        row_bits = _counted(reader, max(least - column_bits, 0), _log2(min(rows, 64)))
    else:
        count, broadest = _uneven(reader, columns, widest)
        column_bits = _log2(count)
        area = rows * columns >> (least + 1) if least > 0 else rows * columns
        count, _ = _uneven(reader, rows, max(area // broadest, 1))
        row_bits = _log2(count)
    if column_bits or row_bits:
        reader.bits(column_bits + row_bits + 2)


def _counted(reader: BitReader, least: int, most: int) -> int:
    """A number told by the ones in front of a zero."""
    while least < most and reader.flag():
        least += 1
    return least


def _uneven(reader: BitReader, total: int, most: int) -> tuple[int, int]:
    """Number of tiles along a side, and the longest, in superblocks."""
    start, count, longest = 0, 0, 0
    while start < total:
        size = _below(reader, min(total - start, most)) + 1
        start, count, longest = start + size, count + 1, max(longest, size)
    return count, longest


def _below(reader: BitReader, limit: int) -> int:
    """A number under a limit in as few bits as that takes (4.10.7)."""
    width = limit.bit_length()
    short = (1 << width) - limit
    value = reader.bits(width - 1)
    return value if value < short else (value << 1) - short + reader.bits(1)


def _log2(target: int, unit: int = 1) -> int:
    """Smallest power of two that takes ``unit`` to ``target``, at most 63."""
    power = 0
    while unit << power < target and power < 63:
        power += 1
    return power
