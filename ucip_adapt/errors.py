"""Every error that the package raises on purpose, in one place.

All of them derive from :class:`UcipError`, so that a command can report a known failure in one line
and let a bug keep its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "AdapterError",
    "AdapterKeyError",
    "AdapterShapeError",
    "AdapterValueError",
    "BaseFormatError",
    "BaseMismatchError",
    "CheckpointError",
    "CodecError",
    "CommandRefusedError",
    "ConfigError",
    "DataError",
    "NonFiniteError",
    "UcipError",
    "UnknownNameError",
    "unknown_name",
]


class UcipError(Exception):
    """Base class: something that a user can understand and mend.

    Example:
        >>> from ucip_adapt import get_codec
        >>> try:
        ...     get_codec("wepb")
        ... except UcipError as error:
        ...     print(str(error).partition(" Known")[0])
        unknown codec 'wepb'; did you mean 'webp'?
    """


class ConfigError(UcipError, ValueError):
    """An option, a configuration file or a combination of options is wrong."""


class UnknownNameError(ConfigError):
    """A name is not in its table; the message lists the known ones."""


class DataError(UcipError):
    """An image, a folder of images or a data set cannot be used."""


class CodecError(UcipError):
    """A codec is not available, refused its input or failed."""


class CommandRefusedError(CodecError):
    """Something other than the user's own words names a program or a folder of this machine."""


class BaseFormatError(UcipError):
    """A base network's folder is damaged, incomplete or of an unknown format."""


class AdapterError(UcipError):
    """A prompt adapter cannot be loaded; the model is as it was before."""


class BaseMismatchError(AdapterError):
    """The adapter was trained on another base network, or on this one before it changed."""


class AdapterKeyError(AdapterError):
    """The adapter's file lacks tensors, or holds some that have no place in the model."""


class AdapterShapeError(AdapterError):
    """A tensor of the adapter has another shape than its place in the model."""


class AdapterValueError(AdapterError):
    """A tensor of the adapter holds NaN or infinite values."""


class CheckpointError(UcipError):
    """A checkpoint is missing, damaged, or belongs to another run."""


class NonFiniteError(UcipError):
    """A loss, a gradient or a weight became NaN or infinite."""


_MOST_NAMES = 100
_NEAREST_NAMES = 8


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """Build the error for a name that is not in a table.

    Args:
        kind: What the name stands for, in the singular (``"codec"``).
        name: The name as the user wrote it.
        known: All valid names.

    Returns:
        The error, ready to be raised; it names the nearest match first, then all known names, or a
        few of more than a screen could show.

    Example:
        >>> print(unknown_name("codec", "wepb", ["jpeg", "webp"]))
        unknown codec 'wepb'; did you mean 'webp'? Known: jpeg, webp
        >>> many = [f"row-{k}" for k in range(120)]
        >>> print(unknown_name("cell", "row7", many))  # doctest: +ELLIPSIS
        unknown cell 'row7'; did you mean 'row-7'? The nearest of 120: row-7, row-97, ...
    """
    names = sorted(known)
    nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean '{nearest[0]}'?" if nearest else "."
    listed = f"Known: {', '.join(names)}"
    if len(names) > _MOST_NAMES:
        few = difflib.get_close_matches(name, names, n=_NEAREST_NAMES, cutoff=0.0)
        listed = f"The nearest of {len(names)}: {', '.join(few)}"
    return UnknownNameError(f"unknown {kind} '{name}'{hint} {listed}")
