"""Build a suite: plan, hand out what is missing, gather, and write the manifest at the end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from ucip_adapt.atomic import write_atomically
from ucip_adapt.data.bicubic import bicubic_down4
from ucip_adapt.data.degrade import read_gt
from ucip_adapt.errors import CheckpointError, ConfigError, DataError
from ucip_adapt.suites.engines import Engine
from ucip_adapt.suites.plan import BuildPlan
from ucip_adapt.suites.records import MANIFEST_NAME, Layout, ShardRecord, manifest_of
from ucip_adapt.suites.shards import png_bytes
from ucip_adapt.suites.unchanged import refuse_changed
from ucip_adapt.suites.worker import BlockTask, build_block
from ucip_adapt.training.lock import lock_folder

__all__ = ["BuildReport", "Part", "build_suite", "estimate_bytes"]


@dataclass(frozen=True)
class Part:
    """The share of one job of an array.

    Attributes:
        index: Number of the job, from 0.
        count: Jobs that share the build.

    Example:
        >>> [block for block in range(7) if Part(1, 3).has(block)]
        [1, 4]
    """

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: If the job is not one of them.
        """
        if not 0 <= self.index < self.count:
            raise ConfigError(
                f"--shard-index {self.index} must lie between 0 and {self.count - 1}, "
                f"for --num-shards {self.count}"
            )

    def has(self, block: int) -> bool:
        """Whether a block belongs to this job."""
        return block % self.count == self.index


@dataclass(frozen=True)
class BuildReport:
    """What a build did.

    Attributes:
        made: Shards made by this run.
        kept: Shards of its part that were finished before.
        quarantined: Images that are missing somewhere in its part.
        complete: Whether all parts are finished; the manifest is written then.
    """

    made: int
    kept: int
    quarantined: int
    complete: bool


def build_suite(
    plan: BuildPlan,
    hr: Path,
    out: Path,
    engine: Engine,
    *,
    part: Part | None = None,
    max_quarantined: int = 100,
    retry_quarantined: bool = False,
    check_space: bool = True,
    allow_command: bool = False,
    streams: Sequence[str] = (),
    data_root: Path | None = None,
    progress: bool = False,
) -> BuildReport:
    """Make every shard of a plan that is not there yet.

    It may be killed at any time and started again: what is finished stays, and the result is the
    same, byte for byte, whoever did the work.

    Args:
        plan: What to make.
        hr: Folder of the high-resolution images, seen by all workers under this path.
        out: Output folder, likewise.
        engine: Who works.
        part: The share of this job, where several share the build.
        max_quarantined: Images that may be left out because they cannot be read or coded.
        retry_quarantined: Make shards again that lack an image.
        check_space: Refuse to begin if the disk looks too small.
        allow_command: Whether the user allowed commands and folders as codecs.
        streams: Reference codecs that read stored streams, as
            :func:`~ucip_adapt.codecs.streams.use_streams_of` found.
        data_root: Folder whose ``reference_streams`` they read besides the embedded ones.
        progress: Whether to show a bar with an estimate of the time left.

    Returns:
        What was done.

    Raises:
        DataError: If another build is at work in the folder or has left its plan there, an image
            has changed since, too many are unusable or all are at one setting, the disk is full,
            or workers died.
        CodecError: If a codec is not available to a worker, or is another version there.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from ucip_adapt.data.images import save_png
        >>> from ucip_adapt.suites import fill_suite, load_suite
        >>> from ucip_adapt.suites.engines import open_engine
        >>> with tempfile.TemporaryDirectory() as folder, open_engine(workers=0) as engine:
        ...     hr = Path(folder, "hr")
        ...     hr.mkdir()
        ...     save_png(hr / "black.png", np.zeros((64, 96, 3), np.uint8))
        ...     plan = BuildPlan.make(fill_suite(load_suite("webp")), ["black.png"])
        ...     build_suite(plan, hr, Path(folder, "out"), engine).made
        4
    """
    part = part or Part()
    layout = Layout(out)
    try:
        folder = layout.part(part.index, part.count)
        folder.mkdir(parents=True, exist_ok=True)
        _lock(folder, owner := _Owner(), out)
        layout.claim(plan, hr)
        temporary = folder / "unfinished"
        shutil.rmtree(temporary, ignore_errors=True)
        root = "" if data_root is None else str(data_root.resolve())
        common = _Common(
            hr=str(hr.resolve()),
            out=str(out.resolve()),
            temporary=str(temporary.resolve()),
            allow_command=allow_command,
            streams=tuple(streams),
            data=root,
        )
        run = _Run(plan, layout, part, common)
        run.look(retry_quarantined=retry_quarantined)
        run.refuse_changed_images(hr, progress=progress)
        if check_space:
            _check_space(plan, hr, out, len(run.missing))
        run.work(engine, max_quarantined=max_quarantined, progress=progress)
        complete = _write_manifest(plan, layout)
        shutil.rmtree(temporary, ignore_errors=True)
        del owner
    except OSError as error:
        advice = (
            "Finished shards stay; make room and run the same command again"
            if out.is_dir()
            else "Choose another folder"
        )
        raise DataError(f"cannot write to {out}: {error}. {advice}") from error
    except engine.lost as error:
        raise DataError(
            f"workers died ({error or type(error).__name__}); out of memory? Finished shards stay: "
            "run the same command again, with fewer workers if it happens again"
        ) from error
    return BuildReport(run.made, run.kept, len(run.bad), complete)


@dataclass(frozen=True)
class _Common:
    """What all tasks of a part share; see :class:`~ucip_adapt.suites.worker.BlockTask`."""

    hr: str
    out: str
    temporary: str
    allow_command: bool
    streams: tuple[str, ...]
    data: str


class _Owner:
    """The lock lives as long as this."""


def _lock(folder: Path, owner: object, out: Path) -> None:
    try:
        lock_folder(folder, owner)
    except CheckpointError:
        raise DataError(
            f"another build is writing to {out}; wait for it, or choose another folder"
        ) from None


class _Run:
    """One part of a build: what it lacks, and who is at work on it."""

    def __init__(
        self,
        plan: BuildPlan,
        layout: Layout,
        part: Part,
        common: _Common,
    ) -> None:
        self.plan = plan
        self.layout = layout
        self.part = part
        self.common = common
        self.made = 0
        self.kept = 0
        self.bad: dict[str, str] = {}
        self.missing: set[tuple[int, int]] = set()
        self.images: dict[int, dict[str, str]] = {}
        self.started: dict[int, float] = {}

    def look(self, *, retry_quarantined: bool) -> None:
        """Find the shards that are not finished."""
        for block in filter(self.part.has, range(self.plan.num_blocks)):
            for setting in range(len(self.plan.settings)):
                record = self.layout.finished(self.plan.shard_name(setting, block))
                if record is None or (retry_quarantined and record.quarantined):
                    self.missing.add((block, setting))
                else:
                    self.kept += 1
                    self._note(record)
                    self.images.setdefault(block, {}).update(record.images)
                    started = min(record.started, self.started.get(block, record.started))
                    self.started[block] = started

    def refuse_changed_images(self, hr: Path, *, progress: bool) -> None:
        """Look at the images of the blocks that are whole; workers look at those of the others."""
        unfinished = {block for block, _ in self.missing}
        whole = [block for block in self.images if block not in unfinished]
        for block in tqdm(whole, desc="kept images", unit="block", disable=not progress):
            refuse_changed(
                hr, self.images[block], started=self.started[block], out=self.layout.root
            )

    def work(self, engine: Engine, *, max_quarantined: int, progress: bool) -> None:
        """Hand out the blocks, a few at a time, and gather what comes back."""
        self._check_quarantine(max_quarantined)
        tasks = self._tasks()
        under_way: set[Future[list[ShardRecord]]] = set()
        total = len(self.missing) + self.kept
        with tqdm(
            total=total, initial=self.kept, desc="shards", unit="shard", disable=not progress
        ) as bar:
            try:
                while True:
                    for task in tasks:
                        under_way.add(engine.executor.submit(build_block, task))
                        if len(under_way) >= 2 * engine.capacity():
                            break
                    if not under_way:
                        return
                    done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                    for future in done:
                        for record in future.result():
                            self.made += 1
                            self._note(record)
                            bar.update()
                    self._check_quarantine(max_quarantined)
            finally:
                for future in under_way:
                    future.cancel()

    def _tasks(self) -> Iterator[BlockTask]:
        for block in filter(self.part.has, range(self.plan.num_blocks)):
            shards = tuple(
                (self.plan.shard_name(number, block), setting)
                for number, setting in enumerate(self.plan.settings)
                if (block, number) in self.missing
            )
            if shards:
                yield BlockTask(
                    **asdict(self.common),
                    images=tuple(self.plan.block(block)),
                    shards=shards,
                    edge=self.plan.edge,
                    with_hr=self.plan.hr_mode == "bytes",
                    known=tuple(self.images.get(block, {}).items()),
                )

    def _note(self, record: ShardRecord) -> None:
        for entry in record.quarantined:
            self.bad.setdefault(entry.image, entry.error)

    def _check_quarantine(self, limit: int) -> None:
        if len(self.bad) > limit:
            image, error = next(iter(self.bad.items()))
            raise DataError(
                f"{len(self.bad)} images cannot be used, more than --max-quarantined {limit}; the "
                f"first: {image}: {error}"
            )


def estimate_bytes(plan: BuildPlan, hr: Path, num_shards: int) -> int | None:
    """How much disk shards will take, from three images; None if none of them can be read.

    Clean reduced images stand for the compressed ones, which PNG makes smaller; so this is rather
    too much.

    Args:
        plan: What to make.
        hr: Folder of the high-resolution images.
        num_shards: Shards that are still to be made.

    Returns:
        Bytes.
    """
    last = len(plan.images) - 1
    sizes = []
    for place in sorted({0, last // 2, last}):
        path = hr / plan.images[place]
        try:
            small = bicubic_down4(read_gt(path), edge=plan.edge)
            extra = path.stat().st_size if plan.hr_mode == "bytes" else 0
        except (DataError, OSError):
            continue
        sizes.append(len(png_bytes(small)) + extra)
    if not sizes:
        return None
    rows = num_shards * len(plan.images) // plan.num_blocks
    return rows * sum(sizes) // len(sizes)


def _check_space(plan: BuildPlan, hr: Path, out: Path, num_shards: int) -> None:
    needed = estimate_bytes(plan, hr, num_shards)
    free = shutil.disk_usage(out).free
    if needed is not None and needed > free:
        raise DataError(
            f"{num_shards} shards need about {needed / 1e9:.1f} GB, and {out} has "
            f"{free / 1e9:.1f} GB free; make room, or add --ignore-free-space"
        )


def _refuse_empty_settings(plan: BuildPlan, records: Sequence[ShardRecord]) -> None:
    """A setting without a row would take every image from a training on the suite."""
    for setting in plan.settings:
        here = [r for r in records if r.name.partition("/")[0] == setting.folder]
        if not any(record.rows for record in here):
            error = next((q.error for r in here for q in r.quarantined), "it has no images")
            raise DataError(f"no image could be coded at {setting}, the first: {error}")


def _write_manifest(plan: BuildPlan, layout: Layout) -> bool:
    """Write ``suite.json`` if every shard of every part is finished."""
    records = []
    for shard in plan.shards():
        record = layout.finished(shard.name)
        if record is None:
            return False
        records.append(record)
    _refuse_empty_settings(plan, records)
    manifest = manifest_of(plan, iter(records))
    text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
    write_atomically(layout.root / MANIFEST_NAME, text.encode())
    return True
