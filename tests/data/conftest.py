"""Helpers of the data tests: real pixels from the embedded images, and small files of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ucip_adapt.assets import image_folder
from ucip_adapt.data import ArrayCache, read_rgb


@pytest.fixture(scope="session")
def photo() -> np.ndarray:
    """288 x 320 pixels of a photograph."""
    return read_rgb(image_folder("validation") / "nyc.webp")[100:388, 60:380]


@pytest.fixture
def cache(tmp_path: Path) -> ArrayCache:
    return ArrayCache(tmp_path / "cache")


@pytest.fixture
def photo_files(tmp_path: Path, photo: np.ndarray) -> Callable[..., list[Path]]:
    """Write different crops of the photograph as PNG files."""

    def write(count: int = 3, height: int = 96, width: int = 112) -> list[Path]:
        folder = tmp_path / "photos"
        folder.mkdir()
        paths = []
        for number in range(count):
            crop = photo[17 * number : 17 * number + height, 9 * number : 9 * number + width]
            paths.append(folder / f"photo{number}.png")
            Image.fromarray(np.ascontiguousarray(crop)).save(paths[-1])
        return paths

    return write
