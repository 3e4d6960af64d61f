"""Files that have no table of their own, shown as they are: one line for each value."""

from __future__ import annotations

import json
from collections.abc import Iterator

from ucip_adapt.report.markup import Row, Section, details, table
from ucip_adapt.report.sources import Source

__all__ = ["plain_section"]

_LEFT_OUT = ("environment", "config", "format_version", "kind", "command", "files")
_DEEPEST = 20


def values_of(value: object, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Every value inside, with the way to it.

    Example:
        >>> list(values_of({"a": {"b": [1.5, None]}}))
        [('a, b, 1', '1.5'), ('a, b, 2', 'null')]
    """
    inner: list[tuple[str, object]] = []
    if isinstance(value, dict):
        inner = [(str(key), one) for key, one in value.items()]
    elif isinstance(value, list):
        inner = [(str(number), one) for number, one in enumerate(value, 1)]
    if not inner or len(path) == _DEEPEST:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        yield ", ".join(path), text
    for key, one in inner if len(path) < _DEEPEST else ():
        yield from values_of(one, (*path, key))


def plain_section(source: Source, group: str) -> Section:
    """Everything that a file measured, closed until it is clicked on."""
    scores = source.scores
    if scores is source.record:
        scores = {key: value for key, value in scores.items() if key not in _LEFT_OUT}
    lines = [Row([name, text]) for name, text in values_of(scores)]
    shown = table(["value", source.name], lines, source.hover)
    return Section(source.name, [details(f"{len(lines)} values", [shown])], [source], group)
