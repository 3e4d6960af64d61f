"""A folder of small photographs, a suite of two slots, and one uninterrupted build of it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ucip_adapt.assets import image_folder
from ucip_adapt.data import read_rgb
from ucip_adapt.data.images import image_names, save_png
from ucip_adapt.suites import fill_suite, load_suite
from ucip_adapt.suites.build import BuildReport, build_suite
from ucip_adapt.suites.engines import open_engine
from ucip_adapt.suites.plan import BuildPlan

SUITE = """
description = "Two slots for tests"

[[slots]]
codec = "jpeg"
qualities = [10, 20, 30, 40]

[[slots]]
name = "web"
codec = "webp"
qualities = [10, 40]
"""


def write_photos(folder: Path, count: int) -> None:
    """Different crops of a photograph, some in a folder below."""
    image = read_rgb(image_folder("validation") / "nyc.webp")
    (folder / "below").mkdir(parents=True)
    for number in range(count):
        height, width = 66 + number, 90 - number  # not all multiples of 4
        crop = image[11 * number :, 7 * number :][:height, :width]
        place = folder / "below" if number % 3 == 0 else folder
        save_png(place / f"photo{number:02d}.png", np.ascontiguousarray(crop))


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten photographs of about 70 x 85 pixels."""
    folder = tmp_path_factory.mktemp("photos") / "hr"
    write_photos(folder, 10)
    return folder


@pytest.fixture(scope="session")
def suite_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("suite") / "pair.toml"
    path.write_text(SUITE)
    return path


@pytest.fixture(scope="session")
def build(photos: Path, suite_file: Path) -> Callable[..., BuildReport]:
    """``build(out, part=..., ...)`` builds in this process."""

    def go(
        out: Path,
        hr: Path = photos,
        suite: Path = suite_file,
        plan: dict[str, Any] | None = None,
        **options: Any,
    ) -> BuildReport:
        made = BuildPlan.make(
            fill_suite(load_suite(suite)),
            image_names(hr),
            **{"images_per_shard": 2, **(plan or {})},
        )
        with open_engine(workers=0) as engine:
            return build_suite(made, hr, out, engine, **options)

    return go


@pytest.fixture(scope="session")
def reference(build: Callable[..., BuildReport], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted build in one process: 6 settings, 5 blocks, 30 shards."""
    out = tmp_path_factory.mktemp("reference") / "out"
    report = build(out)
    assert (report.made, report.kept, report.complete) == (30, 0, True)
    return out


@pytest.fixture(scope="session")
def hashes() -> Callable[[Path], dict[str, str]]:
    """``hashes(out)``: sha256 of every file that counts, by name."""

    def of(out: Path) -> dict[str, str]:
        files = [*sorted((out / "data").rglob("*")), out / "suite.json"]
        return {
            path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
            if path.is_file()
        }

    return of


@pytest.fixture(scope="session")
def start() -> Callable[..., subprocess.Popen[str]]:
    """``start("--out", folder, ...)`` starts `ucip-adapt build-suite`."""

    def go(*words: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "ucip_adapt", "build-suite", *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )

    return go
