"""Decoded images on disk, opened as memory maps: none is decoded twice or copied to a worker."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ucip_adapt.errors import DataError

__all__ = ["ArrayCache", "default_cache_dir", "file_digest"]


def default_cache_dir() -> Path:
    """Where decoded images go by default: ``UCIP_CACHE``, else ``~/.cache/ucip_adapt``."""
    return Path(os.environ.get("UCIP_CACHE") or Path.home() / ".cache" / "ucip_adapt")


def file_digest(path: Path) -> str:
    """Sha256 of a file's bytes, hexadecimal.

    Raises:
        DataError: If the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot read image {path}: {error}") from error


class ArrayCache:
    """Uint8 arrays by key, one ``.npy`` file each.

    Files are written under a temporary name and renamed, so that processes may share a cache:
    whoever is first wins, and nobody reads half a file.

    Args:
        root: Folder; made when the first array is stored.

    Example:
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
        """File of a key, whether it exists or not."""
        digest = hashlib.sha256(key.encode()).hexdigest()
        return self.root / digest[:2] / f"{digest}.npy"

    def get(self, key: str, make: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """The array of a key as a read-only memory map; made and stored where it is missing.

        Raises:
            DataError: If the cache cannot be written; the message says where and what it needed.
        """
        path = self.path(key)
        try:
            return self._open(path)
        except FileNotFoundError:
            pass
        except ValueError:
            path.unlink(missing_ok=True)  # damaged from outside: make it again
        array = np.ascontiguousarray(make())
        try:
            self._store(path, array)
            return self._open(path)
        except OSError as error:
            raise DataError(
                f"cannot write {array.nbytes / 1e6:.1f} MB to the image cache {self.root}: "
                f"{error}. Free some space, or choose another folder with --cache_dir or UCIP_CACHE"
            ) from error

    @staticmethod
    def _open(path: Path) -> NDArray[np.uint8]:
        array: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
        return array

    @staticmethod
    def _store(path: Path, array: NDArray[np.uint8]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                np.save(file, array)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
