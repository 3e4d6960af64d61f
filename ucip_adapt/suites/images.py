"""Listing a million images without opening one."""

from __future__ import annotations

import os

from ucip_adapt.data.images import walk_images
from ucip_adapt.errors import DataError

__all__ = ["scan_images"]


def scan_images(folder: str | os.PathLike[str]) -> list[str]:
    """Names of all images of a folder and the folders below it, in the order of ``list_images``.

    Args:
        folder: The folder.

    Returns:
        Paths relative to it, with forward slashes; at least one.

    Raises:
        DataError: If the folder does not exist or holds no image, one below it cannot be listed, or
            a name is no text.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "b").mkdir()
        ...     for name in ("b/1.png", "a.JPG", "notes.txt", ".hidden.png"):
        ...         Path(folder, name).touch()
        ...     print(scan_images(folder))
        ['a.JPG', 'b/1.png']
    """
    names = sorted(walk_images(folder))
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DataError(f"the name of {name!a} in '{folder}' is no text; rename it") from None
    return names
