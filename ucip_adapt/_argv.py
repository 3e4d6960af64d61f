"""A command-line parser whose complaints are typed errors; recipes and `ucip-adapt` share it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from ucip_adapt.errors import ConfigError, unknown_name

__all__ = ["StrictParser"]


class StrictParser(argparse.ArgumentParser):
    """An ArgumentParser that raises :class:`ConfigError` where the original would print and exit.

    An unknown flag names the nearest and all known ones, abbreviations are not guessed, and
    ``--a_b`` and ``--a-b`` mean the same.

    Args:
        separator: ``"-"`` or ``"_"``: how the flags of this parser are declared and shown.
        **kwargs: As for :class:`argparse.ArgumentParser`.
    """

    def __init__(self, *, separator: str = "-", **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(**{"allow_abbrev": False, **kwargs})
        self._other, self._separator = {"-": ("_", "-"), "_": ("-", "_")}[separator]

    def error(self, message: str) -> NoReturn:
        """Raise instead of exit."""
        raise ConfigError(message.removeprefix("argument "))

    def parse_known_args(  # type: ignore[override]  # the original's overloads differ in the namespace only
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse all or raise; sub-parsers come here too, so the error names their own flags."""
        found, extra = super().parse_known_args(
            [self._spell(token) for token in args or []], namespace
        )
        for token in extra:
            if token.startswith("-"):
                raise unknown_name("flag", token.partition("=")[0], self._known_flags())
        if extra:
            raise ConfigError(f"unexpected argument '{extra[0]}'")
        return found, []

    def _spell(self, token: str) -> str:
        """``--dry-run=a-b`` -> ``--dry_run=a-b``, or the other way round; anything else stays."""
        if not token.startswith("--"):
            return token
        name, equals, value = token[2:].partition("=")
        return f"--{name.replace(self._other, self._separator)}{equals}{value}"

    def _known_flags(self) -> list[str]:
        shown = (action for action in self._actions if action.help != argparse.SUPPRESS)
        return [flag for action in shown for flag in action.option_strings if flag != "-h"]
