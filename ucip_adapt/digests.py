"""Checksums of files."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

__all__ = ["cached_sha256_of", "sha256_of"]


def sha256_of(path: Path) -> str:
    """Sha256 of a file's bytes.

    Args:
        path: The file.

    Returns:
        64 hexadecimal digits.

    Raises:
        OSError: If it cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "empty").touch()
        ...     print(sha256_of(Path(folder, "empty"))[:16])
        e3b0c44298fc1c14
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cached_sha256_of(path: Path) -> str:
    """The same, computed once per process as long as the file's time and size do not change.

    For programs and weights that are asked for with every image: FFmpeg's 173 MB take a third of a
    second.

    Args:
        path: The file.

    Returns:
        64 hexadecimal digits.

    Raises:
        OSError: If it cannot be read.
    """
    state = path.stat()
    return _once(path, state.st_mtime_ns, state.st_size)


@functools.cache
def _once(path: Path, _modified_ns: int, _size: int) -> str:
    return sha256_of(path)
