"""Open a picture's content with the library that decodes it, once its size is within the limit."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from ucip_adapt.data.opening import open_image
from ucip_adapt.detection.heif import brands
from ucip_adapt.detection.jpegxl import header_of, is_jpegxl
from ucip_adapt.errors import DataError

__all__ = ["TooManyPixelsError", "open_picture"]

_HEIC = {b"heic", b"heix", b"heim", b"heis"}
_ANY_STILL = b"mif1"  # a file of this brand may hold AVIF as well as HEIC


class TooManyPixelsError(DataError):
    """A picture has more pixels than the limit, and was not decoded."""


def open_picture(data: bytes, max_pixels: int) -> Image.Image:
    """Open with Pillow, or with the library of a format that Pillow does not know.

    Args:
        data: The file's content.
        max_pixels: Largest height times width that is decoded.

    Returns:
        The image, to be closed. Pillow decodes it when it is loaded, other libraries have done so.

    Raises:
        TooManyPixelsError: If it has too many pixels.
        UnidentifiedImageError: If it is in no format that is read; the message says what it is.
        DataError: If it is an animation, or a library is missing.
        Exception: Of any kind, if it is damaged.

    Example:
        >>> buffer = io.BytesIO()
        >>> Image.new("L", (6, 4)).save(buffer, "PNG")
        >>> open_picture(buffer.getvalue(), 23)
        Traceback (most recent call last):
        ...
        ucip_adapt.imaging.opening.TooManyPixelsError: 6 x 4 pixels are 24; the limit is 23
    """
    if _is_heic(data):
        return _open_heic(data, max_pixels)
    if is_jpegxl(data):
        return _open_jpegxl(data, max_pixels)
    image = open_image(io.BytesIO(data))
    _check_size(image.size, max_pixels)
    # A camera's MPO holds a preview behind the picture; anything else with frames is a film.
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise DataError(f"an animation of {frames} frames; only still pictures")
    return image


def _is_heic(data: bytes) -> bool:
    """Whether pillow-heif is to read it, which has no decoder for AV1."""
    claimed = brands(data)
    if data[8:12] == _ANY_STILL and claimed:
        return b"avif" not in claimed
    return bool(claimed) and data[8:12] in _HEIC


def _open_heic(data: bytes, max_pixels: int) -> Image.Image:
    try:
        import pillow_heif
    except ImportError as error:
        raise DataError('HEIC needs pillow-heif: pip install "ucip-adapt[more]"') from error
    heif = pillow_heif.open_heif(io.BytesIO(data))
    _check_size(heif.size, max_pixels)
    image: Image.Image = heif.to_pillow()  # decodes
    image.format = "HEIC"
    return image


def _open_jpegxl(data: bytes, max_pixels: int) -> Image.Image:
    try:
        import imagecodecs
    except ImportError as error:
        raise DataError('JPEG XL needs imagecodecs: pip install "ucip-adapt[more]"') from error
    # imagecodecs has no way to ask for the size without decoding, and decodes all frames.
    header = header_of(data)
    _check_size((header.width, header.height), max_pixels)
    if header.is_animated:
        raise DataError("an animation; only still pictures")
    pixels = imagecodecs.jpegxl_decode(data)
    if pixels.dtype != np.uint8:
        raise DataError(f"JPEG XL with {pixels.dtype} pixels; convert it to PNG first")
    return Image.fromarray(pixels)


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise TooManyPixelsError(
            f"{width} x {height} pixels are {width * height:,}; the limit is {max_pixels:,}"
        )
