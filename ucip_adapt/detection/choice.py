"""From what is known of a picture to the adapter it is restored with."""

from __future__ import annotations

from dataclasses import dataclass

from ucip_adapt.assets import ALIASES, shipped_adapters
from ucip_adapt.detection.detection import Detection
from ucip_adapt.hub.library import describe_adapter, locate_adapter

__all__ = ["AUTO", "Choice", "choose_adapter"]

AUTO = "auto"
"""Stands for the adapter of the picture's codec."""


@dataclass(frozen=True)
class Choice:
    """Which adapter a picture gets, and why.

    Attributes:
        adapter: Name, folder or Hub id; None for the base alone.
        reason: Why, in words for the user.
    """

    adapter: str | None
    reason: str


_BY_NAME_ALONE = {
    "gif": "gif-photo is for photographs and worsens drawings, so it has to be asked for by name"
}
"""Codecs whose shipped adapter suits some of their pictures only (results/gif_variants.json)."""


def choose_adapter(asked: str, detection: Detection, *, base: str | None = None) -> Choice:
    """Turn ``--adapter`` into the adapter of one picture.

    Args:
        asked: ``"auto"``, ``"none"``, or the name, folder or Hub id of an adapter.
        detection: What is known of the picture's coding.
        base: The base that was asked for; an adapter of another one is not chosen.

    Returns:
        The adapter with the reason.

    Example:
        >>> choose_adapter("none", Detection("webp", None, "WebP container")).adapter is None
        True
    """
    if asked == "none":
        return Choice(None, "the base alone was asked for")
    if asked != AUTO:
        return Choice(asked, "asked for")
    if detection.codec is None:
        known = "nothing to choose by"
    elif detection.codec in _BY_NAME_ALONE:
        known = _BY_NAME_ALONE[detection.codec]
    elif detection.codec not in shipped_adapters():
        known = "no adapter for it is shipped"
    elif base is not None and ALIASES.get(base, base) != _base_name(detection.codec):
        known = "the adapter for it belongs to another base"
    else:
        return Choice(detection.codec, detection.reason)
    return Choice(None, f"{detection.reason}; {known}: the base alone")


def _base_name(adapter: str) -> str:
    return describe_adapter(locate_adapter(adapter)).base
