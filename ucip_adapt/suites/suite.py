"""A degradation suite as data: named slots, each a codec at its qualities, read from TOML."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ucip_adapt.errors import CommandRefusedError, ConfigError, unknown_name

__all__ = ["OUTSIDE_FORMS", "SLOT_NAME", "SUITES", "WHOLE", "Slot", "Suite", "load_suite"]

SUITES = ("ucsr", "ucsr-open", "ucsr-streams", "webp", "elic")
"""Suites of the package; each is the file ``suites/<name>.toml``."""

WHOLE = "default"
"""What cards of built suites call all slots together; no slot may be called so."""

_SUITE_KEYS = ("name", "description", "strict", "slots")
_SLOT_KEYS = ("name", "codec", "qualities", "stands_for")
_LARGEST_FILE = 1_000_000
OUTSIDE_FORMS = ("command:", "folder:", "streams:")
"""Codecs of these forms name a program or a folder of this machine."""

SLOT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
"""What a slot may be called: names of slots become names of folders."""


@dataclass(frozen=True)
class Slot:
    """One place of a suite: a codec and its qualities.

    Attributes:
        name: Name of the place, in manifests.
        codec: Name of the codec that fills it.
        qualities: Values of the codec's own knob, from the worst picture to the best.
        stands_for: The paper's codec that the place is for, where ``codec`` is a stand-in.

    Example:
        >>> Slot("webp", "webp", (10, 40)).qualities
        (10, 40)
    """

    name: str
    codec: str
    qualities: tuple[int, ...]
    stands_for: str = ""

    @property
    def asked(self) -> str:
        """The codec that the place is really for."""
        return self.stands_for or self.codec


@dataclass(frozen=True)
class Suite:
    """A list of slots.

    Attributes:
        name: Name in manifests and tables.
        slots: At least one; no two with the same name.
        description: One line.
        strict: True if only the named codecs may fill the slots, never a stand-in.

    Example:
        >>> load_suite("ucsr").num_settings, len(load_suite("ucsr").slots)
        (23, 6)
    """

    name: str
    slots: tuple[Slot, ...]
    description: str = ""
    strict: bool = False

    @property
    def num_settings(self) -> int:
        """Codec and quality pairs over all slots."""
        return sum(len(slot.qualities) for slot in self.slots)


def load_suite(name_or_path: str | Path, *, allow_command: bool = False) -> Suite:
    """Read a suite of the package, or one of your own.

    Args:
        name_or_path: One of :data:`SUITES`, or the path of a TOML file.
        allow_command: Accept slots whose codec is a ``command:``, ``folder:`` or ``streams:``. A
            suite file may come from anywhere, so without this word nothing in it is run or opened.

    Returns:
        The suite; whether its codecs work here is not asked yet.

    Raises:
        UnknownNameError: If there is no such suite, or a key in the file is misspelt.
        ConfigError: If the file cannot be read, or says something that cannot be.
        CommandRefusedError: If it names a program or a folder, and that is not allowed.

    Example:
        >>> [slot.codec for slot in load_suite("webp").slots]
        ['webp']
    """
    if str(name_or_path) in SUITES:
        path = Path(__file__).with_name(f"{name_or_path}.toml")
    else:
        path = Path(name_or_path)
        if path.suffix != ".toml":
            raise unknown_name("suite (a file of your own ends in .toml):", str(path), SUITES)
    return _read_suite(path, allow_command=allow_command)


def _read_suite(path: Path, *, allow_command: bool) -> Suite:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ConfigError(f"{path} is too large for a suite")
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the suite {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a text file in UTF-8: {error.reason}") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    _check_keys(table, _SUITE_KEYS, f"{path}")
    entries = table.get("slots")
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{path}: a suite needs at least one [[slots]]")
    slots = tuple(
        _read_slot(entry, f"{path}: slot {number}", allow_command=allow_command)
        for number, entry in enumerate(entries, start=1)
    )
    names = [slot.name for slot in slots]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{path}: two slots have the name '{name}'")
    strict = table.get("strict", False)
    if not isinstance(strict, bool):
        raise ConfigError(f"{path}: strict: expected true or false, got {strict!r}")
    return Suite(
        name=_text(table, "name", f"{path}", default=path.stem),
        slots=slots,
        description=_text(table, "description", f"{path}", default=""),
        strict=strict,
    )


def _read_slot(entry: object, source: str, *, allow_command: bool) -> Slot:
    if not isinstance(entry, dict):
        raise ConfigError(f"{source}: write it as [[slots]] with codec and qualities")
    _check_keys(entry, _SLOT_KEYS, source)
    codec = _text(entry, "codec", source)
    if codec.startswith(OUTSIDE_FORMS) and not allow_command:
        raise CommandRefusedError(
            f"{source} names {codec[:200]!a}, which was neither run nor opened: a suite file "
            "may only name codecs of `ucip-adapt codecs`. If these are your own words, add "
            "--allow-command"
        )
    qualities = entry.get("qualities")
    if (
        not isinstance(qualities, list)
        or not qualities
        or not all(isinstance(q, int) and not isinstance(q, bool) for q in qualities)
    ):
        raise ConfigError(f"{source}: qualities: expected a list such as [10, 40]: {qualities!r}")
    if len(set(qualities)) != len(qualities):
        raise ConfigError(f"{source}: qualities {qualities}: one is named twice")
    name = _text(entry, "name", source, default=codec)
    if not SLOT_NAME.fullmatch(name):
        raise ConfigError(
            f"{source}: name: {name!r} must be letters, digits, '-' and '_', at most 64 of them"
        )
    if name == WHOLE:
        raise ConfigError(
            f"{source}: name: cards of built suites call all slots together '{WHOLE}'; choose "
            "another name"
        )
    return Slot(
        name=name,
        codec=codec,
        qualities=tuple(qualities),
        stands_for=_text(entry, "stands_for", source, default=""),
    )


def _check_keys(table: Mapping[str, Any], known: tuple[str, ...], source: str) -> None:
    for key in table:
        if key not in known:
            raise unknown_name(f"key in {source}:", key, known)


def _text(table: Mapping[str, Any], key: str, source: str, default: str | None = None) -> str:
    value = table.get(key, default)
    if value is None:
        raise ConfigError(f"{source}: {key} is missing")
    if not isinstance(value, str) or (not value and default != ""):
        raise ConfigError(f"{source}: {key}: expected text in quotes, got {value!r}")
    return value
