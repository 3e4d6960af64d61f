"""Plain text tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["render_table"]


def render_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Line up columns, two blanks apart, without blanks at the ends of lines.

    Args:
        header: Column titles.
        rows: Cells, as many per row as there are titles.

    Returns:
        One line per row after the header; ends with a line feed.

    Example:
        >>> print(render_table(["name", "qualities"], [["jpeg", "10 20"]]), end="")
        name  qualities
        jpeg  10 20
    """
    table = [list(header), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in table)
    return "".join(f"{line}\n" for line in lines)
