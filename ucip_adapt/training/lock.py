"""One run per folder: an advisory lock that the operating system frees when its owner dies."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import BinaryIO

from ucip_adapt.errors import CheckpointError

__all__ = ["lock_folder"]

# Kept for the life of the process. Record locks belong to the process and go with the first close
# of any handle on the file, so a folder is opened once, however often it is locked. The process
# number is part of the key for forks.
_HELD: dict[tuple[int, Path], BinaryIO] = {}


def lock_folder(folder: Path) -> None:
    """Claim a folder for this process, until the process ends.

    Claiming it again from the same process does nothing. Forked data workers do not inherit the
    claim, so they cannot keep it beyond a kill of the main process.

    Args:
        folder: An existing folder; the lock is an empty file ``.lock`` in it.

    Raises:
        CheckpointError: If another living process has it.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> lock_folder(folder)
        >>> lock_folder(folder)
    """
    path = folder.resolve() / ".lock"
    held = _HELD.get((os.getpid(), path))
    if held is not None:
        if path.exists() and os.path.samestat(os.fstat(held.fileno()), path.stat()):
            return
        held.close()  # the folder was removed and made again
    handle = path.open("ab")
    try:
        _lock(handle)
    except (BlockingIOError, PermissionError):
        handle.close()
        raise CheckpointError(
            f"another run is writing its checkpoints to {folder}; wait for it, or choose another "
            "folder"
        ) from None
    except OSError as error:
        warnings.warn(
            f"{folder} is on a file system without locks ({error}); make sure that no other run "
            "writes there",
            stacklevel=2,
        )
    _HELD[os.getpid(), path] = handle


def _lock(handle: BinaryIO) -> None:
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    else:
        import fcntl

        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
