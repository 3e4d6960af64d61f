"""What a build keeps beside its shards: the plan, a record per finished shard, the manifest."""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from ucip_adapt.atomic import write_atomically
from ucip_adapt.digests import sha256_of
from ucip_adapt.errors import DataError
from ucip_adapt.formats import check_format_version
from ucip_adapt.suites.manifest import find_damage
from ucip_adapt.suites.plan import BuildPlan
from ucip_adapt.suites.published import public, public_text

__all__ = ["MANIFEST_NAME", "Layout", "Quarantined", "ShardRecord", "read_manifest", "verify_suite"]

MANIFEST_NAME = "suite.json"
_FORMAT_VERSION = "1.0"
# What decides the bytes of a shard besides the codecs themselves.
_LIBRARIES = ("ucip-adapt", "numpy", "pillow", "pyarrow")


@dataclass(frozen=True)
class Quarantined:
    """An image that is missing from a shard.

    Attributes:
        image: Its name.
        setting: The codec and quality that failed, or an empty text if the image itself did.
        error: What went wrong, without paths of this machine.
    """

    image: str
    setting: str
    error: str


@dataclass(frozen=True)
class ShardRecord:
    """What is known of a finished shard.

    Attributes:
        name: Its name in the plan.
        rows: Rows in it.
        num_bytes: Its size.
        sha256: Of the file.
        quarantined: Images that are missing from it.
        images: Sha256 of the file of each image that could be read, by its name.
        seconds: Wall time by part of the work; it is no function of the images, so it stays here.
        host: Machine that made it.
        started: When it was about to read the images, in seconds since 1970; 0 in older records.
    """

    name: str
    rows: int
    num_bytes: int
    sha256: str
    quarantined: tuple[Quarantined, ...] = ()
    images: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    host: str = ""
    started: float = 0.0


@dataclass(frozen=True)
class Layout:
    """Where things lie in an output folder.

    Attributes:
        root: The folder.

    Example:
        >>> Layout(Path("out")).shard("webp-10/00003").as_posix()
        'out/data/webp-10/00003.parquet'
    """

    root: Path

    def shard(self, name: str) -> Path:
        """File of a shard."""
        return self.root / "data" / f"{name}.parquet"

    def record(self, name: str) -> Path:
        """Record of a finished shard."""
        return self.root / ".build" / "done" / f"{name}.json"

    @property
    def plan(self) -> Path:
        """The plan that the folder belongs to."""
        return self.root / ".build" / "plan.json"

    def part(self, index: int, count: int) -> Path:
        """Folder of one part of a build that several jobs share."""
        return self.root / ".build" / f"part-{index}-of-{count}"

    def write_record(self, record: ShardRecord) -> None:
        """Publish a record; the shard is finished from then on.

        Raises:
            OSError: If it cannot be written.
        """
        text = json.dumps(asdict(record), sort_keys=True)
        write_atomically(self.record(record.name), text.encode())

    def finished(self, name: str) -> ShardRecord | None:
        """Record of a shard that is there at its full size, else None."""
        try:
            content = json.loads(self.record(name).read_text(encoding="utf-8"))
            content["quarantined"] = tuple(Quarantined(**q) for q in content["quarantined"])
            record = ShardRecord(**content)
            whole = self.shard(name).stat().st_size == record.num_bytes
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return record if whole else None

    def claim(self, plan: BuildPlan, hr: Path) -> None:
        """Make the folder belong to a plan, or see that it does already.

        Raises:
            DataError: If it belongs to another one.
            OSError: If it cannot be written.
        """
        mine = {**plan.header(), "digest": plan.digest, "hr_folder": str(hr.resolve())}
        self.plan.parent.mkdir(parents=True, exist_ok=True)
        # Jobs in containers may have equal process numbers.
        beside = self.plan.with_name(f".plan-{uuid.uuid4().hex}")
        write_atomically(beside, json.dumps(mine, sort_keys=True).encode())
        # The first of two builds that start together wins: a link does not replace.
        with contextlib.suppress(FileExistsError):
            self.plan.hardlink_to(beside)
        beside.unlink()
        kept = _read_json(self.plan)
        if kept.get("digest") != plan.digest:
            different = [key for key, value in plan.header().items() if kept.get(key) != value] or [
                "names of the images"
            ]
            raise DataError(
                f"{self.root} holds another build (other {', '.join(different)}); choose another "
                "folder, or remove this one"
            )
        if kept.get("hr_folder") != mine["hr_folder"]:  # the images have moved
            write_atomically(self.plan, json.dumps(mine, sort_keys=True).encode())

    def planned_settings(self) -> list[tuple[str, int]]:
        """Codec and quality of each setting on the machine that built; empty elsewhere."""
        if not self.plan.is_file():
            return []
        try:
            settings = _read_json(self.plan)["settings"]
            return [(str(setting["codec"]), int(setting["quality"])) for setting in settings]
        except (KeyError, TypeError, ValueError):
            return []

    def hr_folder(self) -> Path | None:
        """Folder of the high-resolution images on the machine that built, if it is there."""
        if not self.plan.is_file():
            return None
        folder = Path(str(_read_json(self.plan).get("hr_folder", "")))
        return folder if folder.is_dir() else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"there is no {path}: is it a folder of a finished build?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is damaged: it holds no JSON object")
    return content


def manifest_of(plan: BuildPlan, records: Iterator[ShardRecord]) -> dict[str, Any]:
    """The manifest: a function of the images and of the versions, so equal for equal builds."""
    quarantined: set[Quarantined] = set()
    shards, rows, size = [], 0, 0
    for record in records:
        shards.append(
            {
                "name": record.name,
                "rows": record.rows,
                "bytes": record.num_bytes,
                "sha256": record.sha256,
            }
        )
        quarantined.update(record.quarantined)
        rows += record.rows
        size += record.num_bytes
    ordered = sorted(quarantined, key=lambda q: (q.image, q.setting))
    header = plan.header()
    names = {codec for slot in header["slots"] for codec in (slot["codec"], slot["named"])}
    return {
        **header,
        "slots": [
            {**public(slot), "reason": public_text(slot["reason"], names)}
            for slot in header["slots"]
        ],
        "substitutions": [public_text(line, names) for line in header["substitutions"]],
        "settings": public(header["settings"]),
        "plan_digest": plan.digest,
        "versions": {name: metadata.version(name) for name in _LIBRARIES},
        "rows": rows,
        "bytes": size,
        "quarantined": [
            asdict(
                replace(
                    entry,
                    setting=public_text(entry.setting, names),
                    error=public_text(entry.error, names),
                )
            )
            for entry in ordered
        ],
        "shards": shards,
    }


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a finished build.

    Args:
        folder: Output folder of the build.

    Raises:
        DataError: If there is none, it is of a newer format or damaged: a key is missing or of
            another type, or its slots, settings and shards contradict each other.
    """
    if not (folder / MANIFEST_NAME).is_file() and Layout(folder).plan.is_file():
        raise DataError(f"the build in {folder} is not finished; run its command again")
    manifest = _read_json(folder / MANIFEST_NAME)
    check_format_version(
        manifest.get("format_version"),
        _FORMAT_VERSION,
        what=str(folder / MANIFEST_NAME),
        error=DataError,
    )
    if fault := find_damage(manifest):
        raise DataError(
            f"{folder / MANIFEST_NAME} is damaged: {fault}. The build command writes it again; a "
            "folder that was built elsewhere has to be fetched again"
        )
    return manifest


def verify_suite(folder: Path) -> int:
    """Compare every shard with the manifest's checksums.

    Args:
        folder: Output folder of a finished build.

    Returns:
        Number of shards, all of them whole.

    Raises:
        DataError: Naming the shards that are missing or differ, the first ten of them.
    """
    manifest = read_manifest(folder)
    layout = Layout(folder)
    wrong = []
    for shard in manifest["shards"]:
        path = layout.shard(shard["name"])
        if not path.is_file():
            wrong.append(f"{shard['name']} is missing")
        elif path.stat().st_size != shard["bytes"] or sha256_of(path) != shard["sha256"]:
            wrong.append(f"{shard['name']} is damaged")
            layout.record(shard["name"]).unlink(missing_ok=True)
    known = {layout.shard(shard["name"]) for shard in manifest["shards"]}
    advice = "The build command makes them again" if wrong else "Remove what does not belong there"
    wrong += [
        f"{path.name} does not belong there"
        for path in sorted((folder / "data").rglob("*.parquet"))
        if path not in known
    ]
    if wrong:
        more = f" and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        raise DataError(
            f"{len(wrong)} of {len(known)} shards: {'; '.join(wrong[:10])}{more}. {advice}"
        )
    return len(known)
