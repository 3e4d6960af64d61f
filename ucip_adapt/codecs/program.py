"""Files that decide what an external encoder does: found by content, not by name."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from ucip_adapt.errors import CodecError

__all__ = ["file_sha256"]


def file_sha256(path: Path) -> str:
    """Sha256 of a program or of its configuration, for fingerprints.

    Args:
        path: The file.

    Returns:
        64 hexadecimal digits; computed once per process, and again when the file has changed.

    Raises:
        CodecError: If it cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "a.cfg").write_bytes(b"")
        ...     print(file_sha256(Path(folder, "a.cfg"))[:16])
        0
        e3b0c44298fc1c14
    """
    try:
        state = path.stat()
        return _digest(path, state.st_mtime_ns, state.st_size)
    except OSError as error:
        raise CodecError(f"cannot read {path}: {error}") from error


@functools.cache  # FFmpeg has 173 MB: a third of a second
def _digest(path: Path, _modified_ns: int, _size: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
