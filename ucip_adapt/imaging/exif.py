"""EXIF data that still hold for an enlarged picture in another file."""

from __future__ import annotations

from typing import Any

from PIL import ExifTags, Image

__all__ = ["describing", "has_sub_ifds", "kept"]

_TIFF_DESCRIBES = frozenset(
    {
        ExifTags.Base.ImageDescription,
        ExifTags.Base.Make,
        ExifTags.Base.Model,
        ExifTags.Base.XResolution,
        ExifTags.Base.YResolution,
        ExifTags.Base.ResolutionUnit,
        ExifTags.Base.Software,
        ExifTags.Base.DateTime,
        ExifTags.Base.Artist,
        ExifTags.Base.HostComputer,
        ExifTags.Base.Rating,
        ExifTags.Base.Copyright,
        ExifTags.Base.XPTitle,
        ExifTags.Base.XPComment,
        ExifTags.Base.XPAuthor,
        ExifTags.Base.XPKeywords,
        ExifTags.Base.XPSubject,
    }
)
_SUB_IFDS = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)


def kept(exif: Image.Exif, *, of_tiff: bool) -> bytes | None:
    """What is passed on of a file's EXIF data; its orientation has been applied.

    Args:
        exif: As Pillow reads them.
        of_tiff: Whether the file is a TIFF. What Pillow calls its EXIF data are then all of its
            tags, among them the width, the offsets and the coding of the old pixels.

    Returns:
        The bytes of an EXIF block; None if nothing is left.

    Example:
        >>> exif = Image.Exif()
        >>> exif[ExifTags.Base.Orientation], exif[ExifTags.Base.ImageWidth] = 6, 40
        >>> kept(exif, of_tiff=True) is None
        True
    """
    if of_tiff:
        exif = describing(exif)
    exif.pop(ExifTags.Base.Orientation, None)
    return exif.tobytes() if len(exif) else None


def describing(exif: Image.Exif) -> Image.Exif:
    """The tags that describe a picture, without those that say where and how its pixels are stored.

    Args:
        exif: Of any file.

    Example:
        >>> exif = Image.Exif()
        >>> exif[ExifTags.Base.Make], exif[ExifTags.Base.ImageWidth] = "maker", 40
        >>> dict(describing(exif))
        {271: 'maker'}
    """
    found = Image.Exif()
    for tag, value in exif.items():
        if tag in _TIFF_DESCRIBES:
            found[int(tag)] = value
    for tag in _SUB_IFDS:
        inner: dict[int, Any] = dict(exif.get_ifd(tag))
        if inner:
            found[tag] = inner
    return found


def has_sub_ifds(exif: Image.Exif) -> bool:
    """Whether there are camera settings or a place, which have tables of their own.

    Args:
        exif: What :func:`describing` gives.

    Example:
        >>> has_sub_ifds(Image.Exif())
        False
    """
    return any(tag in exif for tag in _SUB_IFDS)
