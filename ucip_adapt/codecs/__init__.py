"""Codecs by name: one explicit table, plug-ins of other packages, and the user's own commands."""

from __future__ import annotations

from collections.abc import Callable

from ucip_adapt.codecs.base import Availability, Codec, CodecSpec, Degraded
from ucip_adapt.codecs.command import command_codec
from ucip_adapt.codecs.compressai import CHENG2020_MSE, CHENG2020_MSSSIM, ELIC
from ucip_adapt.codecs.folder import folder_codec
from ucip_adapt.codecs.gif import GIF
from ucip_adapt.codecs.heic import HEIC
from ucip_adapt.codecs.hific import HIFIC
from ucip_adapt.codecs.jpegxl import JPEGXL
from ucip_adapt.codecs.learned import TINY_ELIC, TINY_MSE, TINY_MSSSIM, TINY_PERCEPTUAL
from ucip_adapt.codecs.pillow import AVIF, JPEG, JPEG2000, WEBP
from ucip_adapt.codecs.plugins import entry_points, load_plugin
from ucip_adapt.codecs.reference import HM, VTM
from ucip_adapt.codecs.streams import streams_codec
from ucip_adapt.codecs.vvenc import VVENC
from ucip_adapt.codecs.x265 import X265
from ucip_adapt.errors import CommandRefusedError, ConfigError, unknown_name

__all__ = [
    "CODECS",
    "Availability",
    "Codec",
    "CodecSpec",
    "Degraded",
    "all_codecs",
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
    GIF,
    X265,
    HM,
    VVENC,
    VTM,
    CHENG2020_MSE,
    CHENG2020_MSSSIM,
    HIFIC,
    ELIC,
    TINY_MSE,
    TINY_MSSSIM,
    TINY_PERCEPTUAL,
    TINY_ELIC,
)

CODECS: dict[str, Codec] = {codec.spec.name: codec for codec in _BUILT_IN}
"""Every codec, by the name that flags and suites use."""


# A text of such a form names a program or a folder of this machine.
_FORMS: dict[str, Callable[[str], Codec]] = {
    "command": command_codec,
    "folder": folder_codec,
    "streams": streams_codec,
}

_OWN: dict[str, Codec] = {}
"""Codecs that the user's own words made in this process, by their text."""


def get_codec(name: str, *, allow_command: bool = False) -> Codec:
    """Find a codec.

    Args:
        name: One of :data:`CODECS`, the name of a plug-in (``ucip-adapt codecs`` lists both), or
            ``command:...`` or ``folder:...``, which `docs/codecs.md` explains.
        allow_command: Whether the last two are allowed. Set it only where the name is the user's
            own words, never for what a downloaded suite, card or adapter says. A text that was
            allowed once is known for the rest of the process.

    Returns:
        The codec, whether it works on this machine or not; ``roundtrip(image, quality)`` encodes
        and decodes an ``H x W x 3`` uint8 image.

    Raises:
        UnknownNameError: With the names there are.
        CommandRefusedError: If the name is a command or a folder, and neither is allowed.
        ConfigError: If a plug-in offers a name that is taken, or a command cannot be understood.

    Example:
        >>> get_codec("webp").spec.qualities
        (10, 20, 30, 40)
        >>> get_codec("command:encode {in} {out}")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ucip_adapt.errors.CommandRefusedError: 'command:encode {in} {out}' was not run: it names...
    """
    if name in CODECS:
        return CODECS[name]
    if name in _OWN:
        return _OWN[name]
    form, colon, _ = name.partition(":")
    if colon and form in _FORMS:
        if not allow_command:
            # In ASCII: what a stranger wrote must not steer the terminal.
            raise CommandRefusedError(
                f"{name[:200]!a} was not run: it names a program or a folder of this machine, "
                "which only your own words may. If they are, add --allow-command"
            )
        return _OWN.setdefault(name, _FORMS[form](name))
    plugins = entry_points(CODECS)
    if name not in plugins:
        raise unknown_name("codec", name, {*CODECS, *plugins})
    return load_plugin(plugins[name])


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
    if codec.spec.name in {*CODECS, *entry_points(CODECS)}:
        raise ConfigError(f"there is a codec '{codec.spec.name}' already; choose another name")
    CODECS[codec.spec.name] = codec


def all_codecs() -> dict[str, Codec]:
    """Every codec by name: the table, then plug-ins of other packages.

    Raises:
        ConfigError: If a plug-in offers a name that is taken.

    Example:
        >>> list(all_codecs())[:2]
        ['jpeg', 'webp']
    """
    plugins = entry_points(CODECS)
    return {**CODECS, **{name: load_plugin(point) for name, point in plugins.items()}}


def list_codecs() -> list[tuple[CodecSpec, Availability]]:
    """Every codec with its availability on this machine, in the table's order.

    Returns:
        Pairs of what is known of a codec without its library, and whether it works here.

    Raises:
        ConfigError: If a plug-in offers a name that is taken.

    Example:
        >>> [spec.name for spec, availability in list_codecs() if availability.ok][:2]
        ['jpeg', 'webp']
    """
    return [(codec.spec, codec.available()) for codec in all_codecs().values()]
