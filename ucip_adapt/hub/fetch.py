"""Get an adapter's files from the Hub, whole or not at all."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is httpx's
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ucip_adapt.hub.folders import HubError

__all__ = ["ADAPTER_FILES", "fetch_adapter"]

ADAPTER_FILES = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "README.md",
    "LICENSE",
    "results.json",
    "before_after.png",
)
"""What an adapter consists of; nothing else of a repository is downloaded."""

_PROBE_SECONDS = 1.5


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
    """
    where = f"{repo_id}/{subfolder}" if subfolder else repo_id
    prefix = f"{subfolder.strip('/')}/" if subfolder else ""
    offline = constants.HF_HUB_OFFLINE or not _reachable(constants.ENDPOINT)
    try:
        root = snapshot_download(
            repo_id,
            revision=revision,
            cache_dir=cache_dir,
            local_dir=local_dir,
            token=token,
            local_files_only=offline,
            allow_patterns=[prefix + name for name in ADAPTER_FILES],
        )
    except GatedRepoError as error:
        raise HubError(f"{repo_id} is gated: ask for access on its page, then log in") from error
    except RepositoryNotFoundError as error:
        raise HubError(
            f"there is no repository {repo_id}, or it is private: check the name, or log in with "
            "`hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise HubError(f"{repo_id} has no revision '{revision}'") from error
    except LocalEntryNotFoundError as error:
        why = "offline mode is on" if constants.HF_HUB_OFFLINE else "it cannot be reached"
        raise HubError(
            f"{where} is not in the cache, and the Hub was not asked: {why}. Without a network, "
            "give a folder or a shipped adapter (`ucip-adapt adapters list`)"
        ) from error
    except (HTTPError, HfHubHTTPError, EntryNotFoundError, HFValidationError, OSError) as error:
        raise HubError(f"cannot get {where} from the Hub: {error}") from error
    folder = Path(root, subfolder or "")
    missing = [name for name in ADAPTER_FILES[:2] if not (folder / name).is_file()]
    if missing:
        raise HubError(f"{where} holds no adapter: there is no {missing[0]}")
    return folder


def _reachable(endpoint: str) -> bool:
    """Whether somebody listens there; huggingface_hub itself would try for half a minute.

    Behind a proxy only the proxy can tell, so that it is not asked.
    """
    parts = urlsplit(endpoint)
    if not proxy_bypass(parts.hostname or "") and getproxies().keys() & {parts.scheme, "all"}:
        return True
    port = parts.port or (443 if parts.scheme == "https" else 80)
    answer: list[bool] = []

    def probe() -> None:
        try:
            with socket.create_connection((parts.hostname or "", port), timeout=_PROBE_SECONDS):
                answer.append(True)
        except OSError:
            answer.append(False)

    # In a thread: looking up a name can take much longer than the time limit of the connection.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(_PROBE_SECONDS)
    return bool(answer and answer[0])
