"""Whether the content of a ``suite.json`` can be what a build wrote: its types, and that it agrees.

Nothing of a manifest is used before this has passed, so readers need no second look at it.
"""

from __future__ import annotations

import re
from typing import Any

from ucip_adapt.suites.suite import SLOT_NAME

__all__ = ["find_damage", "num_blocks", "shard_name"]

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SLOT: dict[str, type] = {
    "name": str,
    "asked": str,
    "named": str,
    "codec": str,
    "substituted": bool,
}
_SETTING: dict[str, type] = {
    "folder": str,
    "slot": str,
    "codec": str,
    "quality": int,
    "fingerprint": dict,
}
_SHARD: dict[str, type] = {"name": str, "rows": int, "bytes": int, "sha256": str}
_QUARANTINED: dict[str, type] = {"image": str, "setting": str, "error": str}
_WORDS: dict[type, str] = {
    str: "a text",
    int: "a whole number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}
# In this order, which is that of messages.
_KEYS: dict[str, type | dict[str, type]] = {
    "suite": str,
    "slots": _SLOT,
    "settings": _SETTING,
    "num_images": int,
    "images_per_shard": int,
    "hr_mode": str,
    "edge": str,
    "description": str,
    "rows": int,
    "bytes": int,
    "versions": dict,
    "shards": _SHARD,
    "quarantined": _QUARANTINED,
}
"""Type of each key that is read; of a list of objects, the types of theirs."""


def shard_name(folder: str, block: int) -> str:
    """Where a shard lies: setting's folder, then the number of the block.

    Args:
        folder: Of the setting.
        block: Position of the block.

    Example:
        >>> shard_name("webp-10", 3)
        'webp-10/00003'
    """
    return f"{folder}/{block:05d}"


def num_blocks(num_images: int, images_per_shard: int) -> int:
    """Blocks of images.

    Args:
        num_images: Images of the build.
        images_per_shard: Images of a block.

    Example:
        >>> num_blocks(33, 16)
        3
    """
    return -(-num_images // images_per_shard)


def find_damage(manifest: dict[str, Any]) -> str:
    """Say what is wrong with a manifest, or nothing.

    Args:
        manifest: What the file holds.

    Returns:
        The first fault, to follow "is damaged: "; an empty text if there is none.

    Example:
        >>> find_damage(dict.fromkeys(_KEYS, 3))
        'suite is 3, not a text'
    """
    if missing := [key for key in _KEYS if key not in manifest]:
        return f"it lacks {', '.join(missing)}"
    for key, kind in _KEYS.items():
        if fault := _wrong_type(key, manifest[key], kind):
            return fault
    for key in ("num_images", "images_per_shard"):
        if manifest[key] < 1:
            return f"{key} is {manifest[key]}, not at least 1"
    if manifest["hr_mode"] not in {"reference", "bytes"}:
        return f"hr_mode is {manifest['hr_mode']!r}, neither 'reference' nor 'bytes'"
    return _settings_fault(manifest) or _shards_fault(manifest)


def _wrong_type(key: str, value: object, kind: type | dict[str, type]) -> str:
    if isinstance(kind, type):
        # To Python, true is a whole number.
        fits = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
        return "" if fits else f"{key} is {repr(value)[:80]}, not {_WORDS[kind]}"
    if not isinstance(value, list):
        return _wrong_type(key, value, list)
    for number, entry in enumerate(value):
        place = f"{key}[{number}]"
        if not isinstance(entry, dict):
            return _wrong_type(place, entry, dict)
        for name, inner in kind.items():
            if name not in entry:
                return f"{place} lacks {name}"
            if fault := _wrong_type(f"{place}.{name}", entry[name], inner):
                return fault
    return ""


def _settings_fault(manifest: dict[str, Any]) -> str:
    """Slots with fit names, and settings that are those of the slots, in their order."""
    slots = manifest["slots"]
    if not slots:
        return "slots is empty"
    for slot in slots:
        if not SLOT_NAME.fullmatch(slot["name"]):
            return f"slots: {slot['name']!a} is no name of a slot"
        if fault := _qualities_fault(slot):
            return fault
    expected = [
        (f"{slot['name']}-{quality}", slot["name"], slot["codec"], quality)
        for slot in slots
        for quality in slot["qualities"]
    ]
    found = [(s["folder"], s["slot"], s["codec"], s["quality"]) for s in manifest["settings"]]
    if found != expected:
        return f"settings are not the {len(expected)} of its slots"
    if len({folder for folder, *_ in found}) < len(found):
        return "two settings have the same folder"
    return ""


def _qualities_fault(slot: dict[str, Any]) -> str:
    qualities = slot.get("qualities")
    if not isinstance(qualities, list) or not qualities:
        return f"slot {slot['name']} has no list of qualities"
    for quality in qualities:
        if fault := _wrong_type(f"a quality of slot {slot['name']}", quality, int):
            return fault
    return ""


def _shards_fault(manifest: dict[str, Any]) -> str:
    """One shard for each setting and block, and no other."""
    blocks = num_blocks(manifest["num_images"], manifest["images_per_shard"])
    settings, shards = manifest["settings"], manifest["shards"]
    if len(shards) != len(settings) * blocks:
        return (
            f"it has {len(shards)} shards; {len(settings)} settings of {blocks} blocks are "
            f"{len(settings) * blocks}"
        )
    known = {shard["name"] for shard in shards}
    for setting in settings:
        for block in range(blocks):
            name = shard_name(setting["folder"], block)
            if name not in known:
                return f"its shards lack {name}"
    for shard in shards:
        if not _SHA256.fullmatch(shard["sha256"]):
            return f"shard {shard['name']}: sha256 is {shard['sha256'][:80]!r}"
    return ""
