"""Quality of a JPEG file from its quantisation tables (ITU-T T.81, B.2.4.1)."""

from __future__ import annotations

import functools
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ucip_adapt.detection.bits import MalformedError, number

__all__ = ["luma_table", "nearest_quality", "scaled_tables"]

_MAX_SEGMENTS = 1000
_STANDALONE = {0x01, *range(0xD0, 0xD9)}
_STARTS_SCAN = 0xDA
_QUANTISATION = 0xDB


def luma_table(data: bytes) -> NDArray[np.int64]:
    """The first quantisation table of a file: that of luma.

    Args:
        data: The file, from its first marker.

    Returns:
        64 steps in the file's zigzag order.

    Raises:
        MalformedError: If there is none before the first scan.

    Example:
        >>> buffer = io.BytesIO()
        >>> Image.new("RGB", (16, 16)).save(buffer, "JPEG", quality=50)
        >>> luma_table(buffer.getvalue())[:3].tolist()
        [16, 11, 12]
    """
    at = 2
    for _ in range(_MAX_SEGMENTS):
        marker = number(data, at, 2)
        if marker == 0xFFFF:  # fill bytes may stand before a marker
            at += 1
            continue
        if marker >> 8 != 0xFF or marker & 255 == _STARTS_SCAN:
            break
        if marker & 255 in _STANDALONE:
            at += 2
            continue
        end = at + 2 + number(data, at + 2, 2)
        if marker & 255 == _QUANTISATION:
            found = _tables(data[at + 4 : end]).get(0)
            if found is not None:
                return found
        at = end
    raise MalformedError("no quantisation table before the first scan")


def _tables(content: bytes) -> dict[int, NDArray[np.int64]]:
    """Tables of one segment, by their numbers."""
    tables = {}
    at = 0
    while at < len(content):
        size, name = (128 if content[at] >> 4 else 64), content[at] & 15
        if len(content) < at + 1 + size:
            raise MalformedError("a quantisation table ends too early")
        values = np.frombuffer(content[at + 1 : at + 1 + size], ">u2" if size == 128 else ">u1")
        tables[name] = values.astype(np.int64)
        at += 1 + size
    return tables


def nearest_quality(table: NDArray[Any]) -> tuple[int, bool]:
    """Quality of libjpeg whose luma table is nearest to one.

    Args:
        table: 64 steps, in any order.

    Returns:
        The quality from 1 to 100, and whether its table is this very one.

    Example:
        >>> nearest_quality(scaled_tables()[29])
        (30, True)
    """
    # Sorted, so that the order of a file is irrelevant.
    distances = np.abs(np.sort(scaled_tables(), axis=1) - np.sort(table)).sum(axis=1)
    return int(distances.argmin()) + 1, bool(distances.min() == 0)


@functools.cache
def scaled_tables() -> NDArray[np.int64]:
    """Luma tables of libjpeg's qualities 1 to 100.

    Pillow's own encoder is asked for them, rather than copied from the standard.

    Returns:
        Shape ``(100, 64)``, in the standard's row-by-row order.

    Example:
        >>> scaled_tables()[49, :3].tolist()
        [16, 11, 10]
    """
    tables = []
    for quality in range(1, 101):
        buffer = io.BytesIO()
        Image.new("L", (8, 8)).save(buffer, "JPEG", quality=quality)
        buffer.seek(0)
        with Image.open(buffer, formats=("JPEG",)) as image:
            tables.append(image.quantization[0])  # type: ignore[attr-defined]
    return np.array(tables, np.int64)
