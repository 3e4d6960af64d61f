"""HTML that cannot be broken by what is put into it: every string is escaped, markup is a type."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ucip_adapt.report.sources import Source

__all__ = ["HOLE", "Html", "Row", "Section", "details", "element", "join", "table"]

HOLE = "-"
_NUMBER = re.compile(r"[+-]?\d")
_BOLD = re.compile(r"\*\*(.+?)\*\*")
_CONTROLS = dict.fromkeys((*range(9), 11, 12, *range(14, 32), 127), "\N{REPLACEMENT CHARACTER}")
_VOID = ("br", "img", "meta")


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


@dataclass(frozen=True)
class Row:
    """A line of a table.

    Attributes:
        cells: Its texts; what is not :class:`Html` is escaped.
        sources: Files that its numbers come from, shown behind it and on hover.
    """

    cells: Sequence[str]
    sources: Sequence[Source] = ()


@dataclass(frozen=True)
class Section:
    """A part of the page under one heading.

    Attributes:
        title: Its heading.
        parts: What stands below it.
        sources: All files that went into it.
        group: Heading of the group that it belongs to.
    """

    title: str
    parts: Sequence[Html]
    sources: Sequence[Source] = ()
    group: str = field(default="")


def escape(text: str) -> Html:
    """Make a text safe between tags and inside a quoted attribute; control characters are shown.

    Example:
        >>> escape('<b title="a">')
        '&lt;b title=&quot;a&quot;&gt;'
    """
    if isinstance(text, Html):
        return text
    return Html(html.escape(text.translate(_CONTROLS)))


def join(parts: Iterable[str]) -> Html:
    """Put parts one after the other, escaping what is no markup."""
    return Html("".join(escape(part) for part in parts))


def element(
    name: str, children: Iterable[str] = (), attributes: Mapping[str, str | None] | None = None
) -> Html:
    """One element; attributes that are None are left out.

    Example:
        >>> element("p", ["a < b", Html("<br>")], {"class": "note", "title": None})
        '<p class="note">a &lt; b<br></p>'
    """
    shown = "".join(
        f' {key}="{escape(value)}"'
        for key, value in (attributes or {}).items()
        if value is not None
    )
    if name in _VOID:
        return Html(f"<{name}{shown}>")
    return Html(
        f"<{name}{shown}>{join([children] if isinstance(children, str) else children)}</{name}>"
    )


def references(sources: Sequence[Source]) -> Html:
    """Numbers of sources as links to the list at the end of the page."""
    return join(
        element("a", [str(s.number)], {"href": f"#source-{s.number}", "title": s.hover})
        for s in dict.fromkeys(sources)
    )


def table(header: Sequence[str], rows: Sequence[Row], note: str = "") -> Html:
    """A table that scrolls by itself where the screen is narrow.

    Args:
        header: Column titles.
        rows: Its lines. Numbers are set to the right, ``**bold**`` is bold.
        note: A line below it.
    """
    cited = any(row.sources for row in rows)
    first = [_alignment(text) for text in rows[0].cells] if rows else []
    first += [{}] * (len(header) + cited - len(first))
    titles = zip((*header, *(["from"] * cited)), first, strict=True)
    head = element("tr", [element("th", [text], aligned) for text, aligned in titles])
    body = [
        element(
            "tr",
            [
                *(element("td", [_bold(text)], _alignment(text)) for text in row.cells),
                *([element("td", [references(row.sources)], {"class": "from"})] * cited),
            ],
            {"title": "\n".join(s.hover for s in dict.fromkeys(row.sources)) or None},
        )
        for row in rows
    ]
    whole = element("table", [element("thead", [head]), element("tbody", body)])
    below = [element("p", [note], {"class": "note"})] if note else []
    return join([element("div", [whole], {"class": "scroll"}), *below])


def _alignment(text: str) -> dict[str, str | None]:
    return {"class": "n" if text == HOLE or _NUMBER.match(text.removeprefix("**")) else None}


def _bold(text: str) -> Html:
    if isinstance(text, Html):
        return text
    return Html(_BOLD.sub(r"<b>\1</b>", escape(text)))


def details(summary: str, parts: Iterable[str]) -> Html:
    """Something that opens on a click."""
    return element("details", [element("summary", [summary]), *parts])
