"""MATLAB's bicubic x1/4 against a slow independent loop and every stored benchmark pair."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from ucip_adapt.data import bicubic_down4, bicubic_up4, modcrop, read_rgb
from ucip_adapt.data.bicubic import bicubic_down2
from ucip_adapt.data.images import list_images, match_by_stem
from ucip_adapt.errors import DataError, UnknownNameError

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
HR_FILES = sorted((GOLDEN / "bicubic").glob("*.hr.png"))


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    """The script that made the golden pairs."""
    spec = importlib.util.spec_from_file_location("make_bicubic", GOLDEN / "make_bicubic.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_there_are_golden_pairs() -> None:
    assert len(HR_FILES) >= 3


@pytest.mark.parametrize("edge", ["edge", "symmetric"])
@pytest.mark.parametrize("hr_file", HR_FILES, ids=lambda path: path.name.split(".")[0])
def test_golden_pairs_are_met_bit_for_bit(hr_file: Path, edge: str) -> None:
    stored = read_rgb(hr_file.with_name(hr_file.name.replace(".hr.", f".{edge}.")))
    np.testing.assert_array_equal(bicubic_down4(read_rgb(hr_file), edge=edge), stored)


def test_the_golden_pairs_can_tell_wrong_methods_apart() -> None:
    """What looks right and is not: the other edge rule, plain Pillow, the other axis first."""
    wrong = {"rule": 0, "pillow": 0, "axes": 0}
    for hr_file in HR_FILES:
        hr = read_rgb(hr_file)
        stored = read_rgb(hr_file.with_name(hr_file.name.replace(".hr.", ".edge.")))
        plain = Image.fromarray(hr).resize((16, 12), Image.Resampling.BICUBIC)
        swapped = bicubic_down4(hr.transpose(1, 0, 2), edge="edge").transpose(1, 0, 2)
        wrong["rule"] += not np.array_equal(bicubic_down4(hr, edge="symmetric"), stored)
        wrong["pillow"] += not np.array_equal(np.asarray(plain), stored)
        wrong["axes"] += not np.array_equal(swapped, stored)
    assert all(wrong.values()), wrong


@pytest.mark.parametrize("edge", ["edge", "symmetric"])
def test_the_loop_that_made_the_pairs_agrees_on_noise_and_tiny_sides(
    maker: ModuleType, edge: str
) -> None:
    rng = np.random.default_rng(0)
    # 4 pixels are mirrored twice by the kernel's 16 taps; 0 and 255 make it overshoot and clip.
    # Pillow begins with the height where the width is more than twice of it.
    for shape in [(4, 4, 3), (4, 20, 3), (24, 8, 3), (40, 400, 3), (200, 24, 3)]:
        for image in (
            rng.integers(0, 256, shape, dtype=np.uint8),
            rng.choice(np.array([0, 255], np.uint8), shape),
        ):
            slow = maker.reduce_image(image, edge)
            np.testing.assert_array_equal(bicubic_down4(image, edge=edge), slow)


@pytest.mark.parametrize("shape", [(40, 400, 3), (400, 40, 3)])
def test_half_and_quarter_take_rows_first_whatever_the_shape(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    padded = Image.fromarray(np.pad(image, ((16, 16), (16, 16), (0, 0)), mode="symmetric"))
    for scale, reduce in ((2, bicubic_down2), (4, bicubic_down4)):
        width, height = padded.width // scale, padded.height // scale
        rows = padded.resize((padded.width, height), Image.Resampling.BICUBIC)
        both = np.asarray(rows.resize((width, height), Image.Resampling.BICUBIC))
        frame = 16 // scale
        np.testing.assert_array_equal(reduce(image), both[frame:-frame, frame:-frame])


def test_the_maker_still_makes_the_stored_files(maker: ModuleType) -> None:
    assert {path.name.split(".")[0] for path in HR_FILES} == {
        source.split("/")[1] for source in maker.CROPS
    }
    hr = read_rgb(HR_FILES[0])
    stored = read_rgb(HR_FILES[0].with_name(HR_FILES[0].name.replace(".hr.", ".edge.")))
    np.testing.assert_array_equal(maker.reduce_image(hr, "edge"), stored)


def stored_pairs(root: Path, name: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    pairs = match_by_stem(list_images(root / name / "HR"), list_images(root / name / "LRbicx4"))
    for hr, lr in pairs:
        yield read_rgb(hr), read_rgb(lr)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("Set5", 5),
        ("Set14", 14),
        ("BSD100", 100),
        pytest.param("Urban100", 100, marks=pytest.mark.slow),
    ],
)
def test_every_stored_benchmark_pair_is_met_bit_for_bit(
    data_root: Path, name: str, count: int
) -> None:
    equal = [
        np.array_equal(bicubic_down4(hr, edge="edge"), lr)
        for hr, lr in stored_pairs(data_root, name)
    ]
    assert (sum(equal), len(equal)) == (count, count)


@pytest.mark.parametrize("shape", [(6, 8, 3), (8, 7, 3), (0, 8, 3), (3, 3, 3)])
def test_sides_that_do_not_divide_by_4_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=f"{shape[0]} x {shape[1]} pixels .* modcrop"):
        bicubic_down4(np.zeros(shape, np.uint8))


def test_an_unknown_edge_rule_names_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"edge rule 'mirror'.* Known: edge, symmetric"):
        bicubic_down4(np.zeros((8, 8, 3), np.uint8), edge="mirror")  # type: ignore[arg-type]


def test_modcrop_keeps_the_top_left(photo: np.ndarray) -> None:
    np.testing.assert_array_equal(modcrop(photo[:30, :39]), photo[:28, :36])


def test_enlarging_has_the_kernel_of_a_half() -> None:
    """A step between two pixels shows Keys' kernel itself; a = -0.75 would give other values."""
    step = np.zeros((1, 8, 3), np.uint8)
    step[:, 4:] = 128
    a, steps = -0.5, np.arange(4) / 4 + 0.125

    def far(x: np.ndarray) -> np.ndarray:
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a

    def near(x: np.ndarray) -> np.ndarray:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1

    # Between pixels 3 and 4, whose centres are at 13.5 and 17.5 of the enlarged line.
    expected = 128 * (near(1 - steps) + far(2 - steps))
    enlarged = bicubic_up4(step)[0, :, 0]
    np.testing.assert_array_equal(enlarged[14:18], np.floor(expected + 0.5))
