"""What a run leaves behind, as folders that the Hub and PEFT understand."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is httpx's
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from peft import PeftModel
from safetensors import SafetensorError

from ucip_adapt.atomic import write_atomically
from ucip_adapt.errors import AdapterError, DataError, UcipError
from ucip_adapt.hub.cards import adapter_card, base_card, weights_licence
from ucip_adapt.models import UCIP
from ucip_adapt.training.results import ResultsError, write_results
from ucip_adapt.tuning import DynamicPromptConfig, save_prompt_adapter

__all__ = [
    "PICTURE",
    "HubError",
    "PublishError",
    "publish_adapter",
    "publish_base",
    "push_folder",
    "repository_name",
]

_DONE = "results.json"
"""The file that says that a folder is finished; what resumes a run or a cell looks for it alone."""

PICTURE = "before_after.png"
"""Name of the before-and-after picture, which cards show."""

_OF_A_RESULT = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "config.json",
    "model.safetensors",
    PICTURE,
)
"""What a result may consist of; of an earlier one in the same folder nothing stays behind."""


class HubError(UcipError):
    """The Hub refused an upload or could not be reached; the local folder is complete."""


class PublishError(UcipError):
    """A run's result could not be written; its message says whether an older one is still there."""


def publish_base(
    base: UCIP,
    folder: Path,
    record: Mapping[str, Any],
    *,
    name: str,
    picture: Callable[[Path], None] | None = None,
) -> None:
    """Write a base with its card, licence and results.

    Args:
        base: The network.
        folder: Output folder; files of an earlier run are replaced, or taken out, once all new
            ones are written.
        record: Results in the schema of :mod:`ucip_adapt.training.results`.
        name: The base's name.
        picture: Writes the before-and-after picture to the path given.

    Raises:
        PublishError: If the files cannot be written. On a full disk older ones are as they were.
    """
    with _staged(folder) as stage:
        if picture is not None:
            picture(stage / PICTURE)
        # Before the weights: the Hub mixin writes a card of its own where there is none.
        write_atomically(stage / "README.md", base_card(name, base.config, record).encode())
        write_atomically(stage / "LICENSE", weights_licence(record).encode())
        base.save_pretrained(stage)
        files = _digests(stage, ["model.safetensors", "config.json", PICTURE])
        write_results(stage / _DONE, {**record, "files": files})


def publish_adapter(
    adapter: PeftModel,
    folder: Path,
    record: Mapping[str, Any],
    *,
    picture: Callable[[Path], None] | None = None,
) -> dict[str, Any]:
    """Write an adapter in PEFT's layout, with its card, licence and results.

    Args:
        adapter: The wrapped base; its active adapter is written.
        folder: Output folder; files of an earlier run are replaced, or taken out, once all new
            ones are written.
        record: Results in the schema of :mod:`ucip_adapt.training.results`.
        picture: Writes the before-and-after picture to the path given.

    Returns:
        The results as written: the record with the size and checksums of the files.

    Raises:
        PublishError: If the files cannot be written. On a full disk older ones are as they were.
    """
    config = adapter.peft_config[adapter.active_adapter]
    name = config.base_model_name_or_path
    if name and record["parameters"].get("base_is_folder"):
        config.base_model_name_or_path = Path(name).absolute().name  # the folder may be gone by now
    with _staged(folder) as stage:
        if picture is not None:
            picture(stage / PICTURE)
        if isinstance(config, DynamicPromptConfig):
            config.metrics = _summary(record)
            save_prompt_adapter(adapter, stage, adapter_name=adapter.active_adapter)
        else:
            adapter.save_pretrained(str(stage), save_embedding_layers=False)
        weights = stage / "adapter_model.safetensors"
        complete = {
            **record,
            "parameters": {**record["parameters"], "adapter_bytes": weights.stat().st_size},
            "files": _digests(stage, [weights.name, "adapter_config.json", PICTURE]),
        }
        write_atomically(stage / "README.md", adapter_card(complete).encode())
        write_atomically(stage / "LICENSE", weights_licence(record).encode())
        write_results(stage / _DONE, complete)
    return complete


@contextmanager
def _staged(folder: Path) -> Iterator[Path]:
    """A folder to write to; what is in it replaces the real files once all of it is there."""
    before = "What was there before is unchanged"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder, prefix=".tmp-") as stage:
            yield Path(stage)
            # Whenever this stops, a results file belongs to the files beside it.
            (folder / _DONE).unlink(missing_ok=True)
            before = f"Its files are partly new, and without {_DONE} it does not count as finished"
            for name in _OF_A_RESULT:  # an adapter and a network would contradict each other
                if not Path(stage, name).exists():
                    (folder / name).unlink(missing_ok=True)
            for path in sorted(Path(stage).iterdir(), key=lambda path: path.name == _DONE):
                path.replace(folder / path.name)
    except (OSError, SafetensorError, AdapterError, DataError, ResultsError) as error:
        raise PublishError(
            f"cannot write the result to {folder}: {error}. {before}: "
            "make room or choose another --output_dir, and go on with --resume_from_checkpoint "
            "latest if the run has checkpoints"
        ) from error


def _summary(record: Mapping[str, Any]) -> dict[str, Any]:
    """Mean PSNR (y-c4) by set and method, for the adapter's own configuration."""
    sums: dict[str, dict[str, list[float]]] = {}
    for row in record["scores"]["rows"]:
        if row["protocol"] == "y-c4" and row["psnr_db"] is not None:
            methods = sums.setdefault(row["dataset"], {})
            methods.setdefault(row["method"], []).append(row["psnr_db"])
    return {
        "protocol": "y-c4",
        "psnr_db": {
            # JSON has no infinity, which is what two equal images score.
            dataset: {
                n: round(m, 3) if isfinite(m := fmean(v)) else None for n, v in methods.items()
            }
            for dataset, methods in sums.items()
        },
    }


def _digests(folder: Path, names: list[str]) -> dict[str, str]:
    return {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in names
        if (folder / name).is_file()
    }


def repository_name(repo_id: str | None, *, default_name: str) -> str:
    """The repository that a folder goes to, looked at before anything is done for it.

    Args:
        repo_id: ``user/name``; default ``UCIP_HUB_NAMESPACE/default_name``.
        default_name: Name in that namespace; what a repository's name cannot hold becomes a hyphen.

    Raises:
        HubError: If there is neither, or it cannot be the name of a repository.

    Example:
        >>> repository_name("me/ucip-webp", default_name="ucip-webp")
        'me/ucip-webp'
        >>> repository_name("me/a b", default_name="ucip-webp")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ucip_adapt.hub.folders.HubError: 'me/a b' cannot be the name of a repository on the Hub:...
    """
    namespace = os.environ.get("UCIP_HUB_NAMESPACE")
    own = re.sub(r"[^A-Za-z0-9._]+|-+", "-", default_name).strip("-.")
    target = repo_id or (f"{namespace}/{own}" if namespace else None)
    if target is None:
        raise HubError(
            "no repository: give --repo-id (a recipe: --hub_model_id), or set UCIP_HUB_NAMESPACE"
        )
    try:
        validate_repo_id(target)
    except HFValidationError as error:
        raise HubError(
            f"'{target}' cannot be the name of a repository on the Hub: give one such as user/name "
            "with --repo-id (a recipe: --hub_model_id)"
        ) from error
    return target


def push_folder(
    folder: Path, repo_id: str | None, *, default_name: str, only: Sequence[str] | None = None
) -> str:
    """Upload a run's folder to the Hub, without its checkpoints.

    Args:
        folder: The folder.
        repo_id: ``user/name``; default ``UCIP_HUB_NAMESPACE/default_name``.
        default_name: Name in that namespace.
        only: Files to upload; default all of them.

    Returns:
        The repository's id.

    Raises:
        HubError: If there is no repository to push to, or the Hub says no.
    """
    target = repository_name(repo_id, default_name=default_name)
    try:
        api = HfApi()
        target = api.create_repo(target, exist_ok=True).repo_id
        api.upload_folder(
            repo_id=target,
            folder_path=folder,
            commit_message=f"Upload {default_name}",
            allow_patterns=list(only) if only is not None else None,
            # What an earlier upload left and this folder no longer has would contradict it.
            delete_patterns=[name for name in only or () if not (folder / name).is_file()] or None,
            ignore_patterns=["checkpoints/*", "tensorboard/*", ".*", "*.tmp"],
        )
    except (HTTPError, HfHubHTTPError, OSError) as error:
        raise HubError(
            f"cannot upload {folder} to {target}: {error}. The folder itself is complete"
        ) from error
    return target
