"""What a build is going to make, decided before it starts and the same on every machine."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal, NamedTuple

from ucip_adapt.codecs import get_codec
from ucip_adapt.codecs.base import check_image_names, fingerprint_digest
from ucip_adapt.data.bicubic import EdgeRule
from ucip_adapt.errors import ConfigError
from ucip_adapt.suites.manifest import num_blocks, shard_name
from ucip_adapt.suites.published import public
from ucip_adapt.suites.resolved import FilledSuite

__all__ = ["BuildPlan", "HrMode", "PlannedSetting", "Shard", "default_images_per_shard"]

HrMode = Literal["reference", "bytes"]
"""Whether shards name the high-resolution images, or hold their files."""

_FORMAT_VERSION = "1.0"
_FEWEST, _MOST, _BLOCKS = 16, 256, 64


def default_images_per_shard(num_images: int) -> int:
    """Images of a shard: a 64th of all, at least 16, at most 256.

    A function of the images alone: it must not depend on how many workers there are.

    Example:
        >>> [default_images_per_shard(n) for n in (25, 3450, 1_000_000)]
        [16, 54, 256]
    """
    return min(_MOST, max(_FEWEST, -(-num_images // _BLOCKS)))


@dataclass(frozen=True)
class PlannedSetting:
    """One codec at one quality.

    Attributes:
        slot: Name of its slot.
        codec: Name of the codec.
        parameter: The codec's own knob.
        quality: Its value.
        fingerprint: JSON of what else decides the bytes.
    """

    slot: str
    codec: str
    parameter: str
    quality: int
    fingerprint: str

    @property
    def folder(self) -> str:
        """Name of the folder of its shards."""
        return f"{self.slot}-{self.quality}"

    @property
    def public_codec(self) -> str:
        """Name of the codec without folders of this machine."""
        return str(public(self.codec))

    @functools.cached_property
    def public_fingerprint(self) -> str:
        """The fingerprint without folders of this machine."""
        return json.dumps(public(json.loads(self.fingerprint)), sort_keys=True)

    def __str__(self) -> str:
        return f"{self.codec}:{self.quality}"


class Shard(NamedTuple):
    """One file to be made: a setting and a block of images.

    Attributes:
        name: Its path in the output folder, without ``data/`` and the suffix.
        setting: Position of the setting in the plan.
        block: Position of the block.
        images: Names of its images.
    """

    name: str
    setting: int
    block: int
    images: list[str]


@dataclass(frozen=True)
class BuildPlan:
    """Every shard of a build; shards are listed lazily.

    Attributes:
        suite: The suite and the codecs that fill it.
        settings: Codecs and qualities with what decides their bytes.
        images: Names of all images, relative to their folder.
        images_per_shard: Images of a block.
        edge: Rule of the reduction.
        hr_mode: Whether shards hold the high-resolution files.
    """

    suite: FilledSuite
    settings: tuple[PlannedSetting, ...]
    images: list[str]
    images_per_shard: int
    edge: EdgeRule
    hr_mode: HrMode

    @classmethod
    def make(
        cls,
        suite: FilledSuite,
        images: list[str],
        *,
        images_per_shard: int | None = None,
        edge: EdgeRule = "symmetric",
        hr_mode: HrMode = "reference",
    ) -> BuildPlan:
        """Plan a build.

        Args:
            suite: The suite, filled.
            images: Names from :func:`~ucip_adapt.data.images.image_names`.
            images_per_shard: None takes :func:`default_images_per_shard`.
            edge: Rule of :func:`~ucip_adapt.data.bicubic.bicubic_down4`.
            hr_mode: Whether shards hold the high-resolution files.

        Raises:
            ConfigError: If two settings would share a folder, or the name that is published.
            CodecError: If a codec goes by names and two images have the same one.
        """
        settings = []
        for place in suite.slots:
            codec = get_codec(place.codec)
            check_image_names(codec, (PurePosixPath(name).stem for name in images))
            fingerprint = json.dumps(codec.fingerprint(), sort_keys=True)
            settings += [
                PlannedSetting(
                    place.slot.name, place.codec, codec.spec.parameter, quality, fingerprint
                )
                for quality in place.slot.qualities
            ]
        folders = [setting.folder for setting in settings]
        for folder in folders:
            if folders.count(folder) > 1:
                raise ConfigError(f"two settings of {suite.suite.name} would be called {folder}")
        _refuse_one_name(settings)
        size = images_per_shard or default_images_per_shard(len(images))
        return cls(suite, tuple(settings), images, size, edge, hr_mode)

    @property
    def num_blocks(self) -> int:
        """Blocks of images."""
        return num_blocks(len(self.images), self.images_per_shard)

    @property
    def num_shards(self) -> int:
        """Files that the whole build makes."""
        return self.num_blocks * len(self.settings)

    def block(self, number: int) -> list[str]:
        """Images of a block."""
        first = number * self.images_per_shard
        return self.images[first : first + self.images_per_shard]

    def shard_name(self, setting: int, block: int) -> str:
        """Where a shard lies: setting's folder, then the number of the block."""
        return shard_name(self.settings[setting].folder, block)

    def shards(self) -> Iterator[Shard]:
        """Yield every shard, setting by setting."""
        for number in range(len(self.settings)):
            for block in range(self.num_blocks):
                yield Shard(self.shard_name(number, block), number, block, self.block(block))

    @functools.cached_property
    def digest(self) -> str:
        """Sha256 of all that decides the bytes of the shards, except the images' pixels."""
        found = hashlib.sha256(json.dumps(self.header(), sort_keys=True).encode())
        for name in self.images:
            found.update(name.encode())
            found.update(b"\0")
        return found.hexdigest()

    def header(self) -> dict[str, Any]:
        """What manifests say of the plan; JSON-able, without the list of images."""
        return {
            "format_version": _FORMAT_VERSION,
            "suite": self.suite.suite.name,
            "description": self.suite.suite.description,
            "slots": [place.to_dict() for place in self.suite.slots],
            "substitutions": self.suite.substitutions,
            "settings": [
                {
                    "folder": setting.folder,
                    "slot": setting.slot,
                    "codec": setting.codec,
                    "parameter": setting.parameter,
                    "quality": setting.quality,
                    "fingerprint": json.loads(setting.fingerprint),
                    "fingerprint_digest": fingerprint_digest(json.loads(setting.fingerprint)),
                }
                for setting in self.settings
            ],
            "num_images": len(self.images),
            "images_per_shard": self.images_per_shard,
            "edge": self.edge,
            "hr_mode": self.hr_mode,
        }


def _refuse_one_name(settings: list[PlannedSetting]) -> None:
    """Two programs of one name in different folders could not be told apart in shards."""
    slots: dict[tuple[str, int], str] = {}
    for setting in settings:
        key = (setting.public_codec, setting.quality)
        if slots.setdefault(key, setting.slot) != setting.slot:
            raise ConfigError(
                f"the slots {slots[key]} and {setting.slot} both come to {key[0]}:{key[1]}: a "
                "suite leaves out where programs and folders lie; give them other names"
            )
