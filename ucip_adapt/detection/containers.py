"""Codec and quality as a file itself says them, without decoding a pixel."""

from __future__ import annotations

from ucip_adapt.detection.av1 import QUANTISERS, base_quantiser
from ucip_adapt.detection.bits import MalformedError, number
from ucip_adapt.detection.detection import Detection
from ucip_adapt.detection.heif import brands, coded_picture
from ucip_adapt.detection.jpeg import luma_table, nearest_quality
from ucip_adapt.detection.jpegxl import is_jpegxl, is_xyb
from ucip_adapt.detection.webp import is_lossless, quality_of

__all__ = ["detect_codec"]

_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"}
_AVIF = {b"avif", b"avis"}
_JP2_BOX = b"\x00\x00\x00\x0cjP  \r\n\x87\n"
_MAX_MARKERS = 100


def detect_codec(data: bytes) -> Detection:
    """Read codec and quality from a file's content, without decoding its pixels.

    Args:
        data: The file. It may be damaged or hostile: what cannot be read is unknown.

    Returns:
        What it says; of a lossless or unknown container, no codec.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> buffer = io.BytesIO()
        >>> Image.new("RGB", (16, 16)).save(buffer, "JPEG", quality=20)
        >>> found = detect_codec(buffer.getvalue())
        >>> found.codec, found.quality, found.reason
        ('jpeg', 20, 'JPEG quantisation tables of quality 20')
    """
    if data[:3] == b"\xff\xd8\xff":
        return _jpeg(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp(data)
    claimed = brands(data)
    if claimed & _AVIF:
        return _avif(data)
    if claimed & _HEIC:
        return Detection("heic", None, "HEIC container")
    if is_jpegxl(data):
        return _jpegxl(data)
    if data.startswith((_JP2_BOX, b"\xff\x4f\xff\x51")):
        return _jpeg2000(data)
    if data[:6] in {b"GIF87a", b"GIF89a"}:
        return _gif(data)
    return _unknown("the container does not say how the pixels were compressed")


def _unknown(reason: str) -> Detection:
    return Detection(None, None, reason, 0.0)


def _jpeg(data: bytes) -> Detection:
    try:
        quality, exact = nearest_quality(luma_table(data))
    except MalformedError:
        return Detection("jpeg", None, "JPEG without a quantisation table")
    how = "of" if exact else "nearest to"
    return Detection("jpeg", quality, f"JPEG quantisation tables {how} quality {quality}")


def _gif(data: bytes) -> Detection:
    """The palette for the whole file has 2 to 256 colours, a power of two (GIF89a, 18)."""
    if len(data) > 10 and data[10] & 0x80:
        colours = 2 << (data[10] & 7)
        return Detection("gif", colours, f"GIF with a palette of {colours} colours")
    return Detection("gif", None, "GIF without a palette for the whole file")


def _webp(data: bytes) -> Detection:
    if is_lossless(data):
        return _unknown("lossless WebP container")
    try:
        quality = quality_of(data)
    except MalformedError:
        return Detection("webp", None, "WebP container")
    return Detection("webp", quality, f"WebP container, quantisers as of quality {quality}")


def _avif(data: bytes) -> Detection:
    try:
        picture = coded_picture(data)
        if picture.kind != b"av01":
            return Detection("heic", None, "HEIC picture in an AVIF container")
        index = base_quantiser(picture.data)
    except MalformedError:
        return Detection("avif", None, "AVIF container")
    if index == 0:
        return _unknown("lossless AVIF container")
    quality = min(range(101), key=lambda quality: abs(QUANTISERS[quality] - index))
    return Detection("avif", quality, f"AVIF container, quantiser {index} as of quality {quality}")


def _jpegxl(data: bytes) -> Detection:
    """A picture that is not in XYB is lossless, or a JPEG file packed without loss."""
    try:
        lossy = is_xyb(data)
    except MalformedError:
        return Detection("jpegxl", None, "JPEG XL container")
    if lossy:
        return Detection("jpegxl", None, "JPEG XL container")
    return _unknown("JPEG XL container, lossless or of a JPEG file")


def _jpeg2000(data: bytes) -> Detection:
    """The wavelet tells: 5/3 is what lossless files use, 9/7 cannot be lossless."""
    start = data[:4096].find(b"\xff\x4f\xff\x51")
    try:
        at = start + 2 if start >= 0 else len(data)
        for _ in range(_MAX_MARKERS):
            marker, size = number(data, at, 2), number(data, at + 2, 2)
            if marker == 0xFF52:
                if number(data, at + 13, 1) == 1:
                    return _unknown("JPEG 2000 with its lossless wavelet")
                break
            at += 2 + size
    except MalformedError:
        pass
    return Detection("jpeg2000", None, "JPEG 2000 container")
