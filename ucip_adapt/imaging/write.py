"""Write a picture with its depth, transparency and metadata."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ucip_adapt.errors import DataError, unknown_name
from ucip_adapt.imaging.exif import describing, has_sub_ifds
from ucip_adapt.imaging.picture import Picture

__all__ = ["FORMATS", "OutputFormat", "encode_picture"]


@dataclass(frozen=True)
class OutputFormat:
    """One format that pictures are written in.

    Attributes:
        pillow_format: Pillow's name of it.
        suffix: Ending of the file's name.
        alpha: Whether it holds transparency.
        depth: Most bits per channel.
        options: Save options; the lossy one is as good as it is asked for.
    """

    pillow_format: str
    suffix: str
    alpha: bool
    depth: int
    options: tuple[tuple[str, Any], ...] = ()


FORMATS = {
    "png": OutputFormat("PNG", ".png", alpha=True, depth=16),
    "webp": OutputFormat(
        "WEBP", ".webp", alpha=True, depth=8, options=(("lossless", True), ("exact", True))
    ),
    "tiff": OutputFormat(
        "TIFF", ".tif", alpha=True, depth=8, options=(("compression", "tiff_adobe_deflate"),)
    ),
    "jpeg": OutputFormat(
        "JPEG", ".jpg", alpha=False, depth=8, options=(("quality", 95), ("subsampling", 0))
    ),
}
"""What ``--format`` offers; all but ``jpeg`` are lossless."""


def encode_picture(picture: Picture, file_format: str = "png") -> bytes:
    """Encode a picture.

    Args:
        picture: The picture.
        file_format: A name of :data:`FORMATS`.

    Returns:
        The file's content.

    Raises:
        UnknownNameError: If there is no such format.
        DataError: If the format cannot hold the picture, or a library is missing.

    Example:
        >>> from ucip_adapt.imaging import read_picture
        >>> wide = Picture(np.full((3, 5, 3), 1000, np.uint16))
        >>> read_picture(encode_picture(wide)).colour.max()
        np.uint16(1000)
    """
    if file_format not in FORMATS:
        raise unknown_name("format", file_format, FORMATS)
    target = FORMATS[file_format]
    able = ", ".join(
        name
        for name, f in FORMATS.items()
        if f.depth >= picture.depth and (f.alpha or picture.alpha is None)
    )
    if picture.alpha is not None and not target.alpha:
        raise DataError(f"{file_format} holds no transparency; these do: {able}")
    if picture.depth > target.depth:
        raise DataError(f"{file_format} holds no {picture.depth} bits per channel; use {able}")
    if picture.depth == 16:
        return _png16(picture)
    planes = picture.colour
    if picture.alpha is not None:
        planes = np.concatenate([planes, picture.alpha[..., None]], axis=2)
    options: dict[str, Any] = dict(target.options)
    if picture.icc_profile is not None:
        options["icc_profile"] = picture.icc_profile
    if picture.exif is not None:
        options["exif"] = picture.exif
    if picture.exif is not None and target.pillow_format == "TIFF":
        # A camera's EXIF data may hold the old width; a TIFF reader would believe it.
        exif = Image.Exif()
        exif.load(picture.exif)
        exif = describing(exif)
        options["exif"] = exif.tobytes()
        if has_sub_ifds(exif):
            del options["compression"]  # libtiff, which compresses, cannot write sub-tables
    buffer = io.BytesIO()
    image = Image.fromarray(planes[..., 0] if planes.shape[2] == 1 else planes)
    try:
        image.save(buffer, target.pillow_format, **options)
    except (OSError, ValueError, RuntimeError) as error:  # the last is libtiff's
        height, width = picture.size
        raise DataError(f"{file_format} cannot hold {width} x {height} pixels: {error}") from error
    return buffer.getvalue()


def _png16(picture: Picture) -> bytes:
    """16-bit PNG, which Pillow writes for opaque grey only."""
    try:
        import imagecodecs
    except ImportError as error:
        raise DataError(
            '16-bit pictures need imagecodecs: pip install "ucip-adapt[more]"'
        ) from error
    planes = picture.colour
    if picture.alpha is not None:
        planes = np.concatenate([planes, picture.alpha[..., None]], axis=2)
    planes = planes[..., 0] if planes.shape[2] == 1 else planes
    data = bytes(imagecodecs.png_encode(np.ascontiguousarray(planes)))
    extra = b""
    if picture.icc_profile is not None:
        extra += _chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(picture.icc_profile))
    if picture.exif is not None:
        extra += _chunk(b"eXIf", picture.exif.removeprefix(b"Exif\0\0"))
    end_of_header = 8 + 4 + 4 + 13 + 4  # signature, then IHDR, which comes first
    return data[:end_of_header] + extra + data[end_of_header:]


def _chunk(kind: bytes, content: bytes) -> bytes:
    """One PNG chunk (PNG specification, 5.3)."""
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)
