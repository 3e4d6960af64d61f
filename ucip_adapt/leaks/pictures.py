"""Pictures as the search sees them: grey, small, with a checksum of the full pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ucip_adapt.data.images import read_rgb
from ucip_adapt.errors import DataError

__all__ = ["Picture", "make_picture", "read_pictures"]

WORKING_SIDE = 256
"""Longest side that the search works on, in pixels."""


@dataclass(frozen=True)
class Picture:
    """One picture.

    Attributes:
        name: What reports call it.
        pixels_sha256: Checksum of the decoded RGB pixels and their shape.
        grey: Luma in floating point (Pillow's mode F), at most :data:`WORKING_SIDE` a side.
        shrink: Pixels of the original per pixel of ``grey``.

    Example:
        >>> picture = make_picture("black", np.zeros((300, 512, 3), np.uint8))
        >>> picture.grey.size, picture.shrink
        ((256, 150), 2.0)
    """

    name: str
    pixels_sha256: str
    grey: Image.Image
    shrink: float


def make_picture(name: str, rgb: NDArray[np.uint8]) -> Picture:
    """Prepare an image in memory.

    Args:
        name: What reports call it.
        rgb: ``H x W x 3`` uint8.

    Returns:
        The picture.
    """
    digest = hashlib.sha256(str(rgb.shape).encode() + np.ascontiguousarray(rgb).tobytes())
    image = Image.fromarray(rgb).convert("L").convert("F")
    shrink = max(1.0, max(image.size) / WORKING_SIDE)
    if shrink > 1.0:
        size = (max(1, round(image.width / shrink)), max(1, round(image.height / shrink)))
        image = image.resize(size, Image.Resampling.BOX)
    return Picture(name, digest.hexdigest(), image, shrink)


def read_pictures(
    files: Iterable[tuple[str, Path]],
) -> tuple[list[Picture], list[tuple[str, str]]]:
    """Read image files; one that cannot be read is set aside, the others are used.

    Args:
        files: Name and path of each.

    Returns:
        The pictures, and name and reason of each file that could not be read.
    """
    pictures, unreadable = [], []
    for name, path in files:
        try:
            pictures.append(make_picture(name, read_rgb(path)))
        except DataError as error:
            # The reason names the path, which belongs to one machine; a report does not.
            unreadable.append((name, str(error).replace(str(path), name)))
    return pictures, unreadable
