"""Files that are either old or new, never half of both, also after a crash or with a full disk."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["replaced", "sync_directory", "sync_file", "write_atomically"]


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


@contextmanager
def replaced(path: Path, *, beside: Path | None = None, sync: bool = True) -> Iterator[Path]:
    """Give a temporary name to write to; rename it to ``path`` if all went well.

    Args:
        path: The file's name in the end, in a folder that is there.
        beside: Folder of the temporary name, on the same disk; None takes that of ``path``.
        sync: Whether the content is on the disk before it gets its name. Without it a power cut
            may leave a file that is too short: for what can be made again.

    Yields:
        The name to write to; an empty file is there.

    Raises:
        OSError: If it cannot be written; an old file is then untouched and nothing is left over,
            as it is whatever else is raised meanwhile.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replaced(Path(folder, "a.txt")) as temporary:
        ...         _ = temporary.write_text("complete")
        ...     Path(folder, "a.txt").read_text()
        'complete'
    """
    folder = path.parent if beside is None else beside
    # Without the file's name, which may be as long as the disk allows. Not the process's number
    # either: those of several machines may share the folder.
    temporary = folder / f".tmp-{uuid.uuid4().hex[:12]}"
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # as this user's files are; some writers make private ones
        yield temporary
        temporary.chmod(mode)
        if sync:
            sync_file(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if sync:
        sync_directory(path.parent)


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
    with replaced(path) as temporary:
        temporary.write_bytes(data)
