"""One run per folder: an advisory lock that ends with its owner or its process."""

from __future__ import annotations

import os
import warnings
import weakref
from pathlib import Path
from typing import BinaryIO

from ucip_adapt.errors import CheckpointError

__all__ = ["lock_folder"]

# Record locks belong to the process and go with the first close of any handle on the file. So a
# folder is opened once, with a count of its owners, however often it is locked. The process number
# is part of the key because a forked child inherits this table but not the locks.
_Key = tuple[int, Path]
_HELD: dict[_Key, tuple[BinaryIO, int]] = {}


def lock_folder(folder: Path, owner: object) -> None:
    """Claim a folder for this process, for as long as an object lives.

    Other owners in the same process share the claim. Forked data workers do not inherit it, so
    they cannot keep it beyond a kill of the main process.

    Args:
        folder: An existing folder; the lock is an empty file ``.lock`` in it.
        owner: The claim ends when this object is collected, or when the process ends.

    Raises:
        CheckpointError: If another living process has it.
    """
    path = folder.resolve() / ".lock"
    key = (os.getpid(), path)
    handle, owners = _HELD.get(key, (None, 0))
    if handle is not None and not _is_open_on(handle, path):
        handle.close()  # the folder was removed and made again
        handle = None
    if handle is None:
        handle = _locked_file(path)
    _HELD[key] = (handle, owners + 1)
    weakref.finalize(owner, _release, key)


def _release(key: _Key) -> None:
    held = _HELD.get(key)
    if held is None or key[0] != os.getpid():
        return
    handle, owners = held
    if owners > 1:
        _HELD[key] = (handle, owners - 1)
    else:
        del _HELD[key]
        handle.close()


def _is_open_on(handle: BinaryIO, path: Path) -> bool:
    return path.exists() and os.path.samestat(os.fstat(handle.fileno()), path.stat())


def _locked_file(path: Path) -> BinaryIO:
    folder = path.parent
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
    return handle


def _lock(handle: BinaryIO) -> None:
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    else:
        import fcntl

        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
