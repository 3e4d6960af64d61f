"""Codecs of other packages, by the entry point group ``ucip_adapt.codecs``.

In the other package's ``pyproject.toml``::

    [project.entry-points."ucip_adapt.codecs"]
    mycodec = "mypackage.codec:MYCODEC"

``MYCODEC`` is an object like those of :data:`ucip_adapt.codecs.CODECS`; its ``spec.name`` is the
name of the entry point.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, NoReturn

from ucip_adapt.codecs.base import Availability, Codec, CodecSpec, Degraded, require_available
from ucip_adapt.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["GROUP", "BrokenCodec", "entry_points", "installed", "load_plugin"]

GROUP = "ucip_adapt.codecs"


@dataclass(frozen=True)
class BrokenCodec:
    """Stands for a plug-in that cannot be loaded: a row of the table, not a traceback.

    Attributes:
        spec: The name; nothing else is known.
        availability: Never ok; says why.
    """

    spec: CodecSpec
    availability: Availability

    def available(self) -> Availability:
        """Say why it cannot be loaded."""
        return self.availability

    def _refuse(self) -> NoReturn:
        require_available(self.spec.name, self.availability)
        raise AssertionError("a broken codec is never available")

    def fingerprint(self) -> dict[str, Any]:
        """Refuse.

        Raises:
            CodecError: Always.
        """
        self._refuse()

    def roundtrip(self, rgb: NDArray[np.uint8], quality: int) -> Degraded:
        """Refuse.

        Raises:
            CodecError: Always.
        """
        self._refuse()


@functools.cache  # reads a file of every installed package: 50 ms
def installed() -> tuple[metadata.EntryPoint, ...]:
    """Entry points of the group, sorted by name; looked for once per process."""
    return tuple(sorted(metadata.entry_points(group=GROUP), key=lambda point: point.name))


def entry_points(taken: Collection[str]) -> dict[str, metadata.EntryPoint]:
    """Find the plug-ins that are installed, without importing them.

    Args:
        taken: Names that no plug-in may have.

    Returns:
        Entry points by the name of the codec, sorted.

    Raises:
        ConfigError: If a name is taken, or two packages offer it.
    """
    found: dict[str, metadata.EntryPoint] = {}
    for point in installed():
        if point.name in taken:
            raise ConfigError(
                f"the plug-in {_source(point)} offers a codec '{point.name}', and there is one of "
                "that name already; uninstall the plug-in, or have it choose another name"
            )
        if point.name in found:
            raise ConfigError(
                f"two plug-ins, {_source(found[point.name])} and {_source(point)}, offer a codec "
                f"'{point.name}'; uninstall one of them"
            )
        found[point.name] = point
    return found


@functools.cache
def load_plugin(point: metadata.EntryPoint) -> Codec:
    """Import a plug-in's codec.

    Args:
        point: Its entry point.

    Returns:
        The codec, or a :class:`BrokenCodec` with what went wrong.
    """
    try:
        codec = point.load()
    except Exception as error:  # a stranger's module may raise anything
        return _broken(point, f"{type(error).__name__}: {error}")
    missing = [
        name
        for name in ("spec", "available", "fingerprint", "roundtrip")
        if not hasattr(codec, name)
    ]
    if missing:
        return _broken(point, f"{point.value} has no {', '.join(missing)}")
    if not isinstance(codec.spec, CodecSpec) or codec.spec.name != point.name:
        return _broken(point, f"{point.value}.spec is no CodecSpec named '{point.name}'")
    checked: Codec = codec
    return checked


def _source(point: metadata.EntryPoint) -> str:
    return point.dist.name if point.dist else point.value


def _broken(point: metadata.EntryPoint, problem: str) -> BrokenCodec:
    spec = CodecSpec(point.name, "unknown", "quality", (), (0, 0), faithful=False)
    line = " ".join(problem.split())
    return BrokenCodec(
        spec,
        Availability(
            ok=False,
            reason=f"the plug-in {_source(point)} cannot be used: {line}",
            install=f"pip install --upgrade {_source(point)}",
        ),
    )
