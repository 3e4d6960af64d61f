"""Files that decide what an external encoder does: found by content, not by name."""

from __future__ import annotations

from pathlib import Path

from ucip_adapt.digests import cached_sha256_of
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
        return cached_sha256_of(path)
    except OSError as error:
        raise CodecError(f"cannot read {path}: {error}") from error
