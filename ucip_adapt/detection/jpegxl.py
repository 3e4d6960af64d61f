"""Headers of JPEG XL files (ISO/IEC 18181-1, annex D): size, animation, and what pixels are in."""

from __future__ import annotations

from dataclasses import dataclass

from ucip_adapt.detection.bits import BitReader, MalformedError, number

__all__ = ["JpegXLHeader", "header_of", "is_jpegxl", "is_xyb"]

_MAX_BOXES = 100
_HEAD = 4096
"""Bytes of the codestream in which its headers are looked for."""

_SIDES = ((1, 9), (1, 13), (1, 18), (1, 30))
_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
_PREVIEW_BLOCKS = ((16, 0), (32, 0), (1, 5), (33, 9))
_PREVIEW_SIDES = ((1, 6), (65, 8), (321, 10), (1345, 12))


@dataclass(frozen=True)
class JpegXLHeader:
    """What is known of a JPEG XL picture before it is decoded.

    Attributes:
        width: In pixels, before its orientation is applied.
        height: In pixels, likewise.
        is_animated: Whether it has frames that follow each other.
    """

    width: int
    height: int
    is_animated: bool


def is_jpegxl(data: bytes) -> bool:
    r"""Whether a file is JPEG XL, bare or in boxes.

    Args:
        data: The file.

    Example:
        >>> is_jpegxl(b"\xff\x0a"), is_jpegxl(b"\xff\xd8")
        (True, False)
    """
    return data[:2] == b"\xff\x0a" or data[4:12] == b"JXL \r\n\x87\n"


def header_of(data: bytes) -> JpegXLHeader:
    r"""Read SizeHeader and ImageMetadata as far as ``have_animation``.

    Args:
        data: The file.

    Raises:
        MalformedError: If there is no codestream, or it ends within its headers.

    Example:
        >>> header_of(b"\xff\x0a\x7f\x40\x24\x08\x04\x01")
        JpegXLHeader(width=256, height=256, is_animated=False)
    """
    reader = _reader(data)
    height, width = _size(reader)
    is_animated = False
    if not reader.flag() and reader.flag():  # not all default, and with the fields that are rare
        reader.bits(3)  # orientation
        if reader.flag():
            _size(reader)  # at which it is to be shown
        if reader.flag():
            _size_of_preview(reader)
        is_animated = reader.flag()
    return JpegXLHeader(width, height, is_animated)


def is_xyb(data: bytes) -> bool:
    """Read SizeHeader and ImageMetadata as far as ``xyb_encoded``: whether the picture is lossy.

    Args:
        data: The file.

    Raises:
        MalformedError: If there is no codestream, or it ends within its headers, or they have what
            is rare.
    """
    reader = _reader(data)
    _size(reader)
    if reader.flag():  # all default
        return True
    if reader.flag():
        reader.bits(3)  # orientation
        if reader.bits(3):
            raise MalformedError("a size of its own, a preview or an animation")
    if reader.flag():  # floating-point samples
        reader.either((32, 0), (16, 0), (24, 0), (1, 6))
        reader.bits(4)
    else:
        reader.either((8, 0), (10, 0), (12, 0), (1, 6))
    reader.bits(1)  # 16-bit buffers suffice
    for _ in range(reader.either((0, 0), (1, 0), (2, 4), (1, 12))):
        if not reader.flag():
            raise MalformedError("an extra channel that is not plain alpha")
    return reader.flag()


def _reader(data: bytes) -> BitReader:
    codestream = _codestream(data)
    if codestream[:2] != b"\xff\x0a":
        raise MalformedError("no codestream")
    return BitReader(codestream[2:], lowest_first=True)


def _codestream(data: bytes) -> bytes:
    """The start of the codestream, from the boxes around it, which may hold it in parts."""
    if data[:2] == b"\xff\x0a":
        return data[:_HEAD]
    at, parts = 0, b""
    for _ in range(_MAX_BOXES):
        if at >= len(data) or len(parts) >= _HEAD:
            break
        size, name = number(data, at, 4), data[at + 4 : at + 8]
        head = 16 if size == 1 else 8
        size = number(data, at + 8, 8) if size == 1 else size
        end = at + size if size else len(data)  # the last box may leave its size open
        if end < at + head:
            break
        if name == b"jxlc":
            return data[at + head : min(end, at + head + _HEAD)]
        if name == b"jxlp":  # a number comes first
            parts += data[at + head + 4 : min(end, at + head + 4 + _HEAD)]
        at = end
    if not parts:
        raise MalformedError("no codestream")
    return parts


def _size(reader: BitReader) -> tuple[int, int]:
    """SizeHeader: height and width, in eights of up to 256 or by themselves, or by a ratio."""
    small = reader.flag()
    height = _side(reader, small)
    ratio = reader.bits(3)
    if not ratio:
        return height, _side(reader, small)
    across, down = _RATIOS[ratio]
    return height, height * across // down


def _side(reader: BitReader, small: bool) -> int:
    return 8 * (1 + reader.bits(5)) if small else reader.either(*_SIDES)


def _size_of_preview(reader: BitReader) -> None:
    sides = _PREVIEW_BLOCKS if reader.flag() else _PREVIEW_SIDES
    reader.either(*sides)
    if not reader.bits(3):
        reader.either(*sides)
