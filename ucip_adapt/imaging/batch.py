"""Enlarge many files: find them, name their results, do them one by one or side by side."""

from __future__ import annotations

import dataclasses
import glob
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ucip_adapt.automatic import AutoUpscaler
from ucip_adapt.data.images import IMAGE_SUFFIXES
from ucip_adapt.detection import AUTO, Choice, Detection, choose_adapter, detect_codec
from ucip_adapt.errors import ConfigError, DataError, UcipError
from ucip_adapt.imaging.picture import Picture
from ucip_adapt.imaging.read import MAX_INPUT_PIXELS, read_bytes, read_picture
from ucip_adapt.imaging.write import FORMATS, encode_picture
from ucip_adapt.models.sampling import Sampler
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
class BatchOptions:
    """How pictures are enlarged; the options of ``ucip-adapt upscale``.

    Attributes:
        adapter: See :func:`~ucip_adapt.detection.choose_adapter`.
        pixels: Whether "auto" looks at the pixels where a file does not say its codec.
        base: Base network; None for the adapter's own.
        revision: Branch, tag or commit of an adapter on the Hub.
        device: See :func:`ucip_adapt.load`.
        dtype: See :func:`ucip_adapt.load`.
        max_memory: See :func:`ucip_adapt.load`.
        sampler: See :func:`ucip_adapt.load`.
        self_ensemble: See :func:`ucip_adapt.load`.
        workers: Pictures at once.
        file_format: Name of :data:`~ucip_adapt.imaging.FORMATS`, where the target does not say.
        overwrite: Whether to replace results that are there.
        max_pixels: Limit on a picture's pixels.
        as_json: Print one JSON object per picture.
        quiet: No bar and no line per picture.
    """

    adapter: str = AUTO
    pixels: bool = True
    base: str | None = None
    revision: str | None = None
    device: str = "cpu"
    dtype: Precision = "float32"
    max_memory: str | None = None
    sampler: Sampler | None = None
    self_ensemble: bool = False
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
    confidence: float | None = None
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
    # What was asked for by name and cannot be loaded ends the run, rather than every picture.
    model = _load(options)
    # A picture on standard output leaves no room there for words.
    report = sys.stderr if any(job.target == STREAM for job in jobs) else sys.stdout
    failed = 0
    pool = ThreadPoolExecutor(max_workers=options.workers)
    still = options.quiet or options.as_json or len(jobs) < 2 or not sys.stderr.isatty()
    bar = tqdm(total=len(jobs), unit="picture", disable=still)
    try:
        for outcome in pool.map(lambda job: _run_job(job, options, model), jobs):
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


def _load(options: BatchOptions) -> Upscaler:
    return load(
        None if options.adapter == "none" else options.adapter,
        base=options.base,
        revision=None if options.adapter in {"none", AUTO} else options.revision,
        device=options.device,
        dtype=options.dtype,
        max_memory=options.max_memory,
        sampler=options.sampler,
        self_ensemble=options.self_ensemble,
        pixels=options.pixels,
    )


def _choose(
    model: Upscaler, asked: str, picture: Picture, data: bytes
) -> tuple[Detection, Choice, Upscaler]:
    """What is known of a picture, what it gets and why, and the network with that adapter."""
    if isinstance(model, AutoUpscaler):
        detection, choice = model.choose(picture, data)
        return detection, choice, model.using(choice.adapter)
    detection = detect_codec(data)
    return detection, choose_adapter(asked, detection), model


def _run_job(job: Job, options: BatchOptions, model: Upscaler) -> Outcome:
    """Do one job; what goes wrong with its picture is its outcome."""
    began = time.monotonic()
    try:
        return _enlarge(job, options, model, began)
    except (UcipError, MemoryError) as error:
        problem = str(error) or "not enough memory; --max-pixels refuses large pictures earlier"
    except OSError as error:
        problem = f"cannot write {job.target}: {error.strerror or error}"
    return Outcome(job.source, None, problem, round(time.monotonic() - began, 3))


def _enlarge(job: Job, options: BatchOptions, model: Upscaler, began: float) -> Outcome:
    if job.target != STREAM and Path(job.target).exists() and not options.overwrite:
        raise DataError(f"{job.target} is there already; --overwrite replaces it")
    data = sys.stdin.buffer.read() if job.source == STREAM else read_bytes(Path(job.source))
    picture = read_picture(data, max_pixels=options.max_pixels)
    detection, choice, chosen = _choose(model, options.adapter, picture, data)
    result = chosen.upscale_picture(picture)
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
        confidence=detection.confidence,
        mode=picture.mode,
        size=picture.size,
        output_size=result.size,
        notes=picture.notes,
    )


def _codec(outcome: Outcome) -> str:
    if outcome.codec is None:
        return "codec not known"
    quality = "" if outcome.quality is None else f" of quality {outcome.quality}"
    return f"{outcome.codec}{quality} ({outcome.confidence:.0%} sure)"


def _line(outcome: Outcome) -> str:
    notes = "".join(f"; {note}" for note in outcome.notes)
    height, width = outcome.output_size
    return (
        f"{outcome.output}: {width} x {height}, {_codec(outcome)}, adapter "
        f"{outcome.adapter or 'none'} ({outcome.reason}){notes}, {outcome.seconds:.1f} s"
    )
