"""Whether images are still those that the finished shards of a build were made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ucip_adapt.data.cache import file_digest
from ucip_adapt.errors import DataError

__all__ = ["changed_image", "refuse_changed"]

# Clocks of a file server and of the machines of a cluster differ.
_CLOCKS_DIFFER_S = 24 * 3600


def changed_image(path: Path, out: Path) -> DataError:
    """The error of an image that has changed.

    Args:
        path: The image.
        out: Output folder of the build.

    Example:
        >>> print(changed_image(Path("hr/a.png"), Path("built")))
        hr/a.png is another image than the finished shards in built were made of: put that one \
back, or build into another folder
    """
    return DataError(
        f"{path} is another image than the finished shards in {out} were made of: put that one "
        "back, or build into another folder"
    )


def refuse_changed(hr: Path, known: Mapping[str, str], *, started: float, out: Path) -> None:
    """Compare images with what finished shards say of them.

    The file system says when a file was last replaced, written or renamed, so one that was left
    alone since long before it was read need not be read again: a finished build of a million
    images is looked through in seconds. The others are read.

    Args:
        hr: Folder of the images.
        known: Sha256 of each image's file, by its name.
        started: When the images were about to be read, in seconds since 1970; 0 if nobody knows.
        out: Output folder of the build, for the message.

    Raises:
        DataError: If one has changed, naming it, or cannot be read.
    """
    for name, sha256 in known.items():
        path = hr / name
        if not _left_alone(path, started) and file_digest(path) != sha256:
            raise changed_image(path, out)


def _left_alone(path: Path, started: float) -> bool:
    try:
        state = path.stat()
    except OSError:
        return False
    # Copying may set the time of writing back, but not the other one, save on Windows.
    return max(state.st_ctime, state.st_mtime) < started - _CLOCKS_DIFFER_S
