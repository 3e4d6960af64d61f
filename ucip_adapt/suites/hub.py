"""A built suite on the Hub: its card, and the upload of the very files that were built."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

from ucip_adapt.digests import sha256_of
from ucip_adapt.errors import DataError
from ucip_adapt.suites.published import public
from ucip_adapt.suites.read import BuiltSuite
from ucip_adapt.suites.records import Layout
from ucip_adapt.suites.shards import read_rows
from ucip_adapt.suites.suite import OUTSIDE_FORMS, WHOLE

__all__ = ["files_to_push", "push_suite", "render_suite_card", "write_suite_card"]

_KEPT_OUT = [".build/*", ".build/**", ".*"]


def render_suite_card(built: BuiltSuite) -> str:
    """The dataset card, from the manifest alone.

    Args:
        built: The suite.

    Returns:
        Markdown with a YAML head that makes each slot a configuration of the data set.
    """
    manifest = built.manifest
    slots = manifest["slots"]
    configs = [_config(WHOLE, ["data/*/*.parquet"], default=True)]
    for slot in slots:
        folders = [s["folder"] for s in manifest["settings"] if s["slot"] == slot["name"]]
        configs.append(_config(slot["name"], [f"data/{folder}/*.parquet" for folder in folders]))
    rows = "\n".join(
        f"| {slot['name']} | {slot['codec']} | {' '.join(map(str, slot['qualities']))} | "
        f"{'the same' if slot['codec'] == slot['asked'] else slot['asked'] + ': a stand-in'} |"
        for slot in slots
    )
    encoders = json.dumps(
        {setting["codec"]: setting["fingerprint"] for setting in manifest["settings"]}, indent=1
    )
    swapped = [f"{s['codec']} fills the slot of {s['named']}" for s in slots if s["substituted"]]
    description = manifest["description"] + (f"; here {' and '.join(swapped)}" if swapped else "")
    truth = (
        "Rows hold the files of the high-resolution images (`hr`)."
        if manifest["hr_mode"] == "bytes"
        else "Rows name the high-resolution images (`hr_path`, `hr_sha256`) and do not hold them."
    )
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    head = "\n".join(
        [
            *("---", "task_categories:", "- image-to-image"),
            *("tags:", "- super-resolution", "- image-compression", "- ucip-adapt"),
            *("configs:", *configs, "---"),
        ]
    )
    return f"""{head}

# {manifest["suite"]}: {manifest["num_images"]:,} images, compressed

{description}.

Each image was reduced to a quarter as MATLAB does (bicubic, {manifest["edge"]} edges), and the
whole small image was compressed and decoded. {manifest["rows"]:,} rows, \
{manifest["bytes"]:,} bytes. {truth}
Whoever publishes this must hold the rights to the images and say here under which licence.

| slot | codec | qualities | the paper's codec |
|---|---|---|---|
{rows}

```python
from datasets import load_dataset

rows = load_dataset("parquet", data_files="data/*/*.parquet", split="train", streaming=True)
```

`lq` is the decoded image, `stream` the bitstream where a common decoder reads it, `num_bytes` its
length and `bpp` its rate per low-resolution pixel. `lr_sha256` is that of the pixels before
compression. {_left_out(manifest["quarantined"])}

Made by `ucip-adapt build-suite` with {versions}; sha256 of every shard in `suite.json`. Encoders:

```json
{encoders}
```
"""


def _left_out(quarantined: list[dict[str, str]]) -> str:
    images = len({entry["image"] for entry in quarantined})
    if not images:
        return "No image was left out."
    return (
        f"{images} images could not be read, or not coded at some setting; `quarantined` in "
        "`suite.json` names them."
    )


def _config(name: str, patterns: list[str], *, default: bool = False) -> str:
    # In quotes, or YAML takes `no`, `null` and `2024` for something else than a name.
    lines = [f'- config_name: "{name}"', "  data_files:", "  - split: train", "    path:"]
    lines += [f"    - {pattern}" for pattern in patterns]
    return "\n".join([*lines, *(["  default: true"] if default else [])])


def write_suite_card(built: BuiltSuite) -> Path:
    """Write the card into the folder, unless its reader has changed one that is there.

    Args:
        built: The suite.

    Returns:
        The card's path.

    Raises:
        DataError: If it cannot be written.
    """
    path = built.folder / "README.md"
    ours = built.folder / ".build" / "card.sha256"
    try:
        written = ours.read_text(encoding="utf-8") if ours.is_file() else ""
        if not path.exists() or sha256_of(path) == written:
            path.write_text(render_suite_card(built), encoding="utf-8")
            ours.parent.mkdir(exist_ok=True)
            ours.write_text(sha256_of(path), encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write {path}: {error}") from error
    return path


def files_to_push(built: BuiltSuite) -> list[tuple[str, int]]:
    """What an upload would send: paths in the repository and sizes in bytes.

    Args:
        built: The suite.
    """
    shards = [(f"data/{s['name']}.parquet", int(s["bytes"])) for s in built.manifest["shards"]]
    others = [built.folder / name for name in ("README.md", "suite.json")]
    return [(p.name, p.stat().st_size) for p in others if p.is_file()] + shards


def _refuse_folders(built: BuiltSuite) -> None:
    """Earlier versions wrote whole paths of programs and folders into shards."""
    outside = {
        setting["folder"]
        for setting in built.manifest["settings"]
        if setting["codec"].startswith(OUTSIDE_FORMS)
    }
    for shard in built.manifest["shards"]:
        if shard["name"].partition("/")[0] not in outside:
            continue
        path = Layout(built.folder).shard(shard["name"])
        for row in itertools.islice(read_rows(path, ("codec", "encoder")), 1):
            said = [row["codec"], json.loads(row["encoder"])]
            if public(said) != said:
                raise DataError(
                    f"{path} was made by an earlier version and names folders of this machine "
                    f"({row['codec']}): build the suite anew into an empty folder, then publish it"
                )


def push_suite(built: BuiltSuite, repo_id: str, *, private: bool = False) -> str:
    """Upload the folder to the Hub as it is, so that checksums stay true.

    Args:
        built: The suite.
        repo_id: ``user/name`` of the data set.
        private: Whether a new repository is private.

    Returns:
        The repository's id.

    Raises:
        DataError: If the Hub says no, or shards of an earlier version name folders of this machine.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is httpx's
        HfHubHTTPError,
        HTTPError,
    )

    _refuse_folders(built)
    write_suite_card(built)
    try:
        api: Any = HfApi()
        target = api.create_repo(
            repo_id, repo_type="dataset", private=private, exist_ok=True
        ).repo_id
        api.upload_large_folder(
            repo_id=target,
            repo_type="dataset",
            folder_path=built.folder,
            allow_patterns=["README.md", "suite.json", "data/*/*.parquet"],
            ignore_patterns=_KEPT_OUT,
        )
    except (HTTPError, HfHubHTTPError, OSError, ValueError) as error:
        raise DataError(
            f"cannot upload {built.folder} to {repo_id}: {error}. The folder itself is complete"
        ) from error
    return str(target)
