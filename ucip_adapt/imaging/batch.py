"""Enlarge many files: find them, name their results, do them one by one or side by side."""

from __future__ import annotations

import dataclasses
import glob
import json
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ucip_adapt.assets import ALIASES, shipped_adapters
from ucip_adapt.data.images import IMAGE_SUFFIXES
from ucip_adapt.detection import Detection, detect_codec
from ucip_adapt.errors import ConfigError, DataError, UcipError
from ucip_adapt.hub.library import describe_adapter, locate_adapter
from ucip_adapt.imaging.read import MAX_INPUT_PIXELS, read_picture
from ucip_adapt.imaging.write import FORMATS, encode_picture
from ucip_adapt.training.atomic import write_atomically
from ucip_adapt.upscaler import Precision, Upscaler, load

__all__ = ["BatchOptions", "Choice", "Job", "Outcome", "choose_adapter", "collect_jobs", "run_jobs"]

STREAM = "-"
"""Standard input as a source, standard output as a target."""

_SUFFIXES = (*IMAGE_SUFFIXES, ".avif", ".heic", ".heif", ".jxl", ".jp2")
_EXIT_CODE_SOME_FAILED = 3
_EXIT_CODE_INTERRUPTED = 130


@dataclass(frozen=True)
class Job:
    """One picture to be enlarged.

    Attributes:
        source: The file, or ``-``.
        target: Where the result goes, or ``-``.
    """

    source: str
    target: str


@dataclass(frozen=True)
class Choice:
    """Which adapter a picture gets, and why.

    Attributes:
        adapter: Name, folder or Hub id; None for the base alone.
        reason: Why, in words for the user.
    """

    adapter: str | None
    reason: str


@dataclass(frozen=True)
class BatchOptions:
    """How pictures are enlarged; the options of ``ucip-adapt upscale``.

    Attributes:
        adapter: See :func:`choose_adapter`.
        base: Base network; None for the adapter's own.
        revision: Branch, tag or commit of an adapter on the Hub.
        device: See :func:`ucip_adapt.load`.
        dtype: See :func:`ucip_adapt.load`.
        max_memory: See :func:`ucip_adapt.load`.
        workers: Pictures at once.
        file_format: Name of :data:`~ucip_adapt.imaging.FORMATS`, where the target does not say.
        overwrite: Whether to replace results that are there.
        max_pixels: Limit on a picture's pixels.
        as_json: Print one JSON object per picture.
        quiet: No bar and no line per picture.
    """

    adapter: str = "auto"
    base: str | None = None
    revision: str | None = None
    device: str = "cpu"
    dtype: Precision = "float32"
    max_memory: str | None = None
    workers: int = 1
    file_format: str = "png"
    overwrite: bool = False
    max_pixels: int = MAX_INPUT_PIXELS
    as_json: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came of one job: a line of ``--json``."""

    input: str
    output: str | None
    error: str | None
    seconds: float
    adapter: str | None = None
    reason: str = ""
    codec: str | None = None
    quality: int | None = None
    mode: str = ""
    size: tuple[int, int] = (0, 0)
    output_size: tuple[int, int] = (0, 0)
    notes: tuple[str, ...] = ()


def collect_jobs(
    inputs: Sequence[str], output: str, *, file_format: str, suffix: str, recursive: bool = False
) -> list[Job]:
    """Find the pictures and name their results, before anything is done.

    Args:
        inputs: Files, folders, patterns, or ``-`` alone.
        output: A folder; for a single file also a file that ends like a picture; or ``-``.
        file_format: Name of :data:`~ucip_adapt.imaging.FORMATS`.
        suffix: Put behind the name of each result.
        recursive: Take the pictures of sub-folders too.

    Returns:
        Jobs in the order of the inputs, within a folder sorted by name.

    Raises:
        DataError: If an input does not exist, or a folder or pattern holds no picture.
        ConfigError: If two results would have one name, or a result the name of its source.

    Example:
        >>> collect_jobs(["-"], "-", file_format="png", suffix="_x4")
        [Job(source='-', target='-')]
    """
    found = [pair for item in inputs for pair in _expand(item, recursive=recursive)]
    if len(found) > 1 and (output == STREAM or any(source == STREAM for source, _ in found)):
        raise ConfigError("standard input and output take one picture; give a folder as --output")
    single = len(found) == 1 and Path(output).suffix.lower() in _SUFFIXES
    if output == STREAM or (single and not Path(output).is_dir()):
        return [_checked(Job(found[0][0], output))]
    ending = suffix + FORMATS[file_format].suffix
    jobs: dict[str, Job] = {}
    for source, relative in found:
        target = str(Path(output, relative.with_name(relative.stem + ending)))
        if target in jobs:
            raise ConfigError(f"{jobs[target].source} and {source} would both become {target}")
        jobs[target] = _checked(Job(source, target))
    return list(jobs.values())


def _checked(job: Job) -> Job:
    same = job.source != STREAM and Path(job.target).resolve() == Path(job.source).resolve()
    if same and job.target != STREAM:
        raise ConfigError(f"{job.source} would be replaced by its own result; choose another name")
    return job


def _expand(item: str, *, recursive: bool) -> list[tuple[str, Path]]:
    """``(source, name below the output folder)`` of what an input stands for."""
    path = Path(item)
    if item == STREAM:
        return [(STREAM, Path("stdin"))]
    if path.is_dir():
        below = path.rglob("*") if recursive else path.iterdir()
        files = [file.relative_to(path) for file in below if _is_picture(file)]
        if not files:
            raise DataError(f"no pictures in folder '{item}'; --recursive looks in its sub-folders")
        return [(str(path / file), file) for file in sorted(files, key=Path.as_posix)]
    if not path.exists() and glob.has_magic(item):
        files = [Path(match) for match in glob.glob(item, recursive=recursive)]
        files = [file for file in files if _is_picture(file)]
        if not files:
            raise DataError(f"no pictures match '{item}'")
        return [(str(file), Path(file.name)) for file in sorted(files, key=Path.as_posix)]
    if not path.exists():
        raise DataError(f"no file or folder '{item}'")
    return [(item, Path(path.name))]


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(".") and path.is_file()


def choose_adapter(asked: str, detection: Detection, *, base: str | None = None) -> Choice:
    """Turn ``--adapter`` into the adapter of one picture.

    Args:
        asked: ``"auto"``, ``"none"``, or the name, folder or Hub id of an adapter.
        detection: What the picture's file says of its coding.
        base: The base that was asked for; an adapter of another one is not chosen.

    Returns:
        The adapter with the reason.

    Example:
        >>> choose_adapter("none", Detection("webp", None, "WebP container")).adapter is None
        True
    """
    if asked == "none":
        return Choice(None, "the base alone was asked for")
    if asked != "auto":
        return Choice(asked, "asked for")
    if detection.codec is None:
        known = "nothing to choose by"
    elif detection.codec not in shipped_adapters():
        known = "no adapter for it is shipped"
    elif base is not None and ALIASES.get(base, base) != _base_name(detection.codec):
        known = "the adapter for it belongs to another base"
    else:
        return Choice(detection.codec, detection.reason)
    return Choice(None, f"{detection.reason}; {known}: the base alone")


def _base_name(adapter: str) -> str:
    return describe_adapter(locate_adapter(adapter)).base


def run_jobs(jobs: Sequence[Job], options: BatchOptions) -> int:
    """Enlarge every picture; one that fails is reported and the rest are done.

    Args:
        jobs: What :func:`collect_jobs` found.
        options: How.

    Returns:
        0, or 3 if some pictures failed, or 130 after Ctrl-C.

    Raises:
        UcipError: If the network or an adapter that was asked for cannot be loaded.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("L", (9, 7)).save(Path(folder, "grey.png"))
        ...     jobs = collect_jobs([folder], folder, file_format="png", suffix="_x4")
        ...     code = run_jobs(jobs, BatchOptions(quiet=True))
        ...     print(code, Image.open(Path(folder, "grey_x4.png")).size)
        0 (36, 28)
    """
    if options.workers < 1:
        raise ConfigError(f"--jobs {options.workers}: need at least 1")
    loader = _Loader(options)
    # What was asked for by name and cannot be loaded ends the run, rather than every picture.
    loader.get(choose_adapter(options.adapter, Detection(None, None, "")).adapter)
    # A picture on standard output leaves no room there for words.
    report = sys.stderr if any(job.target == STREAM for job in jobs) else sys.stdout
    failed = 0
    pool = ThreadPoolExecutor(max_workers=options.workers)
    still = options.quiet or options.as_json or len(jobs) < 2 or not sys.stderr.isatty()
    bar = tqdm(total=len(jobs), unit="picture", disable=still)
    try:
        for outcome in pool.map(lambda job: _run_job(job, options, loader), jobs):
            failed += outcome.error is not None
            bar.update()
            if options.as_json:
                report.write(json.dumps(dataclasses.asdict(outcome)) + "\n")
            elif outcome.error is not None:
                bar.write(f"error: {outcome.input}: {outcome.error}", file=sys.stderr)
            elif not options.quiet:
                bar.write(_line(outcome), file=report)
    except KeyboardInterrupt:
        # Each result is renamed into place when it is whole, so none is half written.
        sys.stderr.write("stopped; the pictures finished so far are complete\n")
        return _EXIT_CODE_INTERRUPTED
    finally:
        bar.close()
        pool.shutdown(wait=True, cancel_futures=True)
    if failed and not options.as_json:
        sys.stderr.write(f"{failed} of {len(jobs)} pictures failed\n")
    return _EXIT_CODE_SOME_FAILED if failed else 0


def _run_job(job: Job, options: BatchOptions, loader: _Loader) -> Outcome:
    """Do one job; what goes wrong with its picture is its outcome."""
    began = time.monotonic()
    try:
        return _enlarge(job, options, loader, began)
    except (UcipError, MemoryError) as error:
        problem = str(error) or "not enough memory; --max-pixels refuses large pictures earlier"
    except OSError as error:
        problem = f"cannot write {job.target}: {error.strerror or error}"
    return Outcome(job.source, None, problem, round(time.monotonic() - began, 3))


def _enlarge(job: Job, options: BatchOptions, loader: _Loader, began: float) -> Outcome:
    if job.target != STREAM and Path(job.target).exists() and not options.overwrite:
        raise DataError(f"{job.target} is there already; --overwrite replaces it")
    data = sys.stdin.buffer.read() if job.source == STREAM else _content(Path(job.source))
    picture = read_picture(data, max_pixels=options.max_pixels)
    detection = detect_codec(data)
    choice = choose_adapter(options.adapter, detection, base=options.base)
    result = loader.get(choice.adapter).upscale_picture(picture)
    ending = Path(job.target).suffix.lower()
    by_ending = {f.suffix: name for name, f in FORMATS.items()}
    by_ending |= {".jpeg": "jpeg", ".tiff": "tiff"}
    encoded = encode_picture(result, by_ending.get(ending, options.file_format))
    if job.target == STREAM:
        sys.stdout.buffer.write(encoded)
        sys.stdout.buffer.flush()
    else:
        write_atomically(Path(job.target), encoded)
    return Outcome(
        job.source,
        job.target,
        None,
        round(time.monotonic() - began, 3),
        adapter=choice.adapter,
        reason=choice.reason,
        codec=detection.codec,
        quality=detection.quality,
        mode=picture.mode,
        size=picture.size,
        output_size=result.size,
        notes=picture.notes,
    )


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except IsADirectoryError as error:
        raise DataError("a folder, not a picture") from error
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}") from error


def _line(outcome: Outcome) -> str:
    notes = "".join(f"; {note}" for note in outcome.notes)
    height, width = outcome.output_size
    return (
        f"{outcome.output}: {width} x {height}, adapter {outcome.adapter or 'none'} "
        f"({outcome.reason}){notes}, {outcome.seconds:.1f} s"
    )


class _Loader:
    """Networks by adapter, each loaded once, however many threads ask."""

    def __init__(self, options: BatchOptions) -> None:
        self._options = options
        self._loaded: dict[str | None, Upscaler] = {}
        self._lock = threading.Lock()

    def get(self, adapter: str | None) -> Upscaler:
        """The base with an adapter; None is the base alone."""
        options = self._options
        with self._lock:
            if adapter not in self._loaded:
                self._loaded[adapter] = load(
                    adapter,
                    base=options.base,
                    revision=options.revision if adapter else None,
                    device=options.device,
                    dtype=options.dtype,
                    max_memory=options.max_memory,
                )
            return self._loaded[adapter]
