"""Codecs by name: one explicit table."""

from __future__ import annotations

from ucip_adapt.codecs.base import Availability, Codec, CodecSpec, Degraded
from ucip_adapt.codecs.heic import HEIC
from ucip_adapt.codecs.jpegxl import JPEGXL
from ucip_adapt.codecs.pillow import AVIF, JPEG, JPEG2000, WEBP
from ucip_adapt.codecs.vvenc import VVENC
from ucip_adapt.codecs.x265 import X265
from ucip_adapt.errors import ConfigError, unknown_name

__all__ = [
    "CODECS",
    "Availability",
    "Codec",
    "CodecSpec",
    "Degraded",
    "get_codec",
    "list_codecs",
    "register_codec",
]

# One line per codec, in the order of tables. A module of codecs imports no codec library.
_BUILT_IN: tuple[Codec, ...] = (
    JPEG,
    WEBP,
    AVIF,
    JPEG2000,
    JPEGXL,
    HEIC,
    X265,
    VVENC,
)

CODECS: dict[str, Codec] = {codec.spec.name: codec for codec in _BUILT_IN}
"""Every codec, by the name that flags and suites use."""


def get_codec(name: str) -> Codec:
    """Find a codec.

    Args:
        name: One of :data:`CODECS`; ``ucip-adapt codecs`` lists them.

    Returns:
        The codec, whether it works on this machine or not; ``roundtrip(image, quality)`` encodes
        and decodes an ``H x W x 3`` uint8 image.

    Raises:
        UnknownNameError: With the names there are.

    Example:
        >>> get_codec("webp").spec.qualities
        (10, 20, 30, 40)
    """
    if name not in CODECS:
        raise unknown_name("codec", name, CODECS)
    return CODECS[name]


def register_codec(codec: Codec) -> None:
    """Add a codec of your own, for this process.

    Args:
        codec: An object with ``spec``, ``available``, ``fingerprint`` and ``roundtrip``; see
            :class:`~ucip_adapt.codecs.Codec`.

    Raises:
        ConfigError: If the name is taken.

    Example:
        >>> register_codec(get_codec("webp"))
        Traceback (most recent call last):
            ...
        ucip_adapt.errors.ConfigError: there is a codec 'webp' already; choose another name
    """
    if codec.spec.name in CODECS:
        raise ConfigError(f"there is a codec '{codec.spec.name}' already; choose another name")
    CODECS[codec.spec.name] = codec


def list_codecs() -> list[tuple[CodecSpec, Availability]]:
    """Every codec with its availability on this machine, in the table's order.

    Returns:
        Pairs of what is known of a codec without its library, and whether it works here.

    Example:
        >>> [spec.name for spec, availability in list_codecs() if availability.ok][:2]
        ['jpeg', 'webp']
    """
    return [(codec.spec, codec.available()) for codec in CODECS.values()]
