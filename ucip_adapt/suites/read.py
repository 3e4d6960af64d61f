"""A built suite as training data: the same pixels as compressing on the fly."""

from __future__ import annotations

import functools
import hashlib
import io
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import UnidentifiedImageError
from tqdm import tqdm

from ucip_adapt.data.cache import ArrayCache, CachedArray, file_digest
from ucip_adapt.data.degrade import DegradedImage, Pixels, Setting, read_gt
from ucip_adapt.data.opening import open_image
from ucip_adapt.digests import sha256_of
from ucip_adapt.errors import ConfigError, DataError
from ucip_adapt.suites.manifest import num_blocks, shard_name
from ucip_adapt.suites.published import public
from ucip_adapt.suites.records import MANIFEST_NAME, Layout, read_manifest
from ucip_adapt.suites.shards import read_rows

__all__ = ["BuiltSuite", "open_suite"]

_COLUMNS = ("image", "codec", "quality", "lq", "hr_path", "hr_sha256")


@dataclass(frozen=True)
class BuiltSuite:
    """A finished build.

    Attributes:
        folder: Its output folder.
        manifest: Content of its ``suite.json``.
    """

    folder: Path
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of the suite."""
        return str(self.manifest["suite"])

    @property
    def hr_folder(self) -> Path | None:
        """Folder of the high-resolution images at the build, if they are there."""
        layout = Layout(self.folder)
        folder = layout.hr_folder()
        record = layout.finished(self.manifest["shards"][0]["name"])
        if folder is None or record is None or not record.images:
            return folder
        # A folder that has lost one image is still theirs; one that holds none is not.
        return folder if any((folder / name).is_file() for name in record.images) else None

    @property
    def num_images(self) -> int:
        """Images that were to be compressed."""
        return int(self.manifest["num_images"])

    @property
    def settings(self) -> list[Setting]:
        """All settings, slot after slot.

        Programs and folders are named whole on the machine that built, and without where they lie
        elsewhere.
        """
        said = [Setting(s["codec"], s["quality"]) for s in self.manifest["settings"]]
        here = [Setting(*setting) for setting in Layout(self.folder).planned_settings()]
        return here if [_public(s) for s in here] == [_public(s) for s in said] else said

    @property
    def slot_numbers(self) -> list[int]:
        """Position of the slot of each of :attr:`settings`."""
        names = [slot["name"] for slot in self.manifest["slots"]]
        return [names.index(setting["slot"]) for setting in self.manifest["settings"]]

    def images(
        self,
        settings: Sequence[Setting],
        cache: ArrayCache,
        *,
        hr_folder: Path | None = None,
        limit: int | None = None,
        min_side: int = 1,
        progress: bool = False,
    ) -> list[DegradedImage]:
        """Read images with their compressed versions.

        Args:
            settings: Which of :attr:`settings`.
            cache: Where decoded pixels are kept.
            hr_folder: Folder of the high-resolution images; None is where they were at the build.
                Shards that hold the files need none.
            limit: Only the first so many images.
            min_side: Smallest side of a low-resolution image that is allowed, in pixels.
            progress: Whether to show a bar.

        Returns:
            One entry per image that has all the settings, in the order of the names.

        Raises:
            ConfigError: If the suite lacks a setting.
            DataError: If a shard is damaged, or a high-resolution image is missing or another one.
        """
        folders = [self._folder(setting) for setting in settings]
        hr_folder = hr_folder or self.hr_folder
        found: list[DegradedImage] = []
        left_out = 0
        blocks = range(num_blocks(self.num_images, self.manifest["images_per_shard"]))
        shards = {shard["name"]: shard for shard in self.manifest["shards"]}
        for block in tqdm(blocks, desc="shards", unit="block", disable=not progress):
            complete, incomplete = self._block(
                [shards[shard_name(folder, block)] for folder in folders],
                settings,
                cache,
                hr_folder,
            )
            left_out += incomplete
            found += complete
            if limit is not None and len(found) >= limit:
                del found[limit:]
                break
        if left_out:
            warnings.warn(
                f"{left_out} images of {self.folder} were left out: a codec could not code them "
                f"({MANIFEST_NAME} says which)",
                stacklevel=2,
            )
        for image in found:
            height, width = image.gt.shape[0] // 4, image.gt.shape[1] // 4
            if min(height, width) < min_side:
                raise DataError(
                    f"image {image.name} of {self.folder} is too small: {width} x {height} "
                    f"low-resolution pixels, and crops of {min_side} are asked for (--patch_size)"
                )
        return found

    def _folder(self, setting: Setting) -> str:
        """Folder of a setting's shards."""
        known = self.settings
        for name in (setting, _public(setting)):
            if name in known:
                return str(self.manifest["settings"][known.index(name)]["folder"])
        raise ConfigError(f"{self.folder} has no {setting}; it has {', '.join(map(str, known))}")

    def _block(
        self,
        shards: Sequence[dict[str, Any]],
        settings: Sequence[Setting],
        cache: ArrayCache,
        hr_folder: Path | None,
    ) -> tuple[list[DegradedImage], int]:
        """Images of a block that have all settings, and how many do not; one shard per setting."""
        truths: dict[str, CachedArray] = {}
        digests: dict[str, str] = {}
        lqs: dict[str, dict[Setting, Pixels]] = {}
        for setting, shard in zip(settings, shards, strict=True):
            for key, row in self._rows(shard, setting):
                name = row["image"]
                lq = cache.reference(f"suite {key}", functools.partial(_decode, row["lq"]["bytes"]))
                lqs.setdefault(name, {})[setting] = lq
                if digests.setdefault(name, row["hr_sha256"]) != row["hr_sha256"]:
                    raise DataError(
                        f"{self.folder} was built from two images called {name}: it changed while "
                        "the build was stopped; build it anew into an empty folder"
                    )
                if name not in truths:
                    truths[name] = self._truth(row, cache, hr_folder)
        complete = [
            DegradedImage(Path(name).stem, truths[name], lqs[name])
            for name in sorted(lqs)
            if len(lqs[name]) == len(settings)
        ]
        return complete, len(lqs) - len(complete)

    def _rows(
        self, shard: dict[str, Any], setting: Setting
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Rows of a shard, each with a key for its pixels."""
        path = Layout(self.folder).shard(shard["name"])
        if not path.is_file() or sha256_of(path) != shard["sha256"]:
            raise DataError(
                f"{path} is missing or damaged: `ucip-adapt build-suite --out {self.folder} "
                "--verify` lists all such shards"
            )
        columns = (*_COLUMNS, "hr") if self.manifest["hr_mode"] == "bytes" else _COLUMNS
        for number, row in enumerate(read_rows(path, columns)):
            if missing := [name for name in columns if name not in row]:
                raise DataError(
                    f"{path} has no column {missing[0]}, which a suite of hr_mode "
                    f"'{self.manifest['hr_mode']}' has: {MANIFEST_NAME} belongs to other shards"
                )
            if _public(Setting(row["codec"], row["quality"])) != _public(setting):
                raise DataError(
                    f"{path} holds {row['codec']}:{row['quality']}, but {MANIFEST_NAME} says "
                    f"{setting}: it belongs to other shards"
                )
            yield f"{shard['sha256']} {number}", row

    def _truth(self, row: dict[str, Any], cache: ArrayCache, hr_folder: Path | None) -> CachedArray:
        key = f"gt {row['hr_sha256']}"
        if self.manifest["hr_mode"] == "bytes":
            data = row["hr"]["bytes"]
            # The cache keeps the picture by the checksum that the row names, for everybody.
            if hashlib.sha256(data).hexdigest() != row["hr_sha256"]:
                raise DataError(
                    f"{self.folder}: the high-resolution image of {row['image']} is not the one "
                    "that its row names by checksum: build the suite again"
                )
            return cache.reference(key, lambda: _read_file(data, row["hr"]["path"]))
        if hr_folder is None:
            raise DataError(
                f"{self.folder} names its high-resolution images but does not hold them, and they "
                "are not where they were: name their folder with --train_data_dir"
            )
        path = hr_folder / row["hr_path"]
        if not path.is_file():
            raise DataError(
                f"the high-resolution images of {self.folder} are not in {hr_folder}: there is no "
                f"{row['hr_path']}. Put it back, or, if they have moved, name their folder with "
                "--train_data_dir"
            )
        if file_digest(path) != row["hr_sha256"]:
            raise DataError(f"{path} is not the image that {self.folder} was built from")
        return cache.reference(key, lambda: read_gt(path))


def _public(setting: Setting) -> Setting:
    return Setting(public(setting.codec), setting.quality)


def _decode(png: bytes) -> NDArray[np.uint8]:
    try:
        with open_image(io.BytesIO(png)) as image:
            return np.array(image.convert("RGB"))
    except UnidentifiedImageError as error:
        raise DataError(f"a compressed image of the suite cannot be read: {error}") from error


def _read_file(data: bytes, name: str) -> NDArray[np.uint8]:
    """Read a file that lies in a shard, by the same rules as one on disk."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, Path(name).name)
        path.write_bytes(data)
        return read_gt(path)


def open_suite(folder: Path) -> BuiltSuite:
    """Open the output folder of a finished build.

    Args:
        folder: What ``--out`` was.

    Returns:
        The suite; shards are read when images are asked for.

    Raises:
        DataError: If the build is not finished, or the manifest is damaged.

    Example:
        >>> open_suite(Path("no/such/folder"))
        Traceback (most recent call last):
        ...
        ucip_adapt.errors.DataError: there is no no/such/folder/suite.json: is it a folder of a \
finished build?
    """
    return BuiltSuite(folder, read_manifest(folder))
