"""Reading images and listing folders of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ucip_adapt.atomic import replaced
from ucip_adapt.data.opening import open_image
from ucip_adapt.errors import DataError

__all__ = ["IMAGE_SUFFIXES", "image_names", "list_images", "read_rgb", "save_png"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
"""File names that :func:`list_images` takes for images, in any case."""

_DIRECT_MODES = ("RGB", "L", "1", "P", "RGBA", "LA", "PA", "CMYK", "YCbCr")
_MODES_OF_32_BITS = ("I", "F")
_TOLD_BY_CONTENT = ("AVIF", "JPEG2000")
"""Formats whose depth Pillow does not tell; their files are looked into."""


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """All images of a folder and the folders below it, sorted by name, on every system alike.

    Hidden files are left out: some systems put a ``._name.png`` that is no image beside each image.
    Links to folders are followed.

    Args:
        folder: The folder.

    Returns:
        Paths that end in one of :data:`IMAGE_SUFFIXES`; at least one.

    Raises:
        DataError: If the folder does not exist or holds no image, one below it cannot be listed, or
            the name of an image is no text.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("b.png", "a.JPG", "notes.txt"):
        ...         Path(folder, name).touch()
        ...     print([path.name for path in list_images(folder)])
        ['a.JPG', 'b.png']
    """
    # Paths themselves sort by case on one system and without on another; crops depend on the order.
    return [Path(folder, name) for name in image_names(folder)]


def image_names(folder: str | os.PathLike[str]) -> list[str]:
    """Names of all images of a folder and the folders below it, sorted.

    Args:
        folder: The folder.

    Returns:
        Paths relative to it, with forward slashes; at least one.

    Raises:
        DataError: As for :func:`list_images`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "b").mkdir()
        ...     for name in ("b/1.png", "a.JPG", "notes.txt", ".hidden.png"):
        ...         Path(folder, name).touch()
        ...     print(image_names(folder))
        ['a.JPG', 'b/1.png']
    """
    names = sorted(_walk_images(folder))
    for name in names:
        try:
            name.encode()  # it goes into checksums, reports and tables
        except UnicodeEncodeError:
            raise DataError(f"the name of {name!a} in '{folder}' is no text; rename it") from None
    return names


def _walk_images(folder: str | os.PathLike[str]) -> Iterator[str]:
    """Yield the names of :func:`image_names`, in no order."""
    root = os.fspath(folder)
    if not Path(root).is_dir():
        raise DataError(f"no folder '{root}'")
    # Each folder counts once, under its own name where it has one inside: links come last, by name.
    waiting, links, seen, empty = [""], list[str](), set[tuple[int, int]](), True
    while waiting or links:
        links.sort(reverse=True)
        inner = waiting.pop() if waiting else links.pop()
        try:
            state = os.stat(os.path.join(root, inner))
            if (place := (state.st_dev, state.st_ino)) in seen:
                continue
            seen.add(place)
            with os.scandir(os.path.join(root, inner)) as entries:
                for entry in entries:
                    if entry.is_dir():
                        (links if entry.is_symlink() else waiting).append(f"{inner}{entry.name}/")
                    elif _is_image(entry):
                        empty = False
                        yield f"{inner}{entry.name}"
        except OSError as error:
            raise DataError(f"cannot list the images of '{root}': {error}") from error
    if empty:
        raise DataError(f"no images in '{root}' (looked for {', '.join(IMAGE_SUFFIXES)})")


def _is_image(entry: os.DirEntry[str]) -> bool:
    name = entry.name
    dot = name.rfind(".")
    return dot > 0 and name[0] != "." and name[dot:].lower() in IMAGE_SUFFIXES and entry.is_file()


def read_rgb(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Read an image as ``H x W x 3`` uint8.

    Grey is repeated over the channels and palettes are looked up. Transparent pixels have no colour
    of their own to learn from or to be measured by, so an image that really uses alpha is refused,
    as is one of more than 8 bits, which Pillow would clip or cut down silently. The orientation
    that a camera noted is applied; colour profiles are not.

    Args:
        path: The file.

    Returns:
        The pixels, in an array of their own.

    Raises:
        DataError: If the file cannot be read, is in none of the formats of
            :data:`~ucip_adapt.data.opening.READ_FORMATS`, or its pixels are not plain 8-bit
            colours; the message names the file.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("L", (6, 4), 200).save(Path(folder, "grey.png"))
        ...     print(read_rgb(Path(folder, "grey.png")).shape)
        (4, 6, 3)
    """
    try:
        with open_image(path) as image:
            bits = _bits_per_channel(path, image)  # loading drops what tells
            image.load()
            _check_pixels(path, image, bits)
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except (DataError, MemoryError):
        raise
    except Exception as error:  # damaged bytes raise nearly anything, SyntaxError among it
        raise DataError(f"cannot read image {path}: {error}") from error


def _bits_per_channel(path: str | os.PathLike[str], image: Image.Image) -> int:
    # Not above: it knows containers by the package that detects codecs, which reads images itself.
    from ucip_adapt.imaging.depth import bits_per_channel

    content = Path(path).read_bytes() if image.format in _TOLD_BY_CONTENT else b""
    return bits_per_channel(content, image)


def _check_pixels(path: str | os.PathLike[str], image: Image.Image, bits: int) -> None:
    """Refuse what has no plain 8-bit colours."""
    deep = bits > 8 and image.mode not in _MODES_OF_32_BITS
    if deep or image.mode not in _DIRECT_MODES:
        depth = f"{bits} bits per channel" if deep else f"pixels of mode '{image.mode}'"
        raise DataError(f"{path}: {depth}; convert the image to 8-bit RGB first")
    if image.has_transparency_data:
        lowest, _ = image.convert("RGBA").getchannel("A").getextrema()
        if lowest != 255:
            raise DataError(f"{path}: has transparent pixels; flatten the image first")


def save_png(path: Path, rgb: NDArray[np.uint8]) -> None:
    """Write an ``H x W x 3`` uint8 image as PNG beside its place, then rename it.

    Args:
        path: The file.
        rgb: The image.

    Raises:
        DataError: If it cannot be written; a file of that name is as it was.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_png(Path(folder, "black.png"), np.zeros((4, 6, 3), np.uint8))
        ...     print(read_rgb(Path(folder, "black.png")).shape)
        (4, 6, 3)
    """
    try:
        with replaced(path) as temporary:
            Image.fromarray(rgb).save(temporary, "PNG")
    except OSError as error:
        raise DataError(f"cannot write image {path}: {error}") from error


def match_by_stem(first: Sequence[Path], second: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Pair the files of two lists by name without suffix, in the order of the first.

    Args:
        first: Files that each need a partner.
        second: Files to choose from.

    Returns:
        ``(file, partner)`` for each file of the first list.

    Raises:
        DataError: If a file of the first list has no partner, or more than one.
    """
    partners = {path.stem: path for path in second}
    if len(partners) < len(second):
        twice = next(path for path in second if partners[path.stem] != path)
        raise DataError(f"{twice} and {partners[twice.stem]} have the same name: which one is it?")
    missing = [path.name for path in first if path.stem not in partners]
    if missing:
        raise DataError(
            f"{len(missing)} images have no partner of the same name, the first: {missing[0]}"
        )
    return [(path, partners[path.stem]) for path in first]
