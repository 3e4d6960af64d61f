"""What the package carries: base networks and CC0 images, each found by name."""

from __future__ import annotations

from pathlib import Path

__all__ = [
    "ALIASES",
    "adapters_folder",
    "detector_file",
    "image_folder",
    "shipped_adapter_folder",
    "shipped_adapters",
    "shipped_base_folder",
    "shipped_bases",
]

_ROOT = Path(__file__).parent

ALIASES = {"ucip-tiny": "ucip-tiny-v3", "ucip-tiny-noprompt": "ucip-tiny-noprompt-v3"}
"""Names without a version mean the newest base of the kind."""


def shipped_bases() -> list[str]:
    """Names of the bases inside the package, aliases included.

    Returns:
        Names with their version first, then those without.

    Example:
        >>> "ucip-tiny-v3" in shipped_bases()
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
        'ucip-tiny-v3'
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


def detector_file() -> Path:
    """Weights that tell a codec by its traces in pixels.

    Returns:
        The file.

    Example:
        >>> detector_file().name
        'detector.safetensors'
    """
    return _ROOT / "detector" / "detector.safetensors"


def adapters_folder() -> Path:
    """Folder of the shipped adapters: inside an installed wheel, beside the package in a clone.

    Returns:
        The folder, whether it exists or not.

    Example:
        >>> adapters_folder().name in {"adapters", "_adapters"}
        True
    """
    installed = _ROOT.parent / "_adapters"
    return installed if installed.is_dir() else _ROOT.parent.parent / "adapters"


def shipped_adapters() -> list[str]:
    """Names of the adapters that come with the package.

    Returns:
        Names in alphabetical order.

    Example:
        >>> all((adapters_folder() / name).is_dir() for name in shipped_adapters())
        True
    """
    return sorted(path.parent.name for path in adapters_folder().glob("*/adapter_config.json"))


def shipped_adapter_folder(name: str) -> Path | None:
    """Folder of a shipped adapter.

    Args:
        name: Its name.

    Returns:
        The folder, or None if no adapter of that name is shipped.

    Example:
        >>> shipped_adapter_folder("no-such-codec") is None
        True
    """
    return adapters_folder() / name if name in shipped_adapters() else None
