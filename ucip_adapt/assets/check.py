"""Whether a folder of weights may ship: its licence, and the images that it says it was made from.

Weights inside the package are trained on CID22 (CC BY-SA 4.0) and the training split of GB82 (CC0)
only; other image sets are for experiments, because their terms do not allow passing results on or
are not known.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ucip_adapt.hub.stages import image_sets

__all__ = ["SHIPPABLE_IMAGES", "weights_folder_problems"]

SHIPPABLE_IMAGES = {"CID22": "CID22", "embedded": "training split of GB82"}
"""Names that ``--train_data_dir`` may have had, with the words that a card says it in."""

_LICENCE_ID = "cc-by-sa-4.0"
_WEIGHTS = ("model.safetensors", "adapter_model.safetensors")
_CONFIGS = ("config.json", "adapter_config.json")
# Folders of one machine have no place in what everybody gets.
_MACHINE_PATH = re.compile(r"(?<![\w.:/<])/[A-Za-z][\w.-]*/[^\s\"'`]*")


def weights_folder_problems(folder: Path) -> list[str]:
    """Say what keeps a folder of weights from shipping.

    Args:
        folder: A base's or an adapter's folder, as ``pretrain_base.py`` and ``tune_prompts.py``
            leave it.

    Returns:
        One sentence per problem; empty if there is none.

    Example:
        >>> weights_folder_problems(Path("no/such/folder"))[0]
        'no/such/folder: no such folder'
    """
    if not folder.is_dir():
        return [f"{folder.as_posix()}: no such folder"]
    found = [*_file_problems(folder)]
    if not found:
        results = json.loads(_read(folder, "results.json"))
        names = _trained_on(results)
        found += _results_problems(folder, results, names)
        found += _card_problems(_read(folder, "README.md"), names)
        found += _licence_problems(_read(folder, "LICENSE"), names)
        for name in ("README.md", "LICENSE", "results.json", *_CONFIGS):
            if (folder / name).is_file():
                paths = _MACHINE_PATH.findall(_read(folder, name))
                found += [f"{name} names a folder of one machine: {path}" for path in paths]
    return [f"{folder.as_posix()}: {problem}" for problem in found]


def _read(folder: Path, name: str) -> str:
    return (folder / name).read_text(encoding="utf-8")


def _file_problems(folder: Path) -> Iterator[str]:
    for choice in ((name,) for name in ("LICENSE", "README.md", "results.json")):
        yield from _missing(folder, choice)
    yield from _missing(folder, _WEIGHTS)
    yield from _missing(folder, _CONFIGS)


def _missing(folder: Path, choice: tuple[str, ...]) -> Iterator[str]:
    if not any((folder / name).is_file() and (folder / name).stat().st_size for name in choice):
        yield f"{' or '.join(choice)} is missing or empty"


def _trained_on(results: dict[str, Any]) -> list[str]:
    """Image sets of all training stages that led to the weights."""
    stages = results["parameters"].get("stages") or [results["config"]]
    return sorted({name for stage in stages for name in image_sets(stage)})


def _results_problems(folder: Path, results: dict[str, Any], names: list[str]) -> Iterator[str]:
    if not names:
        yield "results.json names no training images"
    for name in names:
        if name not in SHIPPABLE_IMAGES:
            yield f"trained on '{name}'; only {' and '.join(SHIPPABLE_IMAGES)} may be in what ships"
    stages = results["parameters"].get("stages")
    start = results["config"].get("pretrained_model_name_or_path")
    if stages is not None and start and len(stages) < 2:
        yield f"started from '{start}', and results.json does not say what that was trained on"
    for name in (name for name in _WEIGHTS if (folder / name).is_file()):
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        if results.get("files", {}).get(name) != digest:
            yield f"{name} is not the file that results.json describes (sha256 {digest[:12]}...)"


def _card_problems(card: str, names: list[str]) -> Iterator[str]:
    head = card.split("\n---", 1)[0]
    if f"license: {_LICENCE_ID}" not in head:
        yield f"the card's metadata does not say 'license: {_LICENCE_ID}'"
    sections = [part for part in re.split(r"(?m)^## ", card) if part.startswith("Training")]
    lines = [line for part in sections for line in part.splitlines() if line.startswith("- ")]
    if not lines:
        yield "the card lists no training images (a '- ' line under '## Training')"
    for line in lines:
        if not any(words in line for words in SHIPPABLE_IMAGES.values()):
            yield f"the card names other training images: {line[2:]}"
    for name in names:
        words = SHIPPABLE_IMAGES.get(name)
        if words and not any(words in line for line in lines):
            yield f"the card does not name {words} among its training images"


def _licence_problems(licence: str, names: list[str]) -> Iterator[str]:
    if "CC BY-SA 4.0" not in licence:
        yield "LICENSE does not say CC BY-SA 4.0"
    if "CID22" in names and "Cloudinary" not in licence:
        yield "LICENSE does not credit Cloudinary for CID22"
