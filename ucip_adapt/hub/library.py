"""What adapters there are, what one says of itself, and whether it is whole."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ucip_adapt.assets import shipped_adapter_folder, shipped_adapters
from ucip_adapt.digests import sha256_of
from ucip_adapt.errors import AdapterError, ConfigError, UcipError, unknown_name
from ucip_adapt.hub.fetch import fetch_adapter, inside
from ucip_adapt.tuning.config import CONFIG_FILE, WEIGHTS_FILE, DynamicPromptConfig

__all__ = ["AdapterInfo", "Check", "describe_adapter", "locate_adapter", "verify_adapter"]


@dataclass(frozen=True)
class AdapterInfo:
    """An adapter as its own files describe it; text from them is text, whatever it says.

    Attributes:
        name: What it was asked for by.
        codec: Codec of its training images.
        qualities: The codec's qualities.
        base: Name of its base.
        base_fingerprint: Fingerprint of its base.
        trainable_set: What it replaces.
        trainable_blocks: Where.
        num_bytes: Size of the weights' file.
        sha256: Of the weights' file.
        gains: Gain over the base in dB, by image set, as measured after tuning.
    """

    name: str
    codec: str
    qualities: tuple[int, ...]
    base: str
    base_fingerprint: str
    trainable_set: str
    trainable_blocks: str
    num_bytes: int
    sha256: str
    gains: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Check:
    """One thing that `verify` looked at.

    Attributes:
        name: What.
        ok: Whether it is as it should be; None where it could not be checked.
        detail: What was found.
    """

    name: str
    ok: bool | None
    detail: str


def locate_adapter(
    source: str, *, revision: str | None = None, subfolder: str | None = None
) -> Path:
    """Find an adapter: a shipped name first, then a folder, then the Hub.

    Args:
        source: Name, folder, or ``"user/repository"``.
        revision: Branch, tag or commit; for the Hub alone.
        subfolder: Folder of the adapter inside the repository, or the folder; not for a shipped
            name.

    Returns:
        Folder with its files.

    Raises:
        UnknownNameError: If it is none of the three.
        AdapterError: If it is a path, and there is no such folder.
        ConfigError: If a revision is given with a shipped name or a folder, or a subfolder with a
            shipped name, or a subfolder leads out of the folder.
        HubError: If the Hub does not give it.

    Example:
        >>> locate_adapter("webp").name
        'webp'
    """
    if not source.strip():
        raise AdapterError("no adapter is named: give a name, a folder or user/repository")
    shipped = shipped_adapter_folder(source)
    if shipped is not None:
        mine = f"adapter '{source}' comes with the package and has no"
        if revision is not None:
            raise ConfigError(f"{mine} revisions; leave the revision out")
        if subfolder:
            raise ConfigError(f"{mine} subfolders; leave the subfolder out")
        return shipped
    if Path(source).is_dir():
        if revision is not None:
            raise ConfigError(
                f"'{source}' is a folder here and has no revisions; leave the revision out"
            )
        return Path(source, inside(subfolder))
    # A repository is user/name; anything with more, or with a dot in front, is a path gone wrong.
    parts = source.split("/")
    if len(parts) == 2 and all(parts) and not source.startswith((".", "~")):
        return fetch_adapter(source, revision=revision, subfolder=subfolder)
    if len(parts) > 1 or source.startswith((".", "~")):
        raise AdapterError(f"no folder '{source}'")
    raise unknown_name("adapter", source, shipped_adapters())


def describe_adapter(folder: Path, *, name: str | None = None) -> AdapterInfo:
    """Read what an adapter says of itself.

    Args:
        folder: Folder with its files.
        name: What to call it; default the folder's name.

    Returns:
        The description.

    Raises:
        AdapterError: If a file is missing or damaged.

    Example:
        >>> describe_adapter(locate_adapter("webp")).trainable_set
        'dpm+offset'
    """
    if not (folder / CONFIG_FILE).is_file():
        raise AdapterError(f"{folder} holds no adapter: there is no {CONFIG_FILE}")
    config = DynamicPromptConfig.from_pretrained(folder)
    weights = folder / WEIGHTS_FILE
    scores = (config.metrics or {}).get("psnr_db", {})
    gains = {
        dataset: gain
        for dataset, means in (scores.items() if isinstance(scores, dict) else ())
        if (gain := _gain(means)) is not None
    }
    return AdapterInfo(
        name=name or folder.name,
        codec=config.codec or "",
        qualities=tuple(config.qualities or ()),
        base=config.base_model_name_or_path or "",
        base_fingerprint=config.base_fingerprint or "",
        trainable_set=config.trainable_set,
        trainable_blocks=config.trainable_blocks,
        num_bytes=weights.stat().st_size,
        sha256=sha256_of(weights),
        gains=gains,
    )


def _gain(means: object) -> float | None:
    """Adapter less base in dB; None where a stranger's file has no such two numbers."""
    if not isinstance(means, dict):
        return None
    try:
        gain = round(float(means["adapter"]) - float(means["base"]), 3)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return gain if math.isfinite(gain) else None


def verify_adapter(folder: Path, *, base: str | None = None) -> list[Check]:
    """Look at everything that can be wrong with an adapter; nothing in it is run.

    Args:
        folder: Folder with its files.
        base: The base to load it on; default the one that it names, if that is shipped or on the
            Hub.

    Returns:
        What was checked, in order; later checks are left out where an earlier one makes them
        pointless.

    Example:
        >>> all(check.ok for check in verify_adapter(locate_adapter("webp")))
        True
    """
    try:
        info = describe_adapter(folder)
    except UcipError as error:
        return [Check("configuration", False, str(error))]
    checks = [
        Check(
            "configuration",
            True,
            f"{info.trainable_set} for {info.codec or 'no codec named'}, blocks "
            f"{info.trainable_blocks}",
        ),
        *_digests(folder),
    ]
    checks.append(_loads(folder, info, base))
    return checks


def _digests(folder: Path) -> list[Check]:
    """Compare files with the sums that the configuration and the results hold."""
    config = DynamicPromptConfig.from_pretrained(folder)
    wanted = {WEIGHTS_FILE: config.weights_sha256} if config.weights_sha256 else {}
    results = folder / "results.json"
    if results.is_file():
        try:
            recorded = json.loads(results.read_text(encoding="utf-8")).get("files", {}).items()
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            return [Check("results.json", False, f"cannot be read: {error}")]
        # Only plain names: a file from elsewhere must not choose what is opened here.
        wanted |= {name: sums for name, sums in recorded if Path(name).name == name}
    if not wanted:
        return [Check("checksums", None, "none are recorded")]
    from ucip_adapt.hub.folders import PICTURE  # brings PEFT along

    checks = []
    for name, digest in sorted(wanted.items()):
        path = folder / name
        if not os.path.isfile(path):  # False as well for what no file can be called
            if name == PICTURE:  # the wheel has no room for them
                checks.append(Check(f"sha256 of {name}", None, "the card's picture is not here"))
                continue
            checks.append(Check(f"sha256 of {name}", False, "the file is missing"))
            continue
        same = sha256_of(path) == digest
        found = "as recorded" if same else "differs: damaged, or changed after it was published"
        checks.append(Check(f"sha256 of {name}", same, found))
    return checks


def _loads(folder: Path, info: AdapterInfo, base: str | None) -> Check:
    """Put it on its base: fingerprint, names, shapes and values of all tensors."""
    from ucip_adapt.upscaler import load

    try:
        model = load(folder, base=base)
    except UcipError as error:
        return Check("loads on its base", False, str(error))
    return Check(
        "loads on its base", True, f"{model.base}, fingerprint {info.base_fingerprint[:12]}"
    )
