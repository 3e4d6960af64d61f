"""Which pictures cells were made of: sets go by names, and scores of others must not be compared.

A folder of cells keeps one line for each set of images, ``<sha256 of its pixels>  <set>``, in
:data:`FILE`. Who brings other images under a name that is there is told so before anything is
trained, instead of finding both in one table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ucip_adapt.atomic import write_atomically
from ucip_adapt.data.benchmarks import load_eval_set
from ucip_adapt.data.images import list_images, read_rgb
from ucip_adapt.errors import ConfigError, DataError
from ucip_adapt.experiments.cells import SETS, Cell

__all__ = ["FILE", "check_pictures", "digests_of", "is_there", "read_pictures", "sets_of"]

FILE = "pictures.sha256"
"""Name of the file with the checksums, beside the cells."""

_TRAINING = "train/"
_OPTIONAL = ("Manga109",)
"""Sets that are measured where the data folder has them; their terms forbid passing them on."""


def is_there(name: str, data: Path | None) -> bool:
    """Whether a set is to be measured: all are but those that may be missing, and are.

    Args:
        name: Name of the set.
        data: Data root.

    Example:
        >>> is_there("Set5", None), is_there("Manga109", None)
        (True, False)
    """
    return name not in _OPTIONAL or (data is not None and (data / name).is_dir())


def sets_of(cells: Iterable[Cell], data: Path) -> list[str]:
    """Sets of images under a data root that cells are made of.

    Args:
        cells: The cells.
        data: Data root.

    Returns:
        Names of benchmarks, with their parts, and ``"train/<folder>"``; the images that are in the
        package are not among them.

    Example:
        >>> cell = Cell("webp", "dpm", "b", evaluate_on="small", train_data="CID22+embedded")
        >>> sets_of([cell], Path("no/such/folder"))
        ['Set14', 'Set5', 'train/CID22']
    """
    found = set()
    for cell in cells:
        pieces = [*SETS[cell.evaluate_on], *(SETS["small"] if cell.also_measure else ())]
        found |= {name for piece in pieces for name in piece if is_there(name, data)}
        if cell.trained:
            folders = set(cell.train_data.split("+")) - {"embedded"}
            found |= {_TRAINING + name for name in folders}
    return sorted(found)


def digests_of(sets: Iterable[str], data: Path) -> dict[str, str]:
    """Checksums of the pixels of sets, whatever files they are stored in.

    Args:
        sets: As :func:`sets_of` names them.
        data: Data root.

    Returns:
        64 hexadecimal digits by set; those of a benchmark cover the reduced images, too.

    Raises:
        DataError: If a set is not there, or one of its images cannot be used.
    """
    return {name: _digest(_arrays(name, data)) for name in sets}


def _arrays(name: str, data: Path) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    folder = name.removeprefix(_TRAINING)
    if folder != name:
        for path in list_images(data / "train" / folder):
            yield path.stem, read_rgb(path)
        return
    for image in load_eval_set(name, data).images:
        yield image.name, image.gt
        yield image.name, image.lr


def _digest(arrays: Iterable[tuple[str, NDArray[np.uint8]]]) -> str:
    digest = hashlib.sha256()
    for name, pixels in arrays:
        digest.update(f"{name} {pixels.shape}\n".encode())
        digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def read_pictures(folder: Path) -> dict[str, str]:
    """Read the checksums that a folder of cells keeps.

    Args:
        folder: The folder.

    Returns:
        Checksums by set; none where there is no file.

    Raises:
        DataError: If the file cannot be understood.

    Example:
        >>> read_pictures(Path("no/such/folder"))
        {}
    """
    path = folder / FILE
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    found = {}
    for number, line in enumerate(lines, 1):
        digest, _, name = line.partition("  ")
        if len(digest) != hashlib.sha256().digest_size * 2 or not name:
            raise DataError(f"{path}:{number}: not a line '<sha256>  <set>': {line[:80]}")
        found[name] = digest
    return found


def check_pictures(found: Mapping[str, str], folders: Mapping[str, Path], data: Path) -> None:
    """Refuse pictures that are not those of the cells that are there, and note what is new.

    Args:
        found: Checksums of the sets that are about to be used.
        folders: Folders that keep checksums, by the option that names them. They are made.
        data: Data root, for the message.

    Raises:
        ConfigError: If a set has other pictures than the cells in a folder were made of; nothing
            is written then.
        DataError: If a folder's file cannot be understood.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     place = {"--results_dir": Path(folder, "cells")}
        ...     check_pictures({"Set5": 64 * "a"}, place, Path("data"))
        ...     check_pictures({"Set5": 64 * "a", "Set14": 64 * "b"}, place, Path("data"))
        ...     print(sorted(read_pictures(Path(folder, "cells"))))
        ['Set14', 'Set5']
    """
    kept = {option: read_pictures(folder) for option, folder in folders.items()}
    for option, folder in folders.items():
        other = [name for name in found if kept[option].get(name, found[name]) != found[name]]
        if other:
            raise ConfigError(
                f"{', '.join(other)} in {data}: not the pictures that the cells in {folder} were "
                f"made of, by their checksums in {FILE}; give your own cells a folder of their own "
                f"with {option}"
            )
    for option, folder in folders.items():
        if not found.items() <= kept[option].items():
            folder.mkdir(parents=True, exist_ok=True)
            lines = sorted((name, digest) for name, digest in {**kept[option], **found}.items())
            text = "".join(f"{digest}  {name}\n" for name, digest in lines)
            write_atomically(folder / FILE, text.encode())
