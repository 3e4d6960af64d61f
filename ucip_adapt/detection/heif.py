"""Boxes of AVIF and HEIC files (ISO/IEC 14496-12 and 23008-12): what the primary picture is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ucip_adapt.detection.bits import MalformedError, number

__all__ = ["CodedPicture", "bits_per_channel", "brands", "coded_picture"]

_MAX_BOXES = 200
_MAX_ITEMS = 1000
_MAX_CODED = 1 << 16
"""Bytes of a picture's data that are handed out: headers come first."""


@dataclass(frozen=True)
class CodedPicture:
    """The primary picture, or the first tile of one that is put together from tiles.

    Attributes:
        kind: Its type, such as ``b"av01"`` or ``b"hvc1"``.
        data: The start of its coded data.
    """

    kind: bytes
    data: bytes


def brands(data: bytes) -> set[bytes]:
    r"""The brands that a file claims.

    Args:
        data: The file.

    Returns:
        Four bytes each, the major one among them; none if the file does not start with ``ftyp``.

    Example:
        >>> sorted(brands(b"\x00\x00\x00\x14ftypavif\x00\x00\x00\x00mif1"))
        [b'avif', b'mif1']
    """
    if data[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(data[:4], "big"), len(data), 1024)
    return {data[8:12], *(data[at : at + 4] for at in range(16, end - 3, 4))}


def coded_picture(data: bytes) -> CodedPicture:
    """Find the coded data of a file's picture.

    Args:
        data: The file.

    Returns:
        The primary item; of a grid or another derived picture, the first coded one.

    Raises:
        MalformedError: If the boxes lead to none, or out of the file.
    """
    inside = _meta(data)
    _, chosen, kind = _primary(data, inside)
    begin, size = _item_place(data, *inside[b"iloc"], chosen, inside.get(b"idat"))
    return CodedPicture(kind, data[begin : begin + min(size, _MAX_CODED)])


def bits_per_channel(data: bytes) -> int:
    """Depth of a file's picture, by its properties ``pixi``, ``av1C`` and ``hvcC``.

    Args:
        data: The file.

    Returns:
        The most of any channel; 8 where nothing says more.

    Raises:
        MalformedError: If the boxes lead out of the file, or there is no picture.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> buffer = io.BytesIO()
        >>> Image.new("RGB", (16, 16)).save(buffer, "AVIF")
        >>> bits_per_channel(buffer.getvalue())
        8
    """
    inside = _meta(data)
    primary, chosen, _ = _primary(data, inside)
    if b"iprp" not in inside:
        return 8
    parts = {name: (begin, end) for name, begin, end in _boxes(data, *inside[b"iprp"])}
    if not {b"ipco", b"ipma"} <= parts.keys():
        return 8
    properties = list(_boxes(data, *parts[b"ipco"]))
    owned = _owned_properties(data, *parts[b"ipma"])
    depths = [8]
    # A grid's may stand at the grid or at its tiles; those of alpha or a preview play no part.
    for place in {*owned.get(primary, ()), *owned.get(chosen, ())}:
        if 0 < place <= len(properties):
            depths += _depths(data, *properties[place - 1])
    return max(depths)


def _meta(data: bytes) -> dict[bytes, tuple[int, int]]:
    """First byte and end of each box that describes the items."""
    meta = next((span for name, *span in _boxes(data, 0, len(data)) if name == b"meta"), None)
    if meta is None:
        raise MalformedError("no meta box")
    inside = {name: (begin, end) for name, begin, end in _boxes(data, meta[0] + 4, meta[1])}
    if not {b"pitm", b"iinf", b"iloc"} <= inside.keys():
        raise MalformedError("no primary item")
    return inside


def _primary(data: bytes, inside: dict[bytes, tuple[int, int]]) -> tuple[int, int, bytes]:
    """The primary item, the coded one that it is or is put together from, and the latter's kind."""
    at = inside[b"pitm"][0]
    primary = number(data, at + 4, 4 if number(data, at, 1) else 2)
    kinds = _item_kinds(data, *inside[b"iinf"])
    coded = [item for item, kind in kinds.items() if kind in {b"av01", b"hvc1"}]
    chosen = primary if primary in coded else next(iter(coded), None)
    if chosen is None:
        raise MalformedError(f"the picture is of kind {kinds.get(primary, b'')!r}")
    return primary, chosen, kinds[chosen]


def _depths(data: bytes, name: bytes, begin: int, end: int) -> list[int]:
    """Bits of each channel that a property tells, none if it is about something else."""
    if name == b"pixi":
        count = number(data, begin + 4, 1)
        return list(data[begin + 5 : min(begin + 5 + count, end)])
    if name == b"av1C":  # AV1 in ISOBMFF, 2.3.3
        flags = number(data, begin + 2, 1)
        return [12 if flags & 0x20 else 10] if flags & 0x40 else [8]
    if name == b"hvcC":  # ISO/IEC 14496-15, 8.3.2.1
        return [8 + (number(data, begin + at, 1) & 7) for at in (17, 18)]
    return []


def _owned_properties(data: bytes, begin: int, end: int) -> dict[int, list[int]]:
    """Places, from 1, of the properties of each item."""
    version, wide = number(data, begin, 1), 2 if number(data, begin + 3, 1) & 1 else 1
    owned: dict[int, list[int]] = {}
    at, width = begin + 8, 4 if version else 2
    for _ in range(min(number(data, begin + 4, 4), _MAX_ITEMS)):
        if at >= end:
            break
        item, count = number(data, at, width), number(data, at + width, 1)
        at += width + 1
        # The highest bit says whether a reader has to know the property.
        mask = (1 << (8 * wide - 1)) - 1
        places = [number(data, at + wide * place, wide) & mask for place in range(count)]
        owned.setdefault(item, []).extend(places)
        at += wide * count
    return owned


def _boxes(data: bytes, begin: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, first byte and end of the content of each box in a part of the file."""
    for _ in range(_MAX_BOXES):
        if begin + 8 > end:
            return
        size, name, head = number(data, begin, 4), data[begin + 4 : begin + 8], 8
        if size == 1:
            size, head = number(data, begin + 8, 8), 16
        elif size == 0:
            size = end - begin
        if size < head or begin + size > end:
            raise MalformedError(f"box {name!r} is larger than what holds it")
        yield name, begin + head, begin + size
        begin += size


def _item_kinds(data: bytes, begin: int, end: int) -> dict[int, bytes]:
    """Type of each item; version 2 and 3 of an entry alone have one."""
    kinds: dict[int, bytes] = {}
    head = 4 + (4 if number(data, begin, 1) else 2)
    for name, at, _ in _boxes(data, begin + head, end):
        version = number(data, at, 1)
        if name == b"infe" and version in {2, 3}:
            width = 2 if version == 2 else 4
            kinds[number(data, at + 4, width)] = data[at + 6 + width : at + 10 + width]
    return kinds


def _item_place(
    data: bytes, begin: int, end: int, wanted: int, idat: tuple[int, int] | None
) -> tuple[int, int]:
    """First byte and size of an item's first extent."""
    version = number(data, begin, 1)
    if version > 2:
        raise MalformedError(f"iloc of version {version}")
    sizes = number(data, begin + 4, 2)
    offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_size = sizes & 15 if version else 0
    wide = 4 if version == 2 else 2
    count, at = number(data, begin + 6, wide), begin + 6 + wide
    for _ in range(min(count, _MAX_ITEMS)):
        item, method = number(data, at, wide), 0
        at += wide
        if version:
            method = number(data, at, 2) & 15
            at += 2
        base, extents = number(data, at + 2, base_size), number(data, at + 2 + base_size, 2)
        at += 4 + base_size
        extent = at + index_size
        if at > end:
            break
        if item == wanted and extents:
            place = base + number(data, extent, offset_size)
            size = number(data, extent + offset_size, length_size)
            if method == 1 and idat is not None:
                place += idat[0]
            elif method:
                break
            return place, size or len(data) - place  # a length of 0 is the rest of the file
        at += extents * (index_size + offset_size + length_size)
    raise MalformedError("the picture has no data")
