"""What the package carries: CC0 images in a fixed split, and weights that may be passed on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import ucip_adapt.assets
from ucip_adapt.assets import image_folder, shipped_base_folder, shipped_bases
from ucip_adapt.assets.check import SHIPPABLE_IMAGES, weights_folder_problems
from ucip_adapt.data import list_images, read_rgb

ASSETS = Path(ucip_adapt.assets.__file__).parent
BASES = sorted(path for path in (ASSETS / "bases").glob("*") if path.is_dir())
SPLITS = ("train", "validation")
# Weights of other folders that ship; a clone has them beside the package.
ADAPTERS = sorted(path.parent for path in (ASSETS.parents[1] / "adapters").glob("*/*.safetensors"))


def digests(split: str) -> dict[str, str]:
    """Sha256 of the pixels by name."""
    return {
        path.stem: hashlib.sha256(read_rgb(path).tobytes()).hexdigest()
        for path in list_images(image_folder(split))
    }


def test_the_splits_are_fixed_and_share_no_image() -> None:
    train, validation = digests("train"), digests("validation")
    assert (len(train), len(validation)) == (12, 7)
    assert not set(train) & set(validation)
    assert len(set(train.values()) | set(validation.values())) == 19


A_PATH = "/".join(("", "home", "me", "images"))


@pytest.mark.parametrize("split", SPLITS)
def test_the_readme_beside_the_images_lists_exactly_them(split: str) -> None:
    readme = (ASSETS / "images" / "README.md").read_text(encoding="utf-8")
    [line] = [line for line in readme.splitlines() if line.startswith(f"| `{split}/` |")]
    listed = line.rstrip(" |").rsplit("|", 1)[1].split(",")
    assert sorted(name.strip() for name in listed) == sorted(digests(split))
    assert "CC0 1.0" in readme
    assert "Gianni Rosato" in readme


@pytest.mark.parametrize("split", SPLITS)
def test_images_are_lossless_and_as_large_as_the_readme_says(split: str) -> None:
    files = sorted(path for path in image_folder(split).iterdir())
    assert files == list_images(image_folder(split))
    for path in files:
        data = path.read_bytes()
        assert data[:4] + data[8:12] == b"RIFFWEBP"
        assert b"VP8L" in data[12:64], f"{path.name} is lossy WebP: the tuned codec has met it"
        assert read_rgb(path).shape == (576, 576, 3)


def test_images_are_the_ones_of_gb82(data_root: Path) -> None:
    files = list_images(data_root / "GB82" / "HR")
    originals = {path.stem.removesuffix("-lossless"): path for path in files}
    for split in SPLITS:
        for path in list_images(image_folder(split)):
            np.testing.assert_array_equal(read_rgb(path), read_rgb(originals[path.stem]))


def test_no_shipped_image_is_found_in_a_benchmark(data_root: Path) -> None:
    """Small grey thumbnails of all, compared pair by pair; equal pictures correlate above 0.95."""

    def thumbnails(paths: list[Path]) -> np.ndarray:
        small = []
        for path in paths:
            pixels = np.asarray(Image.fromarray(read_rgb(path)).convert("L").resize((24, 24)))
            small.append((pixels - pixels.mean()).ravel() / (pixels.std() + 1e-9) / 24)
        return np.stack(small)

    shipped = [path for split in SPLITS for path in list_images(image_folder(split))]
    tested = [
        path
        for name in ("Set5", "Set14", "BSD100")
        for path in list_images(data_root / name / "HR")
    ]
    assert len(tested) == 119
    assert (thumbnails(shipped) @ thumbnails(tested).T).max() < 0.95


def test_a_name_without_a_version_is_the_newest_base_and_older_ones_stay() -> None:
    kinds = ("ucip-tiny", "ucip-tiny-noprompt")
    assert {f"{kind}-v{n}" for kind in kinds for n in (1, 2, 3)} <= set(shipped_bases())
    for kind in kinds:
        assert shipped_base_folder(kind) == ASSETS / "bases" / f"{kind}-v3"
    assert shipped_base_folder("ucip-tinny") is None


def test_every_shipped_base_may_be_passed_on() -> None:
    assert BASES
    assert [problem for folder in BASES for problem in weights_folder_problems(folder)] == []


def test_every_shipped_adapter_may_be_passed_on() -> None:
    if not ADAPTERS:
        pytest.skip("there are no adapters beside the package")
    assert [problem for folder in ADAPTERS for problem in weights_folder_problems(folder)] == []


@pytest.mark.parametrize("folder", BASES, ids=lambda folder: folder.name)
def test_a_shipped_base_loads_and_is_as_small_as_promised(folder: Path) -> None:
    from ucip_adapt.models import UCIP

    base = UCIP.from_pretrained(folder)
    assert all(bool(torch.isfinite(weight).all()) for weight in base.state_dict().values())
    record = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert base.fingerprint == record["parameters"]["fingerprint"]
    assert base.num_parameters() == record["parameters"]["total"]
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert base.fingerprint in card
    assert folder.name in card
    if folder.name.startswith("ucip-tiny"):
        assert sum(path.stat().st_size for path in folder.iterdir()) < 2.5e6
        assert base.num_parameters() == 335_131
    sr = base.upscale(torch.rand(1, 3, 20, 24))
    assert sr.shape == (1, 3, 80, 96)


# --- the check itself, on good and bad folders


CARD = """---
library_name: ucip_adapt
license: cc-by-sa-4.0
---

# base

## Training

1. 100 steps

Images:

- the training images of CID22, CC BY-SA 4.0
- the training split of GB82 inside this package, CC0 1.0

## Scores

- Set5 and BSD100 are only measured on.
"""
LICENCE = "These weights are under CC BY-SA 4.0. Credit: Cloudinary (CID22).\n"


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Write a folder of weights that may ship, with changes."""

    def make(
        *,
        card: str = CARD,
        licence: str | None = LICENCE,
        images: tuple[str, ...] = ("CID22", "embedded"),
        start: str | None = None,
        earlier: list[dict] | None = None,
    ) -> Path:
        folder = tmp_path / "base"
        folder.mkdir()
        (folder / "README.md").write_text(card, encoding="utf-8")
        (folder / "config.json").write_text("{}", encoding="utf-8")
        (folder / "model.safetensors").write_bytes(b"weights")
        if licence is not None:
            (folder / "LICENSE").write_text(licence, encoding="utf-8")
        config = {"train_data_dir": images, "pretrained_model_name_or_path": start}
        record = {
            "config": config,
            "parameters": {"stages": [*(earlier or []), config]},
            "files": {"model.safetensors": hashlib.sha256(b"weights").hexdigest()},
        }
        (folder / "results.json").write_text(json.dumps(record), encoding="utf-8")
        return folder

    return make


def test_a_good_folder_has_no_problem(make_folder) -> None:
    assert set(SHIPPABLE_IMAGES) == {"CID22", "embedded"}
    assert weights_folder_problems(make_folder()) == []


def test_a_second_stage_whose_first_is_known_has_no_problem(make_folder) -> None:
    folder = make_folder(start="runs/stage1", earlier=[{"train_data_dir": ["CID22"]}])
    assert weights_folder_problems(folder) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"licence": None}, "LICENSE is missing or empty"),
        ({"licence": ""}, "LICENSE is missing or empty"),
        ({"licence": "Apache-2.0, CID22 by Cloudinary"}, "LICENSE does not say CC BY-SA 4.0"),
        ({"licence": "CC BY-SA 4.0"}, "LICENSE does not credit Cloudinary for CID22"),
        ({"images": ("CID22", "embedded", "BSDS500")}, "trained on 'BSDS500'; only CID22 and"),
        ({"images": ("elsewhere/CID22",)}, "trained on 'elsewhere/CID22'"),
        ({"images": ()}, "results.json names no training images"),
        ({"start": "runs/stage1"}, "started from 'runs/stage1', and results.json does not say"),
        (
            {"start": "s", "earlier": [{"train_data_dir": ["CID22"], "suite_dir": "built"}]},
            "trained on 'the images of the suite built'",
        ),
        (
            {"start": "runs/stage1", "earlier": [{"train_data_dir": ["DF2K"]}]},
            "trained on 'DF2K'",
        ),
        ({"card": CARD.replace("cc-by-sa-4.0", "other")}, "'license: cc-by-sa-4.0'"),
        (
            {"card": CARD.replace("Images:\n", "Images:\n\n- BSDS500 (research terms)")},
            "the card names other training images: BSDS500",
        ),
        (
            {"card": CARD.replace("- the training images of CID22, CC BY-SA 4.0\n", "")},
            "the card does not name CID22",
        ),
        (
            {"card": CARD.replace("training split of GB82", "GB82 images")},
            "the card does not name training split of GB82",
        ),
        ({"card": CARD.replace("\n- the", "\n  the")}, "the card lists no training images"),
        ({"card": CARD + f"\n`--data {A_PATH}`\n"}, f"one machine: {A_PATH}"),
    ],
)
def test_a_bad_folder_is_told_why(make_folder, change: dict, problem: str) -> None:
    problems = weights_folder_problems(make_folder(**change))
    assert any(problem in found for found in problems), problems


def test_weights_that_the_results_do_not_describe_are_noticed(make_folder) -> None:
    folder = make_folder()
    (folder / "model.safetensors").write_bytes(b"other weights")
    [problem] = weights_folder_problems(folder)
    assert "model.safetensors is not the file that results.json describes" in problem


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "README.md", "results.json"])
def test_a_missing_file_is_noticed(make_folder, name: str) -> None:
    folder = make_folder()
    (folder / name).unlink()
    [problem] = weights_folder_problems(folder)
    assert name in problem
    assert problem.endswith("is missing or empty")
