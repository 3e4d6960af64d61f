"""Which pictures are enlarged, and where each result goes, before anything is done."""

from __future__ import annotations

import glob
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ucip_adapt.data.images import IMAGE_SUFFIXES
from ucip_adapt.errors import ConfigError, DataError
from ucip_adapt.imaging.write import FORMATS

__all__ = ["STREAM", "Job", "collect_jobs", "format_of"]

STREAM = "-"
"""Standard input as a source, standard output as a target."""

_READABLE = (
    *IMAGE_SUFFIXES,
    *(".jpe", ".jfif", ".gif", ".avif", ".heic", ".heif", ".jxl", ".jp2", ".j2k", ".ppm", ".pgm"),
)
"""Endings of the files that are taken from a folder or a pattern."""

_WRITABLE = {f.suffix: name for name, f in FORMATS.items()} | {".jpeg": "jpeg", ".tiff": "tiff"}


@dataclass(frozen=True)
class Job:
    """One picture to be enlarged.

    Attributes:
        source: The file, or ``-``.
        target: Where the result goes, or ``-``.
    """

    source: str
    target: str


class _Found(NamedTuple):
    """A picture, its name below the output folder, and whether it was named or come upon."""

    source: str
    relative: Path
    named: bool


def format_of(target: str) -> str | None:
    """The format that the ending of a result's name asks for.

    Args:
        target: Name of a file.

    Returns:
        A name of :data:`~ucip_adapt.imaging.FORMATS`; None if the ending says nothing.

    Example:
        >>> format_of("large.TIFF"), format_of("-")
        ('tiff', None)
    """
    return _WRITABLE.get(Path(target).suffix.lower())


def collect_jobs(
    inputs: Sequence[str],
    output: str,
    *,
    file_format: str | None = None,
    suffix: str = "_x4",
    recursive: bool = False,
) -> list[Job]:
    """Find the pictures and name their results.

    What an earlier run has left in the same folder, or in an output folder inside the input, is not
    enlarged once more; a line on standard error says so.

    Args:
        inputs: Files, folders, patterns, or ``-`` alone.
        output: A folder; for a single picture also a file that ends like a picture; or ``-``. A
            slash at its end says that it is a folder.
        file_format: Name of :data:`~ucip_adapt.imaging.FORMATS`; None goes by the ending of
            ``output``, and is PNG for a folder.
        suffix: Put behind the name of each result.
        recursive: Take the pictures of sub-folders too.

    Returns:
        Jobs in the order of the inputs, within a folder sorted by name.

    Raises:
        DataError: If an input does not exist, or a folder or pattern holds no picture.
        ConfigError: If two results would have one name, or a result the name of its source, if no
            file of that ending can be written, or the ending and the format contradict each other.

    Example:
        >>> collect_jobs(["-"], "-")
        [Job(source='-', target='-')]
    """
    if "/" in suffix or "\\" in suffix or "\0" in suffix:
        raise ConfigError(f"--suffix {suffix!r}: it becomes a part of file names, without slashes")
    found = [pair for item in inputs for pair in _expand(item, Path(output), recursive=recursive)]
    if len(found) > 1 and (output == STREAM or any(item.source == STREAM for item in found)):
        raise ConfigError("standard input and output take one picture; give a folder as --output")
    if output == STREAM or _is_file_name(output, file_format, len(found)):
        return [_checked(Job(found[0].source, output))]
    ending = suffix + FORMATS[file_format or "png"].suffix
    targets = [str(Path(output, f.relative.with_name(f.relative.stem + ending))) for f in found]
    results = {Path(target).resolve() for target in targets}
    jobs: dict[str, Job] = {}
    left_out = []
    for item, target in zip(found, targets, strict=True):
        source = Path(item.source).resolve()
        if not item.named and source in results and source != Path(target).resolve():
            left_out.append(item.source)
            continue
        if target in jobs:
            raise ConfigError(f"{jobs[target].source} and {item.source} would both become {target}")
        jobs[target] = _checked(Job(item.source, target))
    sources = {Path(item.source).resolve(): item.source for item in found}
    for target, job in jobs.items():
        other = sources.get(Path(target).resolve())
        if other is not None and other not in left_out:
            raise ConfigError(
                f"{other} would be replaced by the result of {job.source}: choose another folder "
                "or --suffix"
            )
    if left_out:
        sys.stderr.write(
            f"left out: {len(left_out)} that are named like results, such as {left_out[0]!r}\n"
        )
    return list(jobs.values())


def _is_file_name(output: str, file_format: str | None, pictures: int) -> bool:
    """Whether the output is a file, not a folder."""
    ending = Path(output).suffix.lower()
    if Path(output).is_dir() or output.endswith("/"):
        return False
    known = ending in {*_READABLE, *_WRITABLE}
    # "x4.pgn" for one picture is a slip, and not a folder; folders are called "v1.2" or "x4.2026".
    if not known and not (pictures == 1 and re.fullmatch(r"\.[a-z][a-z0-9]{1,4}", ending)):
        return False
    asked = format_of(output)
    if asked is None:
        able = ", ".join(sorted(_WRITABLE))
        folder = "" if known else f"; a folder ends with a slash: {output}/"
        raise ConfigError(f"{output}: no {ending} can be written; these can: {able}{folder}")
    if pictures > 1:
        raise ConfigError(f"{output} is named like one picture; {pictures} need a folder")
    if file_format not in {None, asked}:
        raise ConfigError(f"--format {file_format} contradicts {output}; leave one of them out")
    return True


def _checked(job: Job) -> Job:
    same = job.source != STREAM and Path(job.target).resolve() == Path(job.source).resolve()
    if same and job.target != STREAM:
        raise ConfigError(f"{job.source} would be replaced by its own result; choose another name")
    return job


def _expand(item: str, output: Path, *, recursive: bool) -> list[_Found]:
    """What an input stands for."""
    path = Path(item)
    if item == STREAM:
        return [_Found(STREAM, Path("stdin"), named=True)]
    if path.is_dir():
        below = path.rglob("*") if recursive else path.iterdir()
        files = [file for file in below if _is_picture(file)]
        if recursive:
            files = _without_folder(files, output, path)
        if not files:
            raise DataError(f"no pictures in folder '{item}'; --recursive looks in its sub-folders")
        inside = sorted((file.relative_to(path) for file in files), key=Path.as_posix)
        return [_Found(str(path / file), file, named=False) for file in inside]
    if not path.exists() and glob.has_magic(item):
        files = [Path(match) for match in glob.glob(item, recursive=recursive)]
        files = [file for file in files if _is_picture(file)]
        if not files:
            raise DataError(f"no pictures match '{item}'")
        files.sort(key=Path.as_posix)
        return [_Found(str(file), Path(file.name), named=False) for file in files]
    if not path.exists():
        raise DataError(f"no file or folder '{item}'")
    return [_Found(item, Path(path.name), named=True)]


def _without_folder(files: list[Path], output: Path, searched: Path) -> list[Path]:
    """Leave out what lies in the output folder, if that is inside the folder that is searched."""
    inner = output.resolve()
    if inner == searched.resolve():
        return files
    kept = [file for file in files if not file.resolve().is_relative_to(inner)]
    if len(kept) < len(files):
        sys.stderr.write(f"left out: {len(files) - len(kept)} in the output folder '{output}'\n")
    return kept


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in _READABLE and not path.name.startswith(".") and path.is_file()
