"""The work of one process: a block of images through every codec that is still missing."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ucip_adapt.codecs import Codec, get_codec
from ucip_adapt.codecs.base import code_image
from ucip_adapt.codecs.streams import use_streams
from ucip_adapt.data.bicubic import EdgeRule, bicubic_down4
from ucip_adapt.data.degrade import read_gt, require_codec
from ucip_adapt.digests import sha256_of
from ucip_adapt.errors import CodecError, DataError
from ucip_adapt.suites.plan import PlannedSetting
from ucip_adapt.suites.records import Layout, Quarantined, ShardRecord
from ucip_adapt.suites.shards import png_bytes, write_shard
from ucip_adapt.suites.unchanged import changed_image

__all__ = ["BlockTask", "build_block"]

T = TypeVar("T")


@dataclass(frozen=True)
class BlockTask:
    """A block of images and the shards to be made of it; small, and sent to any worker.

    Attributes:
        hr: Folder of the high-resolution images.
        out: Output folder of the build.
        temporary: Folder for unfinished files, on the disk of ``out``.
        images: Names of the images.
        shards: Name and setting of each shard.
        edge: Rule of the reduction.
        with_hr: Whether shards hold the high-resolution files.
        allow_command: Whether the user allowed commands and folders as codecs.
        known: Sha256 of the images of the block's finished shards, by name.
        streams: Reference codecs that read stored streams.
        data: Folder whose streams they read besides the embedded ones; empty for none.
    """

    hr: str
    out: str
    temporary: str
    images: tuple[str, ...]
    shards: tuple[tuple[str, PlannedSetting], ...]
    edge: EdgeRule
    with_hr: bool
    allow_command: bool
    known: tuple[tuple[str, str], ...] = ()
    streams: tuple[str, ...] = ()
    data: str = ""


@dataclass(frozen=True)
class _Source:
    """One image, reduced; or why it cannot be."""

    name: str
    hr_sha256: str = ""
    lr: NDArray[np.uint8] | None = None
    lr_sha256: str = ""
    error: str = ""


class _Seconds:
    """Wall time by part of the work."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}

    def of(self, part: str, do: Callable[[], T]) -> T:
        start = time.perf_counter()
        try:
            return do()
        finally:
            self.parts[part] = self.parts.get(part, 0.0) + time.perf_counter() - start


def build_block(task: BlockTask) -> list[ShardRecord]:
    """Make the shards of a block; each is finished, record and all, before the next one begins.

    An image that cannot be read or coded is left out and noted. It is read and reduced once for all
    settings.

    Args:
        task: What to make.

    Returns:
        One record per shard.

    Raises:
        CodecError: If a codec is not available here, or is another version than the plan's.
        DataError: If an image is another one than in the finished shards of the block.
        OSError: If a shard cannot be written.
    """
    use_streams(task.streams, Path(task.data) if task.data else None)
    codecs = {shard: _planned_codec(setting, task) for shard, setting in task.shards}
    seconds, started = _Seconds(), time.time()
    sources = seconds.of("images", lambda: [_read_source(name, task) for name in task.images])
    _check_unchanged(sources, task)
    records = []
    for name, setting in task.shards:
        records.append(_build_shard(name, setting, codecs[name], sources, task, seconds, started))
        seconds = _Seconds()
    return records


def _planned_codec(setting: PlannedSetting, task: BlockTask) -> Codec:
    get_codec(setting.codec, allow_command=task.allow_command)
    codec = require_codec(setting.codec)
    here = json.dumps(codec.fingerprint(), sort_keys=True)
    if here != setting.fingerprint:
        raise CodecError(
            f"{setting.codec} is another version on {platform.node()} than where the build was "
            f"planned: {here} instead of {setting.fingerprint}"
        )
    return codec


def _read_source(name: str, task: BlockTask) -> _Source:
    path = Path(task.hr, name)
    try:
        lr = bicubic_down4(read_gt(path), edge=task.edge)
        return _Source(name, sha256_of(path), lr, hashlib.sha256(lr.tobytes()).hexdigest())
    except (DataError, OSError) as error:
        return _Source(name, error=_portable(str(error), task))


def _check_unchanged(sources: list[_Source], task: BlockTask) -> None:
    known = dict(task.known)
    for source in sources:
        if source.hr_sha256 and source.hr_sha256 != known.get(source.name, source.hr_sha256):
            raise changed_image(Path(task.hr, source.name), Path(task.out))


def _portable(message: str, task: BlockTask) -> str:
    return message.replace(f"{Path(task.hr)}/", "").replace(task.out, "...")


def _build_shard(
    name: str,
    setting: PlannedSetting,
    codec: Codec,
    sources: list[_Source],
    task: BlockTask,
    seconds: _Seconds,
    started: float,
) -> ShardRecord:
    layout = Layout(Path(task.out))
    quarantined: list[Quarantined] = []

    def rows() -> Iterator[dict[str, Any]]:
        for source in sources:
            if source.lr is None:
                quarantined.append(Quarantined(source.name, "", source.error))
                continue
            try:
                yield _row(source, source.lr, setting, codec, task, seconds)
            except CodecError as error:
                quarantined.append(
                    Quarantined(source.name, str(setting), _portable(str(error), task))
                )

    path = layout.shard(name)
    count = seconds.of(
        "shard",
        lambda: write_shard(path, rows(), temporary=Path(task.temporary), hr=task.with_hr),
    )
    record = ShardRecord(
        name=name,
        rows=count,
        num_bytes=path.stat().st_size,
        sha256=sha256_of(path),
        quarantined=tuple(quarantined),
        images={source.name: source.hr_sha256 for source in sources if source.hr_sha256},
        seconds={part: round(value, 4) for part, value in seconds.parts.items()},
        host=platform.node(),
        started=started,
    )
    layout.write_record(record)
    return record


def _row(
    source: _Source,
    lr: NDArray[np.uint8],
    setting: PlannedSetting,
    codec: Codec,
    task: BlockTask,
    seconds: _Seconds,
) -> dict[str, Any]:
    stem = Path(source.name).stem
    degraded = seconds.of("codec", lambda: code_image(codec, lr, setting.quality, name=stem))
    height, width = lr.shape[:2]
    row = {
        "image": source.name,
        "slot": setting.slot,
        "codec": setting.public_codec,
        "parameter": setting.parameter,
        "quality": setting.quality,
        "lq": {
            "bytes": seconds.of("png", lambda: png_bytes(degraded.pixels)),
            "path": f"{stem}.png",
        },
        "width": width,
        "height": height,
        "stream": degraded.stream,
        "num_bytes": degraded.num_bytes or None,  # a folder of images does not tell
        "bpp": degraded.bpp if degraded.num_bytes else None,
        "hr_path": source.name,
        "hr_sha256": source.hr_sha256,
        "lr_sha256": source.lr_sha256,
        "encoder": setting.public_fingerprint,
    }
    if task.with_hr:
        file = Path(task.hr, source.name)
        data = file.read_bytes()
        if hashlib.sha256(data).hexdigest() != source.hr_sha256:
            raise changed_image(file, Path(task.out))
        row["hr"] = {"bytes": data, "path": file.name}
    return row
