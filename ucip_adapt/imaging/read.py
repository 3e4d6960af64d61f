"""Read a picture file without dropping its depth, transparency, profile or orientation."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from ucip_adapt.detection.jpegxl import is_jpegxl
from ucip_adapt.errors import DataError
from ucip_adapt.imaging.depth import bits_per_channel, in_16_bits, is_negative, is_planar
from ucip_adapt.imaging.exif import kept
from ucip_adapt.imaging.opening import TooManyPixelsError, open_picture
from ucip_adapt.imaging.picture import Picture

__all__ = ["MAX_INPUT_PIXELS", "TooManyPixelsError", "from_pillow", "read_bytes", "read_picture"]

MAX_INPUT_PIXELS = 16_000_000
"""Default limit: 16 times as many pixels come out, 768 MB of RGB."""

_BITS_OF_PILLOW = 8
_EXTRA_SAMPLES = 338  # TIFF's tag of what stands behind the colours
_DEEPEST = 2**16 - 1
_DEEP_FORMATS = ("PNG", "TIFF", "JPEG2000")
_HIDDEN = "transparent colour converted to an alpha channel"
_DAMAGED_EXIF = "damaged EXIF data dropped"
_NOT_OF_JPEG_XL = "a colour profile and EXIF data are not read from JPEG XL"
_Turn = Callable[[NDArray[Any]], NDArray[Any]]
_ORIENT: dict[int, _Turn] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}
"""EXIF orientation -> what makes the picture upright; 1 and unknown values need nothing."""


def read_picture(source: Path | bytes, *, max_pixels: int = MAX_INPUT_PIXELS) -> Picture:
    """Read a still picture.

    Grey stays grey, 16 bits stay 16 bits, transparency and the colour profile are kept. Palettes,
    1-bit and CMYK pictures are converted, and a note says so.

    Args:
        source: The file, or its content.
        max_pixels: Largest height times width that is decoded.

    Returns:
        The picture, upright as its EXIF data say.

    Raises:
        TooManyPixelsError: If it has too many pixels.
        DataError: If there is no such file, it is no still picture, is damaged, or a library is
            missing; no message names the file.

    Example:
        >>> buffer = io.BytesIO()
        >>> Image.new("LA", (6, 4), (200, 128)).save(buffer, "PNG")
        >>> picture = read_picture(buffer.getvalue())
        >>> picture.mode, picture.size
        ('LA', (4, 6))
    """
    data = source if isinstance(source, bytes) else read_bytes(source)
    if not data:
        raise DataError("the file is empty")
    try:
        with open_picture(data, max_pixels) as image:
            deep = bits_per_channel(data, image) > _BITS_OF_PILLOW
            picture = _deep(data, image) if deep else from_pillow(image)
            # Not before: Pillow turns a TIFF upright while it loads it, and takes the tag out.
            turn, rest, damaged = _exif_of(image)
            notes = (*picture.notes, *damaged, *((_NOT_OF_JPEG_XL,) if is_jpegxl(data) else ()))
    except (DataError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise DataError(str(error)) from error
    except Image.DecompressionBombError as error:
        raise TooManyPixelsError(f"far too many pixels; the limit is {max_pixels:,}") from error
    except Exception as error:  # damaged bytes raise nearly anything, SyntaxError among it
        raise DataError(f"damaged, or not supported: {error}") from error
    colour, alpha = picture.colour, picture.alpha
    if turn is not None:
        colour, alpha = turn(colour), None if alpha is None else turn(alpha)
    return Picture(
        np.ascontiguousarray(colour),
        None if alpha is None else np.ascontiguousarray(alpha),
        picture.icc_profile,
        rest,
        notes,
    )


def _exif_of(image: Image.Image) -> tuple[_Turn | None, bytes | None, tuple[str, ...]]:
    """What makes the picture upright, the rest of its EXIF data, and a note if they are damaged."""
    turn = None
    try:
        exif = image.getexif()
        turn = _ORIENT.get(exif.get(ExifTags.Base.Orientation, 1))
        return turn, kept(exif, of_tiff=image.format == "TIFF"), ()
    except MemoryError:
        raise
    except Exception:  # values of wrong types raise nearly anything; the pixels are none the worse
        return turn, None, (_DAMAGED_EXIF,)


def read_bytes(path: Path) -> bytes:
    """Read a file.

    Args:
        path: The file.

    Returns:
        Its content.

    Raises:
        DataError: If it cannot be read; the message does not name it.

    Example:
        >>> read_bytes(Path("."))
        Traceback (most recent call last):
        ...
        ucip_adapt.errors.DataError: is a folder, not a picture
    """
    try:
        return path.read_bytes()
    except IsADirectoryError as error:
        raise DataError("is a folder, not a picture") from error
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}") from error


def from_pillow(image: Image.Image) -> Picture:
    """Take over an image of Pillow's: of at most 8 bits per channel, or of 16-bit grey.

    Args:
        image: The image; its EXIF data play no part.

    Returns:
        The picture, with the colour profile, and what was converted in its notes.

    Raises:
        DataError: If its pixels have 32 bits.

    Example:
        >>> image = Image.new("L", (6, 4), 200)
        >>> image.info["transparency"] = 200
        >>> picture = from_pillow(image)
        >>> picture.mode, int(picture.alpha.max())
        ('LA', 0)
    """
    image.load()
    mode = image.mode
    notes: list[str] = []
    icc: bytes | None = image.info.get("icc_profile")
    # Of grey PPM with more than 8 bits Pillow makes 32, whose values are those of 16.
    if mode.startswith("I;16") or (mode == "I" and image.format == "PPM"):
        grey = in_16_bits(image)[..., None]
        planes, notes = _with_hidden_level(grey, image.info.get("transparency"))
        if is_negative(image):
            planes[..., 0] = _DEEPEST - planes[..., 0]
        return _assemble(planes, icc, notes)
    if mode in {"I", "F"}:
        raise DataError(f"pixels of mode '{mode}' (32 bits); convert it to 16-bit PNG first")
    if mode == "1":
        hidden = image.info.get("transparency")
        bits = 255 * np.array(image).astype(np.uint8)[..., None]
        planes, notes = _with_hidden_level(bits, 255 if hidden else hidden)
        return _assemble(planes, icc, ["1-bit picture converted to grey", *notes])
    if mode in {"P", "PA"}:
        target = "RGBA" if image.has_transparency_data else "RGB"
        image, notes = image.convert(target), [f"palette converted to {target}"]
    elif mode == "CMYK":
        image, icc = _from_cmyk(image, icc), None
        notes = ["CMYK converted to RGB"]
    elif mode in {"La", "RGBa"}:
        image = image.convert(mode.upper())  # colours that were multiplied by alpha
    elif mode not in {"L", "LA", "RGB", "RGBA"}:
        image, notes = image.convert("RGB"), [f"{mode} converted to RGB"]
    elif image.has_transparency_data and not mode.endswith("A"):
        image = image.convert(mode + "A")  # one colour is marked as transparent
        notes = [_HIDDEN]
    planes = np.array(image)
    planes = planes[..., None] if planes.ndim == 2 else planes
    return _assemble(planes, icc, notes)


def _with_hidden_level(grey: NDArray[Any], hidden: object) -> tuple[NDArray[Any], list[str]]:
    """Grey, and alpha where one of its levels is marked as transparent; a note says so."""
    if not isinstance(hidden, int):
        return grey, []
    opaque = 255 if grey.dtype == np.uint8 else _DEEPEST
    alpha = np.where(grey == hidden, 0, opaque).astype(grey.dtype)
    return np.concatenate([grey, alpha], axis=2), [_HIDDEN]


def _deep(data: bytes, image: Image.Image) -> Picture:
    """A picture of more than 8 bits per channel, which Pillow would cut down to 8 in colour."""
    if image.mode[0] in "IF":
        return from_pillow(image)
    if image.format not in _DEEP_FORMATS or image.mode not in {"LA", "RGB", "RGBA"}:
        picture = from_pillow(image)
        note = f"more than 8 bits per channel of {image.format} cut down to 8"
        return dataclasses.replace(picture, notes=(*picture.notes, note))
    try:
        import imagecodecs
    except ImportError as error:
        raise DataError(
            '16-bit colours need imagecodecs: pip install "ucip-adapt[more]"'
        ) from error
    decoders = {
        "PNG": imagecodecs.png_decode,
        "TIFF": imagecodecs.tiff_decode,
        "JPEG2000": imagecodecs.jpeg2k_decode,
    }
    planes = np.asarray(decoders[str(image.format)](data))
    if image.format == "JPEG2000" and planes.dtype == np.uint16:
        largest = 2 ** bits_per_channel(data, image) - 1
        planes = np.rint(planes * (_DEEPEST / largest)).astype(np.uint16)
    planes = planes[..., None] if planes.ndim == 2 else planes
    if is_planar(image):
        planes = np.moveaxis(planes, 0, -1)
    if planes.dtype != np.uint16 or planes.ndim != 3 or planes.shape[2] > 4:
        raise DataError(f"{image.format} with {planes.dtype} pixels of shape {planes.shape}")
    if _is_multiplied(image) and planes.shape[2] in (2, 4):
        alpha = np.maximum(planes[..., -1:].astype(np.float64), 1)
        colour = np.rint(planes[..., :-1] * (_DEEPEST / alpha)).clip(0, _DEEPEST)
        planes = np.concatenate([colour.astype(np.uint16), planes[..., -1:]], axis=2)
    return _assemble(planes, image.info.get("icc_profile"), [])


def _is_multiplied(image: Image.Image) -> bool:
    """Whether a TIFF says that its colours are multiplied by alpha (ExtraSamples 1)."""
    tags = getattr(image, "tag_v2", {})
    return image.format == "TIFF" and tuple(tags.get(_EXTRA_SAMPLES, ()))[:1] == (1,)


def _assemble(planes: NDArray[Any], icc: bytes | None, notes: list[str]) -> Picture:
    """Split off an alpha channel; drop a profile that describes other channels."""
    channels = planes.shape[2]
    alpha = planes[..., -1] if channels in (2, 4) else None
    colour = planes[..., : channels - (alpha is not None)]
    if icc is not None and icc[16:20] != (b"GRAY" if colour.shape[2] == 1 else b"RGB "):
        icc, notes = None, [*notes, "colour profile of other channels dropped"]
    return Picture(colour, alpha, icc, None, tuple(notes))


def _from_cmyk(image: Image.Image, icc: bytes | None) -> Image.Image:
    """RGB of inks, by the picture's own profile where that works."""
    if icc is not None:
        try:
            rgb = ImageCms.profileToProfile(
                image,
                ImageCms.ImageCmsProfile(io.BytesIO(icc)),
                ImageCms.createProfile("sRGB"),
                outputMode="RGB",
            )
        except (ImageCms.PyCMSError, OSError):
            rgb = None
        if rgb is not None:
            return rgb
    return image.convert("RGB")
