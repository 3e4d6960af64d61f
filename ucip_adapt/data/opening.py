"""Opening image files: the formats that are read, and words for what is none of them."""

from __future__ import annotations

import os
from typing import BinaryIO

from PIL import Image, TiffImagePlugin, UnidentifiedImageError

__all__ = ["READ_FORMATS", "open_image", "unmapped"]

READ_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM")
"""Pillow's names of what is read, under whatever name it lies; JPEG takes cameras' MPO along."""

_OTHERS = (
    ("EPS", 0, b"%!PS"),
    ("EPS", 0, b"\xc5\xd0\xd3\xc6"),
    ("WMF", 0, b"\xd7\xcd\xc6\x9a"),
    ("EMF", 40, b" EMF"),
    ("PDF", 0, b"%PDF"),
    ("PSD", 0, b"8BPS"),
)
"""Name, place and bytes of formats that people take for pictures as well."""

_START = 64


def open_image(source: str | os.PathLike[str] | BinaryIO) -> Image.Image:
    """Open an image file, without decoding its pixels.

    Left to itself, Pillow goes by the content and tries all that it knows, and for some it starts
    another program: of an EPS file called ``photo.png`` it has Ghostscript make the pixels.

    Args:
        source: The file.

    Returns:
        The image, to be closed.

    Raises:
        UnidentifiedImageError: If it is in none of :data:`READ_FORMATS`; the message says what it
            is, as far as that can be told, and does not name the file.
        OSError: If it cannot be read.

    Example:
        >>> import io
        >>> open_image(io.BytesIO(b"%!PS-Adobe-3.0 EPSF-3.0"))
        Traceback (most recent call last):
        ...
        PIL.UnidentifiedImageError: EPS, which is not a format that is read; convert it to PNG first
    """
    try:
        return unmapped(Image.open(source, formats=READ_FORMATS))
    except UnidentifiedImageError as error:
        raise UnidentifiedImageError(_description(_start_of(source))) from error


def unmapped(image: Image.Image) -> Image.Image:
    """Have the pixels of a TIFF read, not mapped from its file into memory.

    Pillow 13.0 maps what is not compressed with height and width in the order of the upright
    picture; one that is stored lying comes out scrambled.

    Args:
        image: Opened, and not loaded yet; the name of its file is taken from it.

    Returns:
        The same image.
    """
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        image.filename = ""
    return image


def _start_of(source: str | os.PathLike[str] | BinaryIO) -> bytes:
    if isinstance(source, (str, os.PathLike)):
        with open(source, "rb") as file:
            return file.read(_START)
    source.seek(0)
    return source.read(_START)


def _description(start: bytes) -> str:
    """What a file is that is not read, by its first bytes."""
    if not start:
        return "the file is empty"
    text = start.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html")):
        return "a web page, not a picture: the download went wrong"
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not a picture: run `git lfs pull`"
    for name, at, magic in _OTHERS:
        if start.startswith(magic, at):
            return f"{name}, which is not a format that is read; convert it to PNG first"
    return "no picture format that is known here"
