"""Files that are either old or new, never half of both, also after a crash or with a full disk."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

__all__ = ["sync_directory", "sync_file", "write_atomically"]


def sync_file(path: Path) -> None:
    """Ask the operating system to put a file's content on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Put a folder's entries on the disk, so that a rename in it outlives a power cut.

    Does nothing on Windows, which cannot open folders and keeps its entries in a journal.
    """
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file in one go: write beside it, sync, rename.

    Args:
        path: The file; its folder is made if need be.
        data: The whole content.

    Raises:
        OSError: If it cannot be written; the old file is then untouched and nothing is left over.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_atomically(folder / "a.txt", b"new")
        >>> [p.name for p in folder.iterdir()]
        ['a.txt']
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".tmp-{path.name}-{uuid.uuid4().hex[:12]}")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
