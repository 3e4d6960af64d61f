"""Listing a million images without opening one."""

from __future__ import annotations

import os
from pathlib import Path

from ucip_adapt.data.images import IMAGE_SUFFIXES
from ucip_adapt.errors import DataError

__all__ = ["scan_images"]


def scan_images(folder: str | os.PathLike[str]) -> list[str]:
    """Names of all images of a folder and the folders below it, in the order of ``list_images``.

    Args:
        folder: The folder.

    Returns:
        Paths relative to it, with forward slashes; at least one.

    Raises:
        DataError: If the folder does not exist or holds no image, or a name is no text.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "b").mkdir()
        ...     for name in ("b/1.png", "a.JPG", "notes.txt", ".hidden.png"):
        ...         Path(folder, name).touch()
        ...     print(scan_images(folder))
        ['a.JPG', 'b/1.png']
    """
    root = os.fspath(folder)
    if not Path(root).is_dir():
        raise DataError(f"no folder '{root}'")
    names: list[str] = []
    waiting = [""]
    while waiting:
        inner = waiting.pop()
        with os.scandir(os.path.join(root, inner)) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{inner}{entry.name}/")
                elif _is_image(entry):
                    names.append(f"{inner}{entry.name}")
    if not names:
        raise DataError(f"no images in '{root}' (looked for {', '.join(IMAGE_SUFFIXES)})")
    names.sort()
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DataError(f"the name of {name!a} in '{root}' is no text; rename it") from None
    return names


def _is_image(entry: os.DirEntry[str]) -> bool:
    name = entry.name
    dot = name.rfind(".")
    return dot > 0 and name[0] != "." and name[dot:].lower() in IMAGE_SUFFIXES and entry.is_file()
