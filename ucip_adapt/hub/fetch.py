"""Get an adapter's files from the Hub, whole or not at all."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from ucip_adapt.download import get_files
from ucip_adapt.errors import ConfigError
from ucip_adapt.hub.folders import HubError

__all__ = ["ADAPTER_FILES", "fetch_adapter", "inside"]

ADAPTER_FILES = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "README.md",
    "LICENSE",
    "results.json",
    "before_after.png",
)
"""What an adapter consists of; nothing else of a repository is downloaded."""


def fetch_adapter(
    repo_id: str,
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    cache_dir: str | Path | None = None,
    local_dir: str | Path | None = None,
    token: str | bool | None = None,
) -> Path:
    """Download an adapter, or find it in the Hub's cache.

    Args:
        repo_id: ``"user/repository"``.
        revision: Branch, tag or commit; default ``main``.
        subfolder: Folder of the adapter inside the repository.
        cache_dir: Folder of the Hub's cache.
        local_dir: Put the files here instead of into the cache.
        token: Hub token.

    Returns:
        The folder with the adapter's files.

    Raises:
        HubError: If the repository, the revision or the adapter in it does not exist or is not
            open to you, or the Hub cannot be reached and the cache does not hold it.
        ConfigError: If the subfolder leads out of the repository.
    """
    below = inside(subfolder)
    root = get_files(
        repo_id,
        patterns=[str(below / name) for name in ADAPTER_FILES],
        error=HubError,
        instead="give a folder or a shipped adapter (`ucip-adapt adapters list`)",
        revision=revision,
        cache_dir=cache_dir,
        local_dir=local_dir,
        token=token,
    )
    folder = root / below
    missing = [name for name in ADAPTER_FILES[:2] if not (folder / name).is_file()]
    if missing:
        where = repo_id if below == PurePosixPath() else f"{repo_id}/{below}"
        raise HubError(f"{where} holds no adapter: there is no {missing[0]}")
    return folder


def inside(subfolder: str | None) -> PurePosixPath:
    """A folder below another one, with or without slashes around it.

    Args:
        subfolder: Its path; None for the folder itself.

    Returns:
        The path, relative.

    Raises:
        ConfigError: If it leads out.

    Example:
        >>> inside("/codecs/webp/")
        PurePosixPath('codecs/webp')
        >>> inside(None)
        PurePosixPath('.')
    """
    path = PurePosixPath((subfolder or "").strip("/"))
    if ".." in path.parts:
        raise ConfigError(
            f"subfolder '{subfolder}' leads out of where it should be: leave '..' out"
        )
    return path
