"""Reading images and listing folders of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ucip_adapt.errors import DataError

__all__ = ["IMAGE_SUFFIXES", "list_images", "read_rgb", "save_png"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
"""File names that :func:`list_images` takes for images, in any case."""

_DIRECT_MODES = ("RGB", "L", "1", "P", "RGBA", "LA", "PA", "CMYK", "YCbCr")


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """All images of a folder and the folders below it, sorted by name.

    Raises:
        DataError: If the folder does not exist or holds no image.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(f"no folder '{root}'")
    paths = sorted(
        path for path in root.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
    )
    if not paths:
        raise DataError(f"no images in '{root}' (looked for {', '.join(IMAGE_SUFFIXES)})")
    return paths


def read_rgb(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Read an image as ``H x W x 3`` uint8.

    Grey is repeated over the channels and palettes are looked up. Transparent pixels have no colour
    of their own to learn from or to be measured by, so an image that really uses alpha is refused,
    as is one of more than 8 bits, which Pillow would clip silently.

    Raises:
        DataError: If the file cannot be read, or its pixels are not plain 8-bit colours; the
            message names the file.
    """
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode not in _DIRECT_MODES:
                raise DataError(
                    f"{path}: pixels of mode '{image.mode}'; convert the image to 8-bit RGB first"
                )
            if image.has_transparency_data:
                lowest, _ = image.convert("RGBA").getchannel("A").getextrema()
                if lowest != 255:
                    raise DataError(f"{path}: has transparent pixels; flatten the image first")
            return np.array(image.convert("RGB"))
    except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot read image {path}: {error}") from error


def save_png(path: Path, rgb: NDArray[np.uint8]) -> None:
    """Write an ``H x W x 3`` uint8 image as PNG beside its place, then rename it."""
    temporary = path.with_suffix(".tmp")
    Image.fromarray(rgb).save(temporary, "PNG")
    temporary.replace(path)


def match_by_stem(first: Sequence[Path], second: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Pair the files of two lists by name without suffix, in the order of the first.

    Raises:
        DataError: If a file of the first list has no partner.
    """
    partners = {path.stem: path for path in second}
    missing = [path.name for path in first if path.stem not in partners]
    if missing:
        raise DataError(
            f"{len(missing)} images have no partner of the same name, the first: {missing[0]}"
        )
    return [(path, partners[path.stem]) for path in first]
