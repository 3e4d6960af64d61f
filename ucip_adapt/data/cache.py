"""Decoded images on disk: none is decoded or compressed twice, and no worker process copies one."""

from __future__ import annotations

import hashlib
import math
import mmap
import os
import threading
import tokenize
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ucip_adapt.atomic import replaced
from ucip_adapt.digests import sha256_of
from ucip_adapt.errors import DataError

__all__ = ["ArrayCache", "CachedArray", "default_cache_dir", "file_digest"]

_PARSING = threading.Lock()
"""Python 3.11 counts the depth of all threads' syntax trees together, and numpy parses headers."""


def default_cache_dir() -> Path:
    """Where decoded images go by default: ``UCIP_CACHE``, else ``~/.cache/ucip_adapt``.

    Returns:
        The folder, whether it exists or not.

    Raises:
        DataError: If UCIP_CACHE is not set and the user has no home folder.

    Example:
        >>> ArrayCache(default_cache_dir()).root == default_cache_dir()
        True
    """
    try:
        return Path(os.environ.get("UCIP_CACHE") or Path.home() / ".cache" / "ucip_adapt")
    except RuntimeError as error:  # containers run under user ids that nobody has
        raise DataError(f"no folder for decoded images: {error} Set UCIP_CACHE") from error


def file_digest(path: Path) -> str:
    """Sha256 of a file's bytes.

    Args:
        path: The file.

    Returns:
        64 hexadecimal digits.

    Raises:
        DataError: If the file cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     empty = Path(folder, "empty")
        ...     empty.touch()
        ...     print(file_digest(empty)[:16])
        e3b0c44298fc1c14
    """
    try:
        return sha256_of(path)
    except OSError as error:
        raise DataError(f"cannot read image {path}: {error}") from error


@dataclass(frozen=True, slots=True)
class CachedArray:
    """An array of the cache, open only while a part of it is read.

    A memory map that stays open holds a file descriptor: 207 images at four qualities would need
    more than the 1024 that many systems allow a process. And this pickles as a file name, so that
    worker processes share the pages instead of receiving copies.

    Attributes:
        path: The file.
        shape: Height, width, channels.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cache = ArrayCache(Path(folder))
        ...     image = cache.reference("ones", lambda: np.ones((4, 6, 3), np.uint8))
        ...     print(image.shape, image[1:3, 2:5].shape, np.asarray(image).sum())
        (4, 6, 3) (2, 3, 3) 72
    """

    path: str
    shape: tuple[int, ...]

    def __getitem__(self, part: tuple[slice, ...]) -> NDArray[np.uint8]:
        """Copy a part: ``image[top:bottom, left:right]``.

        Args:
            part: Slices of height, width and channels; of the last ones as few as wanted.

        Returns:
            An array of its own, uint8.

        Raises:
            DataError: If the file is gone or has changed.
        """
        try:
            with Path(self.path).open("rb") as file:
                pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            offset = len(pages) - math.prod(self.shape)  # after the header
            if offset <= 0:
                raise ValueError(f"{len(pages)} bytes are too few")
            return np.ndarray(self.shape, np.uint8, pages, offset)[part].copy()
        except (OSError, ValueError, TypeError) as error:
            raise DataError(
                f"the image cache changed during the run: {self.path}: {error}. Start again: what "
                "is missing is made again"
            ) from error

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """Copy all of it: ``np.asarray(image)``."""
        whole = self[(slice(None),)]
        return whole if dtype is None else whole.astype(dtype)


class ArrayCache:
    """Uint8 arrays by key, one ``.npy`` file each.

    Files are written under a temporary name and renamed, so that processes may share a cache:
    nobody reads half a file, and whoever comes second finds the first one's or writes the same. A
    file that is damaged is made again.

    Args:
        root: Folder; made when the first array is stored.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cache = ArrayCache(Path(folder))
        ...     first = cache.get("zeros", lambda: np.zeros((2, 2, 3), np.uint8))
        ...     again = cache.get("zeros", lambda: 1 / 0)
        ...     print(again.shape)
        (2, 2, 3)
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, key: str) -> Path:
        """File of a key, whether it exists or not.

        Args:
            key: Any text that says all that the pixels depend on.

        Returns:
            The file under ``root``, named by the key's sha256.
        """
        digest = hashlib.sha256(key.encode()).hexdigest()
        return self.root / digest[:2] / f"{digest}.npy"

    def get(self, key: str, make: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """The array of a key as a read-only memory map; made and stored where it is missing.

        Args:
            key: Any text that says all that the pixels depend on.
            make: Makes the array, uint8; called only where the cache lacks it.

        Returns:
            The stored array.

        Raises:
            DataError: If the cache cannot be read or written; the message says where, why and how
                much was to be written.
        """
        path = self.path(key)
        kept = self._try_open(path)
        if kept is not None:
            return kept
        array = np.ascontiguousarray(make())
        try:
            self._store(path, array)
        except OSError as error:
            # Some systems do not replace a file that another process has open: then it is there.
            kept = self._try_open(path)
            if kept is not None:
                return kept
            raise DataError(
                f"cannot write {array.nbytes / 1e6:.1f} MB to the image cache {self.root}: "
                f"{error}. Free some space, or choose another folder with --cache_dir or UCIP_CACHE"
            ) from error
        stored = self._try_open(path)
        if stored is None:
            raise DataError(f"the image cache {self.root} lost {path.name} as it was written")
        return stored

    def reference(self, key: str, make: Callable[[], NDArray[np.uint8]]) -> CachedArray:
        """As :meth:`get`, but the file is closed again until a part of it is read.

        Args:
            key: As for :meth:`get`.
            make: As for :meth:`get`.

        Returns:
            The array's place and shape; it can be sent to worker processes.

        Raises:
            DataError: As :meth:`get`.
        """
        shape = self.get(key, make).shape
        return CachedArray(str(self.path(key).absolute()), shape)

    def _try_open(self, path: Path) -> NDArray[np.uint8] | None:
        """The array in a file, or None where it is missing or damaged and has to be made."""
        try:
            return _open_array(path)
        except (FileNotFoundError, ValueError, tokenize.TokenError):
            return None  # nothing there, or no whole array: both are made (again)
        except OSError as error:
            raise DataError(
                f"cannot read the image cache {self.root}: {error}. Choose another folder with "
                "--cache_dir or UCIP_CACHE"
            ) from error

    @staticmethod
    def _store(path: Path, array: NDArray[np.uint8]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # What a power cut makes too short is noticed, and made again.
        with replaced(path, sync=False) as temporary, temporary.open("wb") as file:
            # np.save would hide why a write failed behind "N requested and 0 written".
            header = np.lib.format.header_data_from_array_1_0(array)
            np.lib.format.write_array_header_1_0(file, header)
            file.write(array.data)


def _open_array(path: Path) -> NDArray[np.uint8]:
    """Memory map of a file; a ValueError unless it holds exactly one uint8 array."""
    with _PARSING:  # else, now and then, a SystemError
        array: np.memmap[Any, np.dtype[np.uint8]] = np.lib.format.open_memmap(path, mode="r")
    if array.dtype != np.uint8 or path.stat().st_size != array.offset + array.nbytes:
        raise ValueError(f"{path} is damaged")
    return array
