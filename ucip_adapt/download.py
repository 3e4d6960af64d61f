"""Get a few files of a repository from the Hub, whole; what goes wrong is one line."""

from __future__ import annotations

import hashlib
import re
import socket
import threading
from collections.abc import Sequence
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

from ucip_adapt.digests import sha256_of
from ucip_adapt.errors import UcipError

__all__ = ["get_files", "reachable"]

_PROBE_SECONDS = 1.5
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")


def get_files(
    repo_id: str,
    *,
    patterns: Sequence[str],
    error: type[UcipError],
    instead: str,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_dir: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Path:
    """Download files of a repository, or find them in the Hub's cache.

    A file in the cache that is not what the Hub said it was when it came is fetched once more.
    Whoever reads it checks it all the same: some mirrors name files by something else.

    Args:
        repo_id: ``"user/repository"``.
        patterns: Names of the files, as for :func:`fnmatch.fnmatch`.
        error: What to raise.
        instead: What a person without a network can give instead, for messages.
        revision: Branch, tag or commit; default ``main``.
        cache_dir: Folder of the Hub's cache.
        local_dir: Put the files here instead of into the cache.
        token: Hub token.
        local_files_only: Never ask the network.
        force_download: Fetch again what the cache holds.

    Returns:
        The folder that stands for the repository's.

    Raises:
        UcipError: Of the given kind, if the repository or the revision does not exist or is not
            open to you, or the Hub cannot be reached and the cache does not hold it.
    """
    offline = local_files_only or constants.HF_HUB_OFFLINE or not reachable(constants.ENDPOINT)

    def snapshot(*, force: bool) -> Path:
        return Path(
            snapshot_download(
                repo_id,
                revision=revision,
                cache_dir=cache_dir,
                local_dir=local_dir,
                token=token,
                local_files_only=offline,
                force_download=force,
                allow_patterns=list(patterns),
            )
        )

    try:
        folder = snapshot(force=force_download and not offline)
        if not offline and _is_damaged(folder, patterns):
            folder = snapshot(force=True)
    except (
        HTTPError,
        HfHubHTTPError,
        EntryNotFoundError,
        LocalEntryNotFoundError,
        HFValidationError,
        OSError,
    ) as problem:
        why = (
            "offline mode is on"
            if constants.HF_HUB_OFFLINE
            else "local_files_only says so"
            if local_files_only
            else "it cannot be reached"
        )
        raise error(_said(problem, repo_id, revision, why=why, instead=instead)) from problem
    return folder


def _said(problem: Exception, repo_id: str, revision: str | None, *, why: str, instead: str) -> str:
    """What went wrong, in a line."""
    if isinstance(problem, GatedRepoError):
        return f"{repo_id} is gated: ask for access on its page, then log in"
    if isinstance(problem, RepositoryNotFoundError):
        return (
            f"there is no repository {repo_id}, or it is private: check the name, or log in with "
            "`hf auth login`"
        )
    if isinstance(problem, RevisionNotFoundError):
        return f"{repo_id} has no revision '{revision}'"
    if isinstance(problem, LocalEntryNotFoundError):
        answer = problem.__cause__
        if isinstance(answer, HfHubHTTPError):
            return f"cannot get {repo_id}: the Hub says {_one_line(answer)}; {instead}"
        return (
            f"{repo_id} is not in the cache, and the Hub was not asked: {why}. Without a network, "
            f"{instead}"
        )
    return f"cannot get {repo_id} from the Hub: {_one_line(problem)}"


def _one_line(problem: Exception) -> str:
    return " ".join(str(problem).split())


def _is_damaged(folder: Path, patterns: Sequence[str]) -> bool:
    """Whether a file differs from what the Hub named it by.

    The cache keeps each file under the hash that the Hub gave for it: sha256 of large ones, git's
    of the others, which a mirror may replace by plain sha1. A file that is elsewhere, as in a
    ``local_dir``, cannot be told.
    """
    for path in {path for pattern in patterns for path in folder.glob(pattern)}:
        name = path.resolve().name
        if _SHA256.fullmatch(name) and sha256_of(path) != name:
            return True
        if _SHA1.fullmatch(name):
            data = path.read_bytes()
            of_git = hashlib.sha1(b"blob %d\0" % len(data) + data)  # noqa: S324 - no secret
            if name not in {of_git.hexdigest(), hashlib.sha1(data).hexdigest()}:  # noqa: S324
                return True
    return False


def reachable(endpoint: str) -> bool:
    """Whether somebody listens there; huggingface_hub itself would try for half a minute.

    Behind a proxy only the proxy can tell, so that it is not asked.

    Args:
        endpoint: Address, such as ``"https://host"``.

    Returns:
        True also where only a proxy could tell.

    Example:
        >>> reachable("http://127.0.0.1:9")
        False
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
