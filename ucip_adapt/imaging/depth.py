"""What Pillow does not say of a picture's numbers before it has cut them down."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ucip_adapt.detection import heif
from ucip_adapt.detection.bits import MalformedError

__all__ = ["bits_per_channel", "in_16_bits", "is_negative", "is_planar"]

_BITS_PER_SAMPLE, _PHOTOMETRIC, _PLANAR_CONFIGURATION = 258, 262, 284  # TIFF 6.0, section 8
_DEEPEST = 2**16 - 1
_START_OF_CODESTREAM_AND_SIZE = b"\xff\x4f\xff\x51"  # ISO/IEC 15444-1, A.4.1 and A.5.1
_COMPONENTS, _DEPTHS, _STEP = 40, 42, 3  # bytes behind the start of these two markers


def bits_per_channel(data: bytes, image: Image.Image) -> int:
    """Bits of each channel as the file stores them; Pillow calls 16-bit colour "RGB", too.

    Args:
        data: The file's content.
        image: The same, opened and not loaded.

    Returns:
        The most of any channel; 8 where nothing says more.

    Example:
        >>> import io
        >>> buffer = io.BytesIO()
        >>> Image.new("I;16", (3, 2)).save(buffer, "PNG")
        >>> bits_per_channel(buffer.getvalue(), Image.open(buffer))
        16
    """
    if image.format == "TIFF":
        stored = _tag(image, _BITS_PER_SAMPLE, 8)
        return max(stored) if isinstance(stored, tuple) else int(stored)
    if image.format == "PPM":
        # The raw mode is that of 8 bits; the largest value stands behind it.
        largest = [part for tile in _tiles(image) for part in _numbers(tile[3])]
        return max([8, *(number.bit_length() for number in largest)])
    if image.format == "JPEG2000":
        size = data[max(data.find(_START_OF_CODESTREAM_AND_SIZE), 0) :]
        count = int.from_bytes(size[_COMPONENTS:_DEPTHS], "big")
        depths = size[_DEPTHS : _DEPTHS + _STEP * count : _STEP]
        return max((depth & 0x7F) + 1 for depth in depths) if depths else 8
    if image.format in {"AVIF", "HEIC"}:
        try:
            return heif.bits_per_channel(data)
        except MalformedError:
            return 8
    # Of PNG alone: the 16 bits of a BMP are those of a whole pixel.
    deep = image.format == "PNG" and any(";16" in str(tile[3]) for tile in _tiles(image))
    return 16 if deep else 8


def in_16_bits(image: Image.Image) -> NDArray[np.uint16]:
    """Levels of a grey image of more than 8 bits, from 0 to 65535.

    Pillow leaves the 12 bits of a TIFF as they are, in a mode of 16.

    Args:
        image: Of one of the modes ``I;16``, or of mode ``I`` with levels of 16 bits.

    Returns:
        Shape ``(H, W)``.

    Example:
        >>> in_16_bits(Image.new("I;16", (2, 1), 40000))
        array([[40000, 40000]], dtype=uint16)
    """
    levels = np.array(image)
    bits = max(_numbers(_tag(image, _BITS_PER_SAMPLE, 16))) if image.format == "TIFF" else 16
    if bits < 16:
        levels = np.rint(levels * (_DEEPEST / (2**bits - 1))).clip(0, _DEEPEST)
    return levels.astype(np.uint16)


def is_negative(image: Image.Image) -> bool:
    """Whether 0 is white: Pillow inverts such a TIFF of 8 bits, and not of 16.

    Example:
        >>> is_negative(Image.new("L", (3, 2)))
        False
    """
    return image.format == "TIFF" and _tag(image, _PHOTOMETRIC, 1) == 0


def is_planar(image: Image.Image) -> bool:
    """Whether a TIFF holds one channel after the other.

    Example:
        >>> is_planar(Image.new("RGB", (3, 2)))
        False
    """
    return image.format == "TIFF" and _tag(image, _PLANAR_CONFIGURATION, 1) == 2


def _tag(image: Image.Image, number: int, default: int) -> int | tuple[int, ...]:
    # A copy, as every process of a pool gets one, is still called a TIFF and has no tags.
    found: int | tuple[int, ...] = getattr(image, "tag_v2", {}).get(number, default)
    return found


def _tiles(image: Image.Image) -> list[tuple[Any, ...]]:
    """How the pixels are to be decoded; gone after loading."""
    return [*getattr(image, "tile", ())]


def _numbers(arguments: object) -> list[int]:
    parts = arguments if isinstance(arguments, tuple) else (arguments,)
    return [part for part in parts if isinstance(part, int)]
