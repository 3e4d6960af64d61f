"""Versions of the files that this package writes: one rule for all of them.

Each carries ``format_version``, written ``"major.minor"``. A new minor version only adds keys:
older code reads such a file and ignores, with a warning, what it does not know. A new major version
means that older code would misread the file, and refuses it.
"""

from __future__ import annotations

import re

from ucip_adapt.errors import UcipError

__all__ = ["check_format_version"]

_VERSION = re.compile(r"([0-9]{1,6})\.[0-9]{1,6}")


def check_format_version(
    found: object, supported: str, *, what: str, error: type[UcipError]
) -> None:
    """Let a file pass if its major version is the one that this code writes.

    Args:
        found: The file's ``format_version``, whatever stands there.
        supported: The version that this code writes, ``"major.minor"``.
        what: The file, for the message.
        error: Type of the error to raise.

    Raises:
        UcipError: Of the type asked for, if the version is missing or malformed, or its major
            number is another one; of a newer one it says to update.

    Example:
        >>> from ucip_adapt.errors import AdapterError
        >>> check_format_version("1.7", "1.0", what="a.json", error=AdapterError)
        >>> check_format_version("2.0", "1.0", what="a.json", error=AdapterError)
        Traceback (most recent call last):
        ...
        ucip_adapt.errors.AdapterError: a.json has format_version 2.0; this version of ucip-adapt \
reads 1.x; update the package (pip install -U ucip-adapt)
    """
    match = _VERSION.fullmatch(found) if isinstance(found, str) else None
    if match is None:
        raise error(
            f"{what} has format_version {found!r}, expected one like {supported!r}: it was not "
            "written by ucip_adapt, or was changed since"
        )
    theirs, ours = int(match[1]), int(supported.split(".", maxsplit=1)[0])
    if theirs != ours:
        hint = (
            "update the package (pip install -U ucip-adapt)"
            if theirs > ours
            else "write it again with this version"
        )
        raise error(
            f"{what} has format_version {found}; this version of ucip-adapt reads {ours}.x; {hint}"
        )
