"""Names of bases, as adapters record them: what means the same on every machine."""

from __future__ import annotations

from pathlib import Path

from ucip_adapt.assets import ALIASES, shipped_base_folder

__all__ = ["is_base_folder", "public_base_name"]


def is_base_folder(name: str) -> bool:
    """Whether a base's name is a folder of this machine, which nobody else can fetch.

    Asked where a run starts: ``runs/latest`` looks like a repository once the folder is gone.

    Args:
        name: As for :meth:`UCIP.from_pretrained`, which looks for shipped bases first.

    Example:
        >>> is_base_folder("."), is_base_folder("ucip-tiny"), is_base_folder("user/base")
        (True, False, False)
    """
    path = Path(name)
    return shipped_base_folder(name) is None and (path.is_dir() or path.is_absolute())


def public_base_name(name: str) -> str:
    """A base's name as an adapter may pass it on: without the folders of this machine.

    Args:
        name: As for :meth:`UCIP.from_pretrained`.

    Returns:
        A shipped name with its version, a folder's own name, or the name as it is.

    Example:
        >>> public_base_name("/where/it/is/my-base"), public_base_name("ucip-tiny")
        ('my-base', 'ucip-tiny-v3')
    """
    return Path(name).absolute().name if is_base_folder(name) else ALIASES.get(name, name)
