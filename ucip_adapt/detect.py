"""Which codec made a file, and at which quality, as the file itself says."""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["Detection", "detect_codec"]


@dataclass(frozen=True)
class Detection:
    """What a file says of its coding.

    Attributes:
        codec: Name as in ``ucip-adapt codecs``; None where the file does not say.
        quality: The codec's own knob, as near as the file tells; None where it does not.
        reason: How it is known, in words for the user.

    Example:
        >>> Detection("webp", None, "WebP container").codec
        'webp'
    """

    codec: str | None
    quality: int | None
    reason: str


def detect_codec(data: bytes) -> Detection:
    """Read codec and quality from a file's content, without decoding its pixels.

    Args:
        data: The file.

    Returns:
        What it says; of a lossless or unknown container, no codec.

    Example:
        >>> buffer = io.BytesIO()
        >>> Image.new("RGB", (16, 16)).save(buffer, "JPEG", quality=20)
        >>> detect_codec(buffer.getvalue())
        Detection(codec='jpeg', quality=20, reason='JPEG quantisation tables of quality 20')
    """
    if data[:3] == b"\xff\xd8\xff":
        return _jpeg(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        if b"VP8L" in data[12:64]:
            return Detection(None, None, "lossless WebP container")
        return Detection("webp", None, "WebP container")
    if data[4:8] == b"ftyp":
        brand = data[8:12]
        if brand in {b"avif", b"avis"}:
            return Detection("avif", None, "AVIF container")
        if brand in {b"heic", b"heix", b"heim", b"heis", b"mif1"}:
            return Detection("heic", None, "HEIC container")
    if data[:2] == b"\xff\x0a" or data[4:12] == b"JXL \r\n\x87\n":
        return Detection("jpegxl", None, "JPEG XL container")
    if data[4:12] == b"jP  \r\n\x87\n" or data[:4] == b"\xff\x4f\xff\x51":
        return Detection("jpeg2000", None, "JPEG 2000 container")
    return Detection(None, None, "the container does not say how the pixels were compressed")


def _jpeg(data: bytes) -> Detection:
    """Nearest quality of libjpeg's scaled standard tables (ITU-T T.81, Annex K)."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            tables = getattr(image, "quantization", {})
    except (OSError, ValueError, SyntaxError):
        tables = {}
    if 0 not in tables:
        return Detection("jpeg", None, "JPEG without a quantisation table")
    luma = np.sort(np.array(tables[0], np.int64))
    distances = np.abs(_luma_tables() - luma).sum(axis=1)
    quality = int(distances.argmin()) + 1
    how = "of" if distances.min() == 0 else "nearest to"
    return Detection("jpeg", quality, f"JPEG quantisation tables {how} quality {quality}")


@functools.cache
def _luma_tables() -> NDArray[np.int64]:
    """Luma tables of qualities 1 to 100, each sorted, so that the order of a file is irrelevant.

    Pillow's own encoder is asked for them, rather than copied from the standard.
    """
    tables = []
    for quality in range(1, 101):
        buffer = io.BytesIO()
        Image.new("L", (8, 8)).save(buffer, "JPEG", quality=quality)
        buffer.seek(0)
        with Image.open(buffer) as image:
            tables.append(np.sort(image.quantization[0]))  # type: ignore[attr-defined]
    return np.array(tables, np.int64)
