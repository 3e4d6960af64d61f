"""Sets of images go by names; these tests bring others under the same names."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ucip_adapt.errors import ConfigError, DataError
from ucip_adapt.experiments.cells import Cell
from ucip_adapt.experiments.groups import read_experiments
from ucip_adapt.experiments.ledger import Ledger
from ucip_adapt.experiments.pictures import (
    FILE,
    check_pictures,
    digests_of,
    read_pictures,
    sets_of,
)
from ucip_adapt.experiments.runner import Runner

ROOT = Path(__file__).resolve().parents[2]
SIDE = 24


def write_set(data: Path, name: str = "Set5", *, ending: str = "png", seed: int = 0) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
    for folder, step in (("HR", 1), ("LRbicx4", 4)):
        (data / name / folder).mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(pixels):
            path = data / name / folder / f"{number}.{ending}"
            Image.fromarray(np.ascontiguousarray(image[::step, ::step])).save(path)
    return pixels


def test_the_digest_is_that_of_names_and_pixels_in_order(tmp_path: Path) -> None:
    pixels = write_set(tmp_path)
    wanted = hashlib.sha256()
    for number, image in enumerate(pixels):
        for step in (1, 4):
            side = SIDE // step
            wanted.update(f"{number} {(side, side, 3)}\n".encode())
            wanted.update(image[::step, ::step].tobytes())
    assert digests_of(["Set5"], tmp_path) == {"Set5": wanted.hexdigest()}


def test_files_may_differ_pixels_may_not(tmp_path: Path) -> None:
    write_set(tmp_path / "png")
    write_set(tmp_path / "bmp", ending="bmp")
    same = digests_of(["Set5"], tmp_path / "png")
    assert digests_of(["Set5"], tmp_path / "bmp") == same
    for place in ("HR/1.bmp", "LRbicx4/0.bmp"):
        path = tmp_path / "bmp" / "Set5" / place
        before = path.read_bytes()
        with Image.open(path) as image:
            changed = np.array(image)
        changed[0, 0, 0] ^= 1
        Image.fromarray(changed).save(path)
        assert digests_of(["Set5"], tmp_path / "bmp") != same, place
        path.write_bytes(before)
    for folder in ("HR", "LRbicx4"):
        (tmp_path / "bmp" / "Set5" / folder / "0.bmp").rename(
            tmp_path / "bmp" / "Set5" / folder / "2.bmp"
        )
    assert digests_of(["Set5"], tmp_path / "bmp") != same, "another order and other names"


def test_training_images_and_parts_count_by_themselves(tmp_path: Path) -> None:
    write_set(tmp_path)
    (tmp_path / "train").mkdir()
    (tmp_path / "Set5" / "HR").rename(tmp_path / "train" / "mine")
    write_set(tmp_path)
    found = digests_of(["Set5", "Set5/every2", "train/mine"], tmp_path)
    assert len(set(found.values())) == 3
    with pytest.raises(DataError, match="no folder"):
        digests_of(["train/other"], tmp_path)


def test_what_cells_are_made_of(tmp_path: Path) -> None:
    cells = [
        Cell("webp", "bicubic", evaluate_on="short"),
        Cell("webp", "dpm", "b", evaluate_on="validation", train_data="mine+embedded"),
    ]
    measured = ["BSD100/every4", "Set14", "Set5", "Urban100/subset25"]
    assert sets_of(cells, tmp_path) == [*measured, "train/mine"]
    also = Cell("webp", "bicubic", evaluate_on="validation", also_measure=("jpeg",))
    assert sets_of([also], tmp_path) == ["Set14", "Set5"]
    full = Cell("webp", "base", "b")
    assert "Manga109" not in sets_of([full], tmp_path)
    (tmp_path / "Manga109").mkdir()
    assert "Manga109" in sets_of([full], tmp_path)


def test_other_pictures_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    cells, runs = tmp_path / "cells", tmp_path / "runs"
    both = {"--results_dir": cells, "--runs_dir": runs}
    check_pictures({"Set5": "a" * 64}, {"--results_dir": cells}, tmp_path)
    with pytest.raises(ConfigError, match=r"Set5 in .*not the pictures.*cells.*--results_dir"):
        check_pictures({"Set14": "c" * 64, "Set5": "b" * 64}, both, tmp_path)
    assert read_pictures(cells) == {"Set5": "a" * 64}
    assert not runs.exists()
    check_pictures({"Set14": "c" * 64}, both, tmp_path)
    assert read_pictures(cells) == {"Set14": "c" * 64, "Set5": "a" * 64}
    assert read_pictures(runs) == {"Set14": "c" * 64}
    with pytest.raises(ConfigError, match=r"runs.*--runs_dir"):
        check_pictures({"Set14": "d" * 64}, {"--runs_dir": runs}, tmp_path)


@pytest.mark.parametrize("text", ["Set5\n", "abc  Set5\n", "a" * 64 + "  \n"])
def test_a_damaged_file_is_named_with_its_line(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text("a" * 64 + "  Set14\n" + text)
    with pytest.raises(DataError, match=rf"{FILE}:2: not a line"):
        read_pictures(tmp_path)


def test_the_runner_looks_before_it_trains(tmp_path: Path, ledger_of) -> None:
    text = '[groups.g]\ncodec = "webp"\nmethod = "bicubic"\nevaluate_on = "small"\n'
    ledger = ledger_of(text, tmp_path / "cells")
    runner = Runner(ledger, tmp_path / "no-recipes", tmp_path / "runs", data=tmp_path / "data")
    write_set(tmp_path / "data")
    with pytest.raises(DataError, match="Set14"):
        runner.run()
    write_set(tmp_path / "data", "Set14")
    assert len(runner.run().failed) == 1, "there is no recipe, but the pictures are noted"
    write_set(tmp_path / "data", "Set14", seed=1)
    with pytest.raises(ConfigError, match=r"Set14 in .*not the pictures"):
        runner.run()


@pytest.mark.slow
def test_the_committed_cells_are_of_the_pictures_at_hand(data_root: Path) -> None:
    folder = ROOT / "results" / "cells"
    ledger = Ledger(read_experiments(ROOT / "recipes" / "experiments.toml"), folder)
    done = [cell for cell in ledger.cells().values() if ledger.path(cell).is_file()]
    wanted = [name for name in sets_of(done, data_root) if name != "Manga109"]
    assert {"Set5", "Urban100", "train/CID22"} <= set(wanted)
    kept = read_pictures(folder)
    assert digests_of(wanted, data_root) == {name: kept[name] for name in wanted}
