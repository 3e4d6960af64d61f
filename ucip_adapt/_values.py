"""From the text of a flag, or a TOML value, to the type of an option; errors name their source."""

from __future__ import annotations

import math
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from ucip_adapt.errors import ConfigError, unknown_name

__all__ = ["check_hint", "check_range", "from_text", "from_toml", "unwrap_optional"]

_SCALARS = {int: "a whole number", float: "a number", bool: "true or false", str: "text in quotes"}


def check_hint(hint: object, source: str) -> None:
    """Refuse a declaration that options cannot have, before any value is read."""
    inner, _ = unwrap_optional(hint)
    if get_origin(inner) is tuple:
        inner, *rest = get_args(inner)
        if rest != [...]:
            raise TypeError(f"{source}: of tuples only tuple[X, ...] is understood")
    if get_origin(inner) is not Literal and inner is not Path and inner not in _SCALARS:
        raise TypeError(f"{source}: {inner} is not a type that options can have")


def unwrap_optional(hint: object) -> tuple[Any, bool]:
    """``X | None`` -> ``(X, True)``; any other type -> ``(type, False)``."""
    if get_origin(hint) not in {Union, types.UnionType}:
        return hint, False
    inner = [kind for kind in get_args(hint) if kind is not type(None)]
    if len(inner) != 1:
        raise TypeError(f"{hint}: of unions only X | None is understood")
    return inner[0], len(inner) < len(get_args(hint))


def from_text(text: str | list[str], hint: object, source: str) -> object:
    """Convert what stood behind a flag."""
    inner, optional = unwrap_optional(hint)
    words = text if isinstance(text, list) else [text]
    if optional and [word.lower() for word in words] == ["none"]:
        return None
    if get_origin(inner) is tuple:
        kind = get_args(inner)[0]
        if kind is not Path:  # a path may hold blanks and commas
            words = [part for word in words for part in _parts(word)]
        return tuple(_scalar_from_text(word, kind, source) for word in words)
    return _scalar_from_text(words[0], inner, source)


def _parts(word: str) -> list[str]:
    """A list in one word, ``"Set5,Set14"``; a file or folder that is there is no list."""
    path = word.partition("=")[2]
    return [word] if _exists(word) or (path and _exists(path)) else word.replace(",", " ").split()


def _exists(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # too long, no such user, a zero byte
        return False


def _scalar_from_text(text: str, kind: Any, source: str) -> object:  # noqa: ANN401
    if get_origin(kind) is Literal:
        choices = {str(choice): choice for choice in get_args(kind)}
        if text not in choices:
            raise unknown_name(f"value of {source}:", text, choices)
        return choices[text]
    if kind is bool:
        if text.lower() not in {"true", "false"}:
            raise ConfigError(f"{source}: expected true or false, got '{text}'")
        return text.lower() == "true"
    if kind is Path:
        return _path(text, source)
    try:
        return kind(text)
    except ValueError:
        raise ConfigError(f"{source}: expected {_SCALARS[kind]}, got '{text}'") from None


def _path(text: str, source: str) -> Path:
    if not text:
        raise ConfigError(f"{source}: an empty path; write . for the current folder")
    return Path(text).expanduser()


def from_toml(value: object, hint: object, source: str) -> object:
    """Check a value of the file against the type of its option; numbers in quotes are refused."""
    inner, optional = unwrap_optional(hint)
    if optional and isinstance(value, str) and value.lower() == "none":
        return None  # TOML has no null
    if get_origin(inner) is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{source}: expected a list such as [{value!r}], got {value!r}")
        return tuple(_scalar_from_toml(entry, get_args(inner)[0], source) for entry in value)
    return _scalar_from_toml(value, inner, source)


def _scalar_from_toml(value: object, kind: Any, source: str) -> object:  # noqa: ANN401
    if get_origin(kind) is Literal:
        choices = [choice for choice in get_args(kind) if type(choice) is type(value)]
        if value not in choices:
            raise unknown_name(f"value of {source}:", str(value), map(str, get_args(kind)))
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    expected = str if kind is Path else kind
    # bool is a subclass of int in Python, and `seed = true` is a slip.
    if not isinstance(value, expected) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{source}: expected {_SCALARS[expected]}, got {value!r}")
    return _path(str(value), source) if kind is Path else value


def check_range(value: object, minimum: float | None, maximum: float | None, source: str) -> None:
    """Refuse NaN, and numbers outside the range; each entry of a tuple counts."""
    for entry in value if isinstance(value, tuple) else (value,):
        if not isinstance(entry, int | float) or isinstance(entry, bool):
            continue
        if math.isnan(entry):
            raise ConfigError(f"{source}: nan is not a value")
        if minimum is not None and entry < minimum:
            raise ConfigError(f"{source}: {entry} is below the smallest allowed, {minimum}")
        if maximum is not None and entry > maximum:
            raise ConfigError(f"{source}: {entry} is above the largest allowed, {maximum}")
