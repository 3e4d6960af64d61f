"""The detector's recipe: from images to a file that the package reads."""

import shutil

import pytest
from PIL import Image

from ucip_adapt.assets import image_folder
from ucip_adapt.data import list_images, read_rgb
from ucip_adapt.detection.pixels import load_detector


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

    def run(name, *folders):
        return recipe.main(
            recipe.Options(
                train_data_dir=tuple(map(str, folders or (folder,))),
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
    # In the same folder nothing is measured again, unless an image or a setting is another.
    looked = []
    measure = recipe.measure
    monkeypatch.setattr(recipe, "measure", lambda *a: looked.append(a[0].name) or measure(*a))
    assert run("a")["scores"] == record["scores"]
    assert looked == []
    turned = Image.open(folder / "3.png").rotate(180)
    turned.save(folder / "3.png")
    run("a")
    assert looked == ["3.png"]
    twin = folder.parent / "twin"
    shutil.copytree(folder, twin)
    run("c", folder, twin)  # names that are there twice
    assert len(list((tmp_path / "c" / "features").iterdir())) == 10
