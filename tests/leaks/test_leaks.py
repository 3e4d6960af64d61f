"""The leak check finds planted copies of every kind, names them rightly, and nothing else."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from ucip_adapt.assets import image_folder
from ucip_adapt.cli import main
from ucip_adapt.data import list_images, read_rgb
from ucip_adapt.errors import ConfigError, DataError
from ucip_adapt.leaks import LeakReport, find_leaks
from ucip_adapt.leaks.pictures import Picture, make_picture


def scaled(image: Image.Image, factor: float) -> Image.Image:
    size = (round(image.width * factor), round(image.height * factor))
    return image.resize(size, Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def collage(image: Image.Image) -> Image.Image:
    """The mirror image of the left three quarters of a picture beside a pattern."""
    rows, columns = np.mgrid[:432, :500]
    pattern = ((rows // 29 + columns // 41) % 2 * 200).astype(np.uint8)
    canvas = Image.new("RGB", (932, 432))
    canvas.paste(Image.fromarray(pattern), (432, 0))
    canvas.paste(ImageOps.mirror(image.crop((0, 0, 432, 432))), (0, 0))
    return canvas


# What is done to a picture of 576 x 576; kind, mirrored and zoom (training pixels per test pixel).
PLANTS = {
    "equal": (lambda im: im, "equal", False, 1.0),
    "smaller": (lambda im: scaled(im, 0.4), "resized", False, 0.4),
    "mirrored": (lambda im: ImageOps.mirror(scaled(im, 0.83)), "resized", True, 0.83),
    "cropped": (lambda im: im.crop((30, 90, 400, 390)), "cropped", False, 1.0),
    "all at once": (
        lambda im: jpeg(ImageOps.mirror(scaled(im.crop((150, 60, 550, 500)), 0.6)), 50),
        "cropped",
        True,
        0.6,
    ),
    "beside": (collage, "cropped", True, 1.0),
    "framed": (lambda im: ImageOps.expand(scaled(im, 0.7), 60, "white"), "cropped", False, 0.7),
}


@pytest.fixture(scope="module")
def originals() -> list[Picture]:
    paths = list_images(image_folder("validation"))
    return [make_picture(path.stem, read_rgb(path)) for path in paths]


@pytest.fixture(scope="module")
def report(originals: list[Picture]) -> LeakReport:
    """One copy of each kind, each of another picture, among the embedded training images."""
    train = [make_picture(p.stem, read_rgb(p)) for p in list_images(image_folder("train"))[::2]]
    paths = list_images(image_folder("validation"))
    for (name, (change, *_)), path in zip(PLANTS.items(), paths, strict=False):
        copy = change(Image.fromarray(read_rgb(path)))
        train.append(make_picture(f"{name} of {path.stem}", np.array(copy)))
    return find_leaks(train, originals)


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_copy_is_found_and_named(name: str, report: LeakReport) -> None:
    _, kind, mirrored, zoom = PLANTS[name]
    (leak,) = (leak for leak in report.leaks if leak.train.startswith(f"{name} of"))
    assert leak.train == f"{name} of {leak.test}"
    assert (leak.kind, leak.mirrored) == (kind, mirrored)
    assert leak.zoom == pytest.approx(zoom, rel=0.02)
    assert leak.correlation > 0.7
    assert leak.hash_distance <= 80


def test_nothing_else_is_reported(report: LeakReport, originals: list[Picture]) -> None:
    assert len(report.leaks) == len(PLANTS) <= len(originals)
    assert report.nearest_other is None or report.nearest_other.correlation < 0.6


def test_shares_say_how_much_of_each_picture_is_in_the_other(report: LeakReport) -> None:
    (crop,) = (leak for leak in report.leaks if leak.train.startswith("cropped"))
    assert crop.train_share == pytest.approx(1.0, abs=0.03)
    assert crop.test_share == pytest.approx(370 * 300 / 576**2, abs=0.02)


def test_both_ways_round_give_the_same_pairs(originals: list[Picture]) -> None:
    dog = originals[0]
    part = make_picture(
        "part", read_rgb(list_images(image_folder("validation"))[0])[90:390, 60:500]
    )
    one, other = find_leaks([part], [dog]).leaks[0], find_leaks([dog], [part]).leaks[0]
    assert (one.train, one.test) == (other.test, other.train)
    assert one.zoom == pytest.approx(1 / other.zoom, rel=0.01)
    assert one.test_share == pytest.approx(other.train_share, abs=0.01)


def test_pictures_without_detail_are_found_where_they_are_equal() -> None:
    grey = make_picture("grey", np.full((40, 60, 3), 90, np.uint8))
    other = make_picture("other", np.full((40, 60, 3), 91, np.uint8))
    assert [leak.kind for leak in find_leaks([grey, other], [grey]).leaks] == ["equal"]


def test_the_woman_of_set5_is_found_in_another_size_and_frame(data_root: Path) -> None:
    """BSDS500 holds this photograph (302003) larger than Set5 and cut otherwise."""
    woman = Image.fromarray(read_rgb(data_root / "Set5/HR/img_005.png"))
    copy = ImageOps.expand(scaled(woman.crop((6, 9, 222, 340)), 1.35), (20, 30), (40, 60, 50))
    others = list_images(data_root / "train/BSDS500")[:6]
    train = [make_picture(path.stem, read_rgb(path)) for path in others]
    train.insert(3, make_picture("302003", np.array(jpeg(copy, 85))))
    test = [make_picture(p.stem, read_rgb(p)) for p in list_images(data_root / "Set5/HR")]
    (leak,) = find_leaks(train, test).leaks
    assert (leak.train, leak.test, leak.kind) == ("302003", "img_005", "cropped")
    assert leak.zoom == pytest.approx(1.35, rel=0.02)


def test_known_pairs_between_the_test_sets_are_found(data_root: Path) -> None:
    """Set5 and Set14 share a face, and the butterfly is a part of the monarch."""
    set5 = [make_picture(p.stem, read_rgb(p)) for p in list_images(data_root / "Set5/HR")]
    set14 = [make_picture(p.stem, read_rgb(p)) for p in list_images(data_root / "Set14/HR")]
    pairs = {(leak.train, leak.test) for leak in find_leaks(set14, set5).leaks}
    assert pairs == {("img_006", "img_004"), ("img_011", "img_003")}


def test_mistakes_are_typed(originals: list[Picture], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"threshold 1\.5 is not between 0 and 1"):
        find_leaks(originals, originals, threshold=1.5)
    with pytest.raises(DataError, match="no readable picture"):
        find_leaks([], originals)
    monkeypatch.setitem(sys.modules, "imagehash", None)
    with pytest.raises(DataError, match=r"needs imagehash.*pip install 'ucip-adapt\[leaks\]'"):
        find_leaks(originals, originals)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A training and a test folder without a picture in common."""
    paths = list_images(image_folder("validation"))
    for name, chosen in (("train", paths[:2]), ("test", paths[2:4])):
        (tmp_path / name).mkdir()
        for path in chosen:
            Image.fromarray(read_rgb(path)[:200, :200]).save(tmp_path / name / f"{path.stem}.png")
    return tmp_path / "train", tmp_path / "test"


def run(folders: tuple[Path, Path], *more: str) -> int:
    return main(["leaks", "--train", str(folders[0]), "--test", str(folders[1]), "--quiet", *more])


def test_the_exit_code_tells_clean_leaking_and_unreadable(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folders) == 0
    (folders[0] / "broken.png").write_bytes(b"no picture")
    assert run(folders) == 3
    assert "not read: train/broken.png" in capsys.readouterr().err

    found = next(folders[1].glob("*.png"))
    Image.open(found).save(folders[0] / "copy.bmp")
    assert run(folders, "--out", str(tmp_path / "report.json")) == 1
    assert f"test/{found.name}" in capsys.readouterr().out
    text = (tmp_path / "report.json").read_text(encoding="utf-8")
    content = json.loads(text)
    (leak,) = content["scores"]["leaks"]
    assert (leak["train"], leak["test"]) == ("train/copy.bmp", f"test/{found.name}")
    assert leak["kind"] == "equal"
    assert content["config"]["pictures"] == {"train": {"train": 4}, "test": {"test": 2}}
    assert [entry["name"] for entry in content["scores"]["unreadable"]] == ["train/broken.png"]
    assert str(tmp_path) not in text


def test_folders_of_one_name_are_told_apart_by_their_parents(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["a/x/HR", "b/x/HR", "b/other"]
    for name in names:
        shutil.copytree(folders[0], tmp_path / name)
    found = next(folders[1].glob("*.png"))
    Image.open(found).save(tmp_path / "b/x/HR/copy.bmp")
    report = tmp_path / "report.json"
    train = [str(tmp_path / name) for name in names]
    assert main(["leaks", "--train", *train, "--test", str(folders[1]), "--out", str(report)]) == 1
    assert "b/x/HR/copy.bmp" in capsys.readouterr().out
    text = report.read_text(encoding="utf-8")
    counts = json.loads(text)["config"]["pictures"]["train"]
    assert counts == {"a/x/HR": 2, "b/x/HR": 3, "other": 2}
    assert str(tmp_path) not in text


def test_folders_that_are_given_twice_or_are_missing_are_errors(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["leaks", "--train", str(folders[0]), str(folders[0]), "--test", "x"]) == 2
    assert "the folder 'train' is given twice" in capsys.readouterr().err
    assert main(["leaks", "--train", "embedded", "--test", str(tmp_path / "no")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
