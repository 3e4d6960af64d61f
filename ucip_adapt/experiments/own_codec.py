"""A codec of one's own in the ledger: a program or a folder, under a name that cells can have."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ucip_adapt.codecs import all_codecs, get_codec
from ucip_adapt.codecs.base import fingerprint_digest
from ucip_adapt.errors import ConfigError
from ucip_adapt.suites.published import public

__all__ = ["OwnCodec", "flags_of", "is_own_codec", "read_own_codec"]

_FORMS = ("command:", "folder:")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")


@dataclass(frozen=True)
class OwnCodec:
    """A codec that cells know by its name, and recipes by what it is.

    Attributes:
        name: What its cells, files and tables are called by.
        location: ``command:...`` or ``folder:...``, what recipes are told.
        digest: Hash of its words and of the files they name, wherever these lie; None where it is
            not on this machine, which can then show its cells, not make them.
        missing: Why it is not.
    """

    name: str
    location: str
    digest: str | None
    missing: str = ""

    def check_available(self) -> None:
        """Refuse to make cells without it.

        Raises:
            ConfigError: With what is missing.
        """
        if self.digest is None:
            raise ConfigError(f"--codec {self.name}: {self.missing}")


def is_own_codec(codec: str) -> bool:
    """Whether a text is a program or a folder rather than the name of a codec.

    Args:
        codec: As in the rows of a recipe's results.

    Example:
        >>> is_own_codec("command:encode {in} {out}"), is_own_codec("webp")
        (True, False)
    """
    return codec.startswith(_FORMS)


def read_own_codec(text: str, *, allow_command: bool) -> OwnCodec | None:
    """Read what ``--codec`` says where it is not the name of a known codec.

    Args:
        text: The name of a codec, or ``NAME=command:...`` or ``NAME=folder:...``.
        allow_command: Whether the last two are allowed.

    Returns:
        The codec; None for a name alone.

    Raises:
        ConfigError: If there is no name, it is taken, or it could not be one of a file.
        CommandRefusedError: If it is a program or a folder, and neither is allowed.

    Example:
        >>> read_own_codec("webp", allow_command=False) is None
        True
        >>> read_own_codec("mine=command:no-such-program {in} {out}", allow_command=True).missing
        "there is no program 'no-such-program' on the PATH"
    """
    name, equals, location = text.partition("=")
    if is_own_codec(text):
        raise ConfigError(f"--codec {text}: its cells and tables need a name: write NAME={text}")
    if not equals:
        return None
    if not is_own_codec(location):
        raise ConfigError(f"--codec {text}: write NAME=command:... or NAME=folder:PATH")
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"--codec {text}: '{name}' is no name: use letters, digits, '.', '+', '-'"
        )
    codec = get_codec(location, allow_command=allow_command)
    if name in all_codecs():
        raise ConfigError(f"--codec {text}: there is a codec '{name}'; choose another name")
    state = codec.available()
    if not state.ok:
        return OwnCodec(name, location, None, state.reason)
    return OwnCodec(name, location, fingerprint_digest(public(codec.fingerprint())))


def flags_of(codec: str, own: OwnCodec | None) -> tuple[str, ...]:
    """Flags that tell a recipe which codec is meant.

    Args:
        codec: Its name.
        own: The codec of one's own that cells are made for, if they are.

    Example:
        >>> flags_of("webp", None)
        ('--codec', 'webp')
        >>> flags_of("mine", OwnCodec("mine", "command:encode {in} {out}", "0"))
        ('--allow_command', '--codec', 'command:encode {in} {out}')
    """
    if own is not None and codec == own.name:
        return ("--allow_command", "--codec", own.location)
    return ("--codec", codec)
