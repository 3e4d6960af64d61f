"""What a run leaves behind, as folders that the Hub and PEFT understand."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from peft import PeftModel

from ucip_adapt.errors import UcipError
from ucip_adapt.hub.cards import adapter_card, base_card, weights_licence
from ucip_adapt.models import UCIP
from ucip_adapt.training.atomic import write_atomically
from ucip_adapt.training.results import write_results

__all__ = ["HubError", "publish_adapter", "publish_base", "push_folder"]


class HubError(UcipError):
    """The Hub refused an upload or could not be reached; the local folder is complete."""


def publish_base(base: UCIP, folder: Path, record: Mapping[str, Any], *, name: str) -> None:
    """Write a base with its card, licence and results.

    Args:
        base: The network.
        folder: Output folder; files of an earlier run are replaced one by one.
        record: Results in the schema of :mod:`ucip_adapt.training.results`.
        name: The base's name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "README.md", base_card(name, base.config, record).encode())
    write_atomically(folder / "LICENSE", weights_licence(record["config"]).encode())
    base.save_pretrained(folder)
    files = _digests(folder, ["model.safetensors", "config.json", "before_after.png"])
    write_results(folder / "results.json", {**record, "files": files})


def publish_adapter(adapter: PeftModel, folder: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """Write an adapter in PEFT's layout, with its card, licence and results.

    Args:
        adapter: The wrapped base; its active adapter is written.
        folder: Output folder.
        record: Results in the schema of :mod:`ucip_adapt.training.results`.

    Returns:
        The results as written: the record with the size and checksums of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = adapter.peft_config[adapter.active_adapter]
    if hasattr(config, "metrics"):
        config.metrics = _summary(record)
    adapter.save_pretrained(str(folder))
    weights = folder / "adapter_model.safetensors"
    complete = {
        **record,
        "parameters": {**record["parameters"], "adapter_bytes": weights.stat().st_size},
        "files": _digests(folder, [weights.name, "adapter_config.json", "before_after.png"]),
    }
    write_atomically(folder / "README.md", adapter_card(complete).encode())
    write_atomically(folder / "LICENSE", weights_licence(record["config"]).encode())
    write_results(folder / "results.json", complete)
    return complete


def _summary(record: Mapping[str, Any]) -> dict[str, Any]:
    """Mean PSNR (y-c4) by set and method, for the adapter's own configuration."""
    sums: dict[str, dict[str, list[float]]] = {}
    for row in record["scores"]["rows"]:
        if row["protocol"] == "y-c4":
            methods = sums.setdefault(row["dataset"], {})
            methods.setdefault(row["method"], []).append(row["psnr_db"])
    return {
        "protocol": "y-c4",
        "psnr_db": {
            dataset: {name: round(sum(v) / len(v), 3) for name, v in methods.items()}
            for dataset, methods in sums.items()
        },
    }


def _digests(folder: Path, names: list[str]) -> dict[str, str]:
    return {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in names
        if (folder / name).is_file()
    }


def push_folder(folder: Path, repo_id: str | None, *, default_name: str) -> str:
    """Upload a run's folder to the Hub, without its checkpoints.

    Args:
        folder: The folder.
        repo_id: ``user/name``; default ``UCIP_HUB_NAMESPACE/default_name``.
        default_name: Name in that namespace.

    Returns:
        The repository's id.

    Raises:
        HubError: If there is no repository to push to, or the Hub says no.
    """
    namespace = os.environ.get("UCIP_HUB_NAMESPACE")
    target = repo_id or (f"{namespace}/{default_name}" if namespace else None)
    if target is None:
        raise HubError("no repository: give --hub_model_id, or set UCIP_HUB_NAMESPACE")
    try:
        api = HfApi()
        target = api.create_repo(target, exist_ok=True).repo_id
        api.upload_folder(
            repo_id=target,
            folder_path=folder,
            commit_message=f"Upload {default_name}",
            ignore_patterns=["checkpoints/*", "tensorboard/*", ".*", "*.tmp"],
        )
    except (HfHubHTTPError, OSError) as error:
        raise HubError(
            f"cannot upload {folder} to {target}: {error}. The folder itself is complete"
        ) from error
    return target
