"""Pages with tables that are made from files: filled in, and written or compared.

A table stands between ``<!-- table:NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

__all__ = ["fill", "finish"]

_TABLE = re.compile(r"(<!-- table:(\w+) -->)\n.*?(<!-- end -->)", re.DOTALL)


def fill(page: str, tables: Mapping[str, Callable[[], str]]) -> str:
    """A page with its tables made anew.

    Args:
        page: Its text.
        tables: What makes each table, by name.

    Raises:
        ValueError: If the page asks for a table that nothing makes; the message names those known.
    """

    def table(match: re.Match[str]) -> str:
        if match[2] not in tables:
            raise ValueError(f"no table '{match[2]}'. Known: {', '.join(sorted(tables))}")
        return f"{match[1]}\n{tables[match[2]]()}\n{match[3]}"

    return _TABLE.sub(table, page)


def finish(wanted: Mapping[Path, str], arguments: Sequence[str], command: str) -> int:
    """Write the files that are not as wanted, or with ``--check`` say which they are.

    Args:
        wanted: Text by file.
        arguments: Of the command line.
        command: What makes them, for the message.

    Returns:
        The exit code: 1 if a file is stale and was only to be checked.
    """
    stale = [
        path
        for path, text in wanted.items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]
    if stale and "--check" in arguments:
        names = ", ".join(path.name for path in stale)
        sys.stderr.write(f"stale: {names}: run {command}\n")
        return 1
    for path in stale:
        path.write_text(wanted[path], encoding="utf-8", newline="\n")
    return 0
