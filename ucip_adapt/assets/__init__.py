"""What the package carries: base networks and CC0 images, each found by name."""

from __future__ import annotations

from pathlib import Path

__all__ = ["ALIASES", "image_folder", "shipped_base_folder", "shipped_bases"]

_ROOT = Path(__file__).parent

ALIASES = {"ucip-tiny": "ucip-tiny-v1", "ucip-tiny-noprompt": "ucip-tiny-noprompt-v1"}
"""Names without a version mean the newest base of the kind."""


def shipped_bases() -> list[str]:
    """Names of the bases inside the package, aliases included.

    Returns:
        Names with their version first, then those without.

    Example:
        >>> "ucip-tiny-v1" in shipped_bases()
        True
    """
    folders = sorted(path.parent.name for path in _ROOT.glob("bases/*/config.json"))
    return folders + sorted(alias for alias, name in ALIASES.items() if name in folders)


def shipped_base_folder(name: str) -> Path | None:
    """Folder of a shipped base.

    Args:
        name: Its name, with its version or without.

    Returns:
        The folder, or None if no base of that name is shipped.

    Example:
        >>> shipped_base_folder("ucip-tiny").name
        'ucip-tiny-v1'
    """
    if name not in shipped_bases():
        return None
    return _ROOT / "bases" / ALIASES.get(name, name)


def image_folder(split: str) -> Path:
    """Folder of the embedded CC0 images of a split.

    Args:
        split: ``"train"`` or ``"validation"``.

    Returns:
        The folder; of another split, one that does not exist.

    Example:
        >>> image_folder("train").is_dir()
        True
    """
    return _ROOT / "images" / split
