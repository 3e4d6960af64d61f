"""What a checkpoint folder says about itself: its files with checksums, its step, its run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ucip_adapt.atomic import sync_directory, sync_file
from ucip_adapt.digests import sha256_of
from ucip_adapt.errors import CheckpointError
from ucip_adapt.formats import check_format_version

__all__ = ["MANIFEST_NAME", "Manifest", "read_manifest", "verify", "write_manifest"]

MANIFEST_NAME = "manifest.json"
_FORMAT_VERSION = "1.0"


@dataclass(frozen=True)
class Manifest:
    """Content of ``manifest.json``.

    Attributes:
        step: Optimizer steps done when the checkpoint was written.
        sequence: Rises by one with every checkpoint published in the same folder. "Newest" means
            the highest, since a run that went back to an earlier step publishes lower steps later.
        world_size: Processes of the run.
        effective_batch: Samples of one optimizer step over all processes, None if not known.
        objects: Class names of the objects registered with the accelerator, in order.
        run_config: The options of the run.
        files: Size in bytes and sha256 of every other file, by path relative to the folder.
    """

    step: int
    sequence: int
    world_size: int
    effective_batch: int | None
    objects: list[str]
    run_config: dict[str, Any]
    files: dict[str, dict[str, int | str]]


def write_manifest(
    folder: Path,
    *,
    step: int,
    sequence: int,
    world_size: int,
    effective_batch: int | None,
    objects: list[str],
    run_config: dict[str, Any],
) -> None:
    """Sync every file of a folder to the disk and describe them all in ``manifest.json``.

    Raises:
        OSError: If something cannot be written.
    """
    files: dict[str, dict[str, int | str]] = {}
    for path in sorted(_files_of(folder)):
        sync_file(path)
        name = path.relative_to(folder).as_posix()
        files[name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    manifest = Manifest(step, sequence, world_size, effective_batch, objects, run_config, files)
    text = json.dumps({"format_version": _FORMAT_VERSION, **asdict(manifest)}, indent=1)
    path = folder / MANIFEST_NAME
    path.write_text(text, encoding="utf-8")
    sync_file(path)
    for inner, _, _ in os.walk(folder):
        sync_directory(Path(inner))


def _files_of(folder: Path) -> Iterator[Path]:
    return (Path(inner) / name for inner, _, names in os.walk(folder) for name in names)


def read_manifest(folder: Path) -> Manifest:
    """Read a folder's manifest, without looking at the other files.

    Raises:
        CheckpointError: Naming the file, if it is missing, malformed or of a newer format.
    """
    path = folder / MANIFEST_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content.pop("format_version")
        check_format_version(version, _FORMAT_VERSION, what=str(path), error=CheckpointError)
        known = {name: content[name] for name in Manifest.__dataclass_fields__}
        manifest = Manifest(**known)
        if not all(isinstance(n, int) for n in (manifest.step, manifest.sequence)):
            raise ValueError("step and sequence must be whole numbers")
        if not all({"bytes", "sha256"} <= entry.keys() for entry in manifest.files.values()):
            raise ValueError("a file has no size or checksum")
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged: {error!r}") from error
    return manifest


def verify(folder: Path) -> Manifest:
    """Compare every file with the manifest.

    Returns:
        The manifest, all of whose files are there and unchanged.

    Raises:
        CheckpointError: Naming the first file that is missing, of another size or changed.
    """
    manifest = read_manifest(folder)
    for name, entry in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path} is missing")
        size = path.stat().st_size
        if size != entry["bytes"]:
            raise CheckpointError(f"{path} is damaged: {size} bytes instead of {entry['bytes']}")
        if sha256_of(path) != entry["sha256"]:
            raise CheckpointError(f"{path} is damaged: its sha256 differs from the manifest's")
    return manifest
