"""Enlarge many files, one by one or side by side."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from ucip_adapt.atomic import write_atomically
from ucip_adapt.automatic import AutoUpscaler
from ucip_adapt.detection import AUTO, Choice, Detection, choose_adapter, detect_codec
from ucip_adapt.errors import ConfigError, DataError, UcipError
from ucip_adapt.imaging.jobs import STREAM, Job, format_of
from ucip_adapt.imaging.picture import Picture
from ucip_adapt.imaging.read import MAX_INPUT_PIXELS, read_bytes, read_picture
from ucip_adapt.imaging.write import encode_picture
from ucip_adapt.models.sampling import Sampler
from ucip_adapt.upscaler import Precision, Upscaler, load

__all__ = ["BatchOptions", "Outcome", "run_jobs"]

_NO_MEMORY = (
    "not enough memory; --max-memory 2GB works in strips, --max-pixels refuses large pictures "
    "earlier"
)
_FULL = re.compile("out of memory|allocate memory|not enough memory")
_EXIT_CODE_SOME_FAILED = 3
_EXIT_CODE_INTERRUPTED = 130


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
        file_format: Name of :data:`~ucip_adapt.imaging.FORMATS`, where the target does not say;
            None is PNG.
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
    file_format: str | None = None
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


def run_jobs(jobs: Sequence[Job], options: BatchOptions) -> int:
    """Enlarge every picture; one that fails is reported and the rest are done.

    Args:
        jobs: What :func:`~ucip_adapt.imaging.jobs.collect_jobs` found.
        options: How.

    Returns:
        0, or 3 if some pictures failed, or 130 after Ctrl-C.

    Raises:
        UcipError: If the network or an adapter that was asked for cannot be loaded.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> from ucip_adapt.imaging.jobs import collect_jobs
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("L", (9, 7)).save(Path(folder, "grey.png"))
        ...     jobs = collect_jobs([folder], folder)
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
                bar.write(_printable(_line(outcome), report), file=report)
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
    if options.revision is not None and options.adapter in {"none", AUTO}:
        raise ConfigError("--revision is that of an adapter on the Hub: name it with --adapter")
    return load(
        None if options.adapter == "none" else options.adapter,
        base=options.base,
        revision=options.revision,
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
    except MemoryError:
        problem = _NO_MEMORY
    except UcipError as error:
        problem = str(error)
    except OSError as error:
        problem = f"cannot write {job.target}: {error.strerror or error}"
    except RuntimeError as error:  # torch's, also for memory that it does not get
        first = str(error).partition("\n")[0]
        full = _FULL.search(str(error))
        problem = _NO_MEMORY if full else f"the network failed: {first}"
    return Outcome(job.source, None, problem, round(time.monotonic() - began, 3))


def _enlarge(job: Job, options: BatchOptions, model: Upscaler, began: float) -> Outcome:
    if job.target != STREAM and Path(job.target).exists() and not options.overwrite:
        raise DataError(f"{job.target} is there already; --overwrite replaces it")
    data = sys.stdin.buffer.read() if job.source == STREAM else read_bytes(Path(job.source))
    picture = read_picture(data, max_pixels=options.max_pixels)
    detection, choice, chosen = _choose(model, options.adapter, picture, data)
    result = chosen.upscale_picture(picture)
    encoded = encode_picture(result, format_of(job.target) or options.file_format or "png")
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


def _printable(text: str, stream: TextIO) -> str:
    """Text with what the stream cannot encode written as escapes, as in a name of bytes."""
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


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
