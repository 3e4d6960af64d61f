"""Options of a recipe: a frozen dataclass, filled from defaults, then a TOML file, then flags.

A recipe declares what it understands and nothing else passes:

>>> @dataclass(frozen=True)
... class Options:
...     learning_rate: float = option(3e-4, "Peak step size of Adam.", minimum=0.0)
...     max_train_steps: int = option(300, "Length of the training.", unit="optimizer steps")
...     qualities: tuple[int, ...] = option((10, 20), "Codec qualities, drawn evenly.")
>>> parse_config(Options, ["--learning-rate", "1e-3", "--qualities", "10", "40"], prog="demo")
Options(learning_rate=0.001, max_train_steps=300, qualities=(10, 40))
>>> parse_config(Options, ["--learnig_rate", "1"], prog="demo")
Traceback (most recent call last):
    ...
ucip_adapt.errors.UnknownNameError: unknown flag '--learnig_rate'; did you mean '--learning_rate'? \
Known: --config, --help, --learning_rate, --max_train_steps, --qualities

TOML, because ``3e-4`` is a number there; plain YAML readers return a string.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tomllib
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from ucip_adapt._argv import StrictParser
from ucip_adapt._values import check_hint, check_range, from_text, from_toml, unwrap_optional
from ucip_adapt.errors import ConfigError, UcipError, unknown_name

__all__ = ["option", "parse_config", "required", "run_recipe", "to_dict", "unused"]

T = TypeVar("T")
_METADATA_KEY = "ucip_adapt.option"
_EXIT_CODE_KNOWN_ERROR = 2
_EXIT_CODE_INTERRUPTED = 130


@dataclass(frozen=True)
class _Meta:
    """What a field of an options class says about itself besides type and default."""

    help: str
    unit: str
    minimum: float | None
    maximum: float | None
    flag_only: bool = False
    unused: str = ""


def option(
    default: T,
    help: str,  # noqa: A002  # the word that everyone knows from argparse
    *,
    unit: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    flag_only: bool = False,
) -> T:
    """Declare one option of a frozen dataclass; use it like :func:`dataclasses.field`.

    Args:
        default: Value when neither the file nor a flag gives one. Tuples, not lists.
        help: One sentence for ``--help``.
        unit: Unit of the value, shown in ``--help`` (``"LR pixels"``).
        minimum: Smallest value allowed, for numbers and for each entry of a tuple of numbers.
        maximum: Largest value allowed.
        flag_only: Whether a file may not set it: a permission that only the user's own words give.

    Returns:
        A dataclass field; declared as ``T`` so that a type checker compares it with the annotation.

    Example:
        >>> @dataclass(frozen=True)
        ... class Options:
        ...     seed: int = option(0, "Seed of data order and initial weights.", minimum=0)
        >>> Options().seed
        0
    """
    meta = _Meta(help, unit, minimum, maximum, flag_only)
    return dataclasses.field(default=default, metadata={_METADATA_KEY: meta})


def required(
    help: str,  # noqa: A002  # as in `option`
    *,
    unit: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
) -> Any:  # noqa: ANN401  # a field without a default has no type of its own
    """Declare an option that has no default; it stands before those that have one.

    Args:
        help: One sentence for ``--help``.
        unit: Unit of the value.
        minimum: Smallest value allowed.
        maximum: Largest value allowed.

    Returns:
        A dataclass field without a default.

    Example:
        >>> @dataclass(frozen=True)
        ... class Options:
        ...     codec: str = required("Name of the codec.")
        >>> parse_config(Options, [], prog="demo")
        Traceback (most recent call last):
            ...
        ucip_adapt.errors.ConfigError: --codec is required: Name of the codec.
    """
    meta = _Meta(help, unit, minimum, maximum)
    return dataclasses.field(metadata={_METADATA_KEY: meta})


def unused(default: T, reason: str) -> T:
    """Redeclare an inherited option that has no meaning in the derived class.

    ``--help`` leaves it out; a value other than the default is an error that gives the reason,
    where otherwise it would be recorded and not followed.

    Args:
        default: The only value.
        reason: Why there is nothing to choose.

    Returns:
        A dataclass field, as :func:`option`.

    Example:
        >>> @dataclass(frozen=True)
        ... class Options:
        ...     seed: int = option(0, "Seed.")
        >>> @dataclass(frozen=True)
        ... class Derived(Options):
        ...     seed: int = unused(0, "nothing is drawn")
        >>> parse_config(Derived, ["--seed", "7"], prog="demo")
        Traceback (most recent call last):
            ...
        ucip_adapt.errors.ConfigError: --seed: nothing is drawn; leave it out
    """
    meta = _Meta("", "", None, None, unused=reason)
    return dataclasses.field(default=default, metadata={_METADATA_KEY: meta})


def parse_config(cls: type[T], argv: Sequence[str], *, prog: str = "", description: str = "") -> T:
    """Fill an options class from defaults, a TOML file and flags; the later of the three wins.

    Flags and keys are the names of the fields; ``--dry_run`` and ``--dry-run`` mean the same.
    ``--config FILE.toml`` names the file, which holds one ``key = value`` for each option it sets.
    ``--help`` prints every option and leaves with ``SystemExit(0)``.

    Args:
        cls: A frozen dataclass of fields by :func:`option`, :func:`required` or :func:`unused`.
            Types: int, float, str, bool, Path, Literal, ``tuple[X, ...]`` of these, ``X | None``.
        argv: Command line without the program's name.
        prog: Program's name for ``--help``.
        description: First paragraph of ``--help``.

    Returns:
        A new instance of ``cls``.

    Raises:
        ConfigError: If a flag or key is unknown (the nearest and all known are named), a value
            has the wrong type or range, a required one is missing, an unused one is set, or the
            file cannot be read.

    Example:
        >>> @dataclass(frozen=True)
        ... class Options:
        ...     seed: int = option(0, "Seed.")
        >>> parse_config(Options, ["--seed", "7"], prog="demo")
        Options(seed=7)
    """
    hints = typing.get_type_hints(cls)
    fields = _fields(cls, hints)
    flags = _read_flags(fields, hints, argv, prog, description)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    file = flags.pop("config", None)
    if file is not None:
        for name, (key, raw) in _read_toml(Path(file), fields).items():
            sources[name] = f"{file}: {key}"
            values[name] = from_toml(raw, hints[name], sources[name])
    for name, text in flags.items():
        sources[name] = f"--{name}"
        values[name] = from_text(text, hints[name], sources[name])
    for name, value in values.items():
        reason = _meta(fields[name]).unused
        if reason and value != fields[name].default:
            raise ConfigError(f"{sources[name]}: {reason}; leave it out")
        check_range(value, _meta(fields[name]).minimum, _meta(fields[name]).maximum, sources[name])
    for name, field in fields.items():
        if name not in values and field.default is dataclasses.MISSING:
            raise ConfigError(f"--{name} is required: {_meta(field).help}")
    return cls(**values)


def to_dict(config: Any) -> dict[str, Any]:  # noqa: ANN401  # any dataclass instance
    """Turn an options object into plain values for JSON and for comparing two runs.

    Args:
        config: An instance made by :func:`parse_config`.

    Returns:
        One entry per option: paths as text with forward slashes, tuples as lists.

    Example:
        >>> @dataclass(frozen=True)
        ... class Options:
        ...     output_dir: Path = option(Path("runs/webp"), "Where results go.")
        >>> to_dict(Options())
        {'output_dir': 'runs/webp'}
    """

    def plain(value: Any) -> Any:  # noqa: ANN401
        if isinstance(value, Path):
            return value.as_posix()
        return [plain(entry) for entry in value] if isinstance(value, tuple) else value

    return {field.name: plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def run_recipe(
    main: Callable[[T], object],
    cls: type[T],
    *,
    description: str,
    argv: Sequence[str] | None = None,
) -> int:
    """Run a recipe from its command line: parse, call ``main``, report known errors in one line.

    Args:
        main: The recipe; it gets the parsed options.
        cls: The recipe's options class.
        description: First paragraph of ``--help``.
        argv: Arguments without the program's name; ``sys.argv[1:]`` by default.

    Returns:
        Exit code: 0, or 2 after a :class:`~ucip_adapt.errors.UcipError`, whose text is then on
        stderr, with a line for each of its notes; 130 after Ctrl-C, with a line that says
        "stopped". Any other exception is a bug and keeps its traceback.

    Example:
        >>> @dataclass(frozen=True)
        ... class Options:
        ...     seed: int = option(0, "Seed.")
        >>> run_recipe(print, Options, description="Print the options.", argv=["--seed=3"])
        Options(seed=3)
        0
    """
    arguments = sys.argv[1:] if argv is None else argv
    try:
        main(parse_config(cls, arguments, prog=Path(sys.argv[0]).name, description=description))
    except UcipError as error:
        sys.stderr.write(f"error: {error}\n")
        for note in getattr(error, "__notes__", ()):
            sys.stderr.write(f"note: {note}\n")
        return _EXIT_CODE_KNOWN_ERROR
    except KeyboardInterrupt as stop:
        sys.stderr.write(f"stopped: {stop}\n" if str(stop) else "stopped\n")
        return _EXIT_CODE_INTERRUPTED
    if "torch.distributed" in sys.modules:  # reading options does not need it
        from ucip_adapt.training.collective import leave_process_group

        leave_process_group()
    return 0


# -- the options class ---------------------------------------------------------------------------


def _fields(cls: type[Any], hints: dict[str, Any]) -> dict[str, dataclasses.Field[Any]]:
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for name, field in fields.items():
        if _METADATA_KEY not in field.metadata:
            raise TypeError(f"{cls.__name__}.{name}: declare it with option() or required()")
        if name in {"config", "help"}:
            raise TypeError(f"{cls.__name__}.{name}: this name belongs to the command line itself")
        check_hint(hints[name], f"{cls.__name__}.{name}")
    return fields


def _meta(field: dataclasses.Field[Any]) -> _Meta:
    meta: _Meta = field.metadata[_METADATA_KEY]
    return meta


# -- flags ---------------------------------------------------------------------------------------


def _read_flags(
    fields: dict[str, dataclasses.Field[Any]],
    hints: dict[str, Any],
    argv: Sequence[str],
    prog: str,
    description: str,
) -> dict[str, Any]:
    """Return the text of each flag that was given; tuples as lists of text."""
    parser = StrictParser(
        separator="_",
        prog=prog or None,
        description=description.replace("``", ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,  # example commands keep their lines
        epilog="Flags may be written with hyphens as well. A flag wins over the file.",
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--config", metavar="FILE.toml", help="Read options from this file.")
    for name, field in fields.items():
        _add_flag(parser, name, field, hints[name])
    return vars(parser.parse_args(argv))


def _add_flag(
    parser: argparse.ArgumentParser, name: str, field: dataclasses.Field[Any], hint: object
) -> None:
    text = argparse.SUPPRESS if _meta(field).unused else _describe(field).replace("%", "%%")
    inner, _ = unwrap_optional(hint)
    if inner is bool:
        parser.add_argument(f"--{name}", nargs="?", const="true", metavar="true|false", help=text)
        parser.add_argument(
            f"--no_{name}", dest=name, action="store_const", const="false", help=argparse.SUPPRESS
        )
    elif get_origin(inner) is tuple:
        entry = _metavar(get_args(inner)[0])
        parser.add_argument(f"--{name}", nargs="*", action="extend", metavar=entry, help=text)
    else:
        parser.add_argument(f"--{name}", metavar=_metavar(inner), help=text)


def _describe(field: dataclasses.Field[Any]) -> str:
    meta = _meta(field)
    notes = [f"unit: {meta.unit}"] if meta.unit else []
    if field.default is dataclasses.MISSING:
        notes.append("required")
    else:
        notes.append(f"default: {_show(field.default)}")
    return f"{meta.help} [{'; '.join(notes)}]"


def _show(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(_show(entry) for entry in value) or "empty"
    if isinstance(value, bool | None):
        return str(value).lower()
    return value.as_posix() if isinstance(value, Path) else str(value)


def _metavar(hint: object) -> str:
    if get_origin(hint) is Literal:
        return "|".join(str(choice) for choice in get_args(hint))
    return {int: "INT", float: "FLOAT", Path: "PATH"}.get(typing.cast(type, hint), "TEXT")


# -- the TOML file -------------------------------------------------------------------------------


def _read_toml(path: Path, fields: dict[str, dataclasses.Field[Any]]) -> dict[str, tuple[str, Any]]:
    """Return ``{field name: (key as written, value)}``."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a text file in UTF-8: {error.reason}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    found: dict[str, tuple[str, Any]] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in fields:
            raise unknown_name(f"key in {path}:", key, fields)
        if name in found:
            raise ConfigError(f"{path}: '{key}' and '{found[name][0]}' are the same option")
        if _meta(fields[name]).flag_only:
            raise ConfigError(
                f"{path}: '{key}' is for the command line alone; write --{name} there"
            )
        found[name] = (key, value)
    return found
