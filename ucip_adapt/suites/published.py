"""What a suite says of codecs to others: a program or a folder by its name, not where it lies.

Names of ``command:``, ``folder:`` and ``streams:`` codecs hold paths of this machine. Plans keep
them, because they decide what is built; manifests, cards and rows, which are published, do not.
Nothing here depends on the current folder, so that workers anywhere write the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

__all__ = ["public", "public_text"]

_COMMAND = "command:"
# An option (-I/opt/x), a name (config=/opt/x), or nothing before a path that ends with the word.
_WORD = re.compile(r"(--?[\w-]*|[^/\s]*[=:,])?(/.*)", re.DOTALL)
# A path within a text; a fraction, a web address or a path behind a name is none.
_INSIDE = re.compile(r"(?:(?<![\w.}/~-])|(?<=[\s'\"]-\w))/[^\s'\"/]+(?:/[^\s'\"/]+)*/?")
_QUOTED = re.compile(r"(['\"])(/.*?|[^\s'\"]*[=:]/.*?)\1")


def public(value: Any) -> Any:  # noqa: ANN401 - JSON has no narrower type
    """Leave out the folders of absolute paths in a codec's name or fingerprint.

    Args:
        value: A text that is a path or holds one, or lists and dictionaries of them.

    Returns:
        The same shape; ``.../name`` in the place of each absolute path.

    Example:
        >>> public("command:/opt/bin/enc -c=/opt/x.cfg -q {q} {in} {out}")
        'command:.../enc -c=.../x.cfg -q {q} {in} {out}'
        >>> public(["folder:/mnt/my images", "streams:hm=/mnt/hm", "webp", 3])
        ['folder:.../my images', 'streams:hm=.../hm', 'webp', 3]
    """
    if isinstance(value, dict):
        return {key: public(item) for key, item in value.items()}
    if isinstance(value, list):
        return [public(item) for item in value]
    if not isinstance(value, str):
        return value
    if value.startswith(_COMMAND):
        return public_text(value)
    match = _WORD.fullmatch(value)
    return f"{match[1] or ''}{_last(match[2])}" if match else value


def public_text(text: str, codecs: Iterable[str] = ()) -> str:
    """The same for a sentence.

    Args:
        text: An error, say.
        codecs: Names of codecs that may stand in it.

    Example:
        >>> public_text("folder:/a/my images: no /a/b.png, 1/2 of it", ["folder:/a/my images"])
        'folder:.../my images: no .../b.png, 1/2 of it'
    """
    for name in sorted(codecs, key=len, reverse=True):
        text = text.replace(name, public(name))
    text = _QUOTED.sub(lambda match: f"{match[1]}{public(match[2])}{match[1]}", text)
    return _INSIDE.sub(lambda match: _last(match[0]), text)


def _last(path: str) -> str:
    name = path.rstrip("/").rpartition("/")[2]
    return f".../{name}" if name else path
