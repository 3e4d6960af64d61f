"""The detector's recipe: from images to a file that the package reads."""

import numpy as np
import pytest
from PIL import Image

from ucip_adapt.assets import image_folder
from ucip_adapt.data import list_images, read_rgb
from ucip_adapt.detection.pixels import load_detector
from ucip_adapt.errors import DataError


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for place, path in enumerate(list_images(image_folder("train"))[:5]):
        crop = read_rgb(path)[100:260, 100:292]
        Image.fromarray(crop).save(folder / f"{place}.png")
    return folder


def test_it_learns_writes_and_repeats_itself(recipes, folder, tmp_path, monkeypatch):
    recipe = recipes("train_detector")
    few = {"none": {}, "jpeg": {"jpeg": (5, 10, 20)}, "webp": {"webp": (5, 20)}}
    monkeypatch.setattr(recipe, "CODECS", few)
    monkeypatch.setattr(recipe, "NAMES", tuple(few))
    monkeypatch.setattr(recipe, "RANGES", {"jpeg": (5, 20), "webp": (5, 20)})

    def run(name):
        return recipe.main(
            recipe.Options(
                train_data_dir=(str(folder),),
                max_train_steps=60,
                hidden=8,
                cache_dir=tmp_path / "cache",
                output_dir=tmp_path / name,
            )
        )

    record = run("a")
    assert record["scores"]["training"]["accuracy"] > 0.9
    file = tmp_path / "a" / "detector.safetensors"
    detector = load_detector(file)
    assert detector.codecs == tuple(few)
    assert detector.ranges == {"jpeg": (5, 20), "webp": (5, 20)}
    again = run("b")  # another folder: everything is measured anew
    assert again["scores"] == record["scores"]
    assert (tmp_path / "b" / "detector.safetensors").read_bytes() == file.read_bytes()
    kept = tmp_path / "a" / "features"
    with np.load(kept / "0.npz") as stored:
        changed = {**stored, "seed": 99}
    np.savez(kept / "0.npz", **changed)
    with pytest.raises(DataError, match="of other images or features"):
        run("a")
