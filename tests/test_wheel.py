"""The wheel: what is in it, and that it works in an environment that knows nothing of the clone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

LIMIT_BYTES = 15_000_000
# Folder of the clone -> its place in the wheel.
PLACES = {
    "ucip_adapt": "ucip_adapt",
    "recipes": "ucip_adapt/_recipes",
    "adapters": "ucip_adapt/_adapters",
}


def run(*command: str | Path, cwd: Path, timeout_seconds: int = 300) -> str:
    """Run a program outside the clone, away from variables that could lead back to it."""
    hidden = {"PYTHONPATH", "PYTHONHOME", "UCIP_DATA", "VIRTUAL_ENV"}
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
    )
    assert done.returncode == 0, f"{command} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def build(source: Path, folder: Path) -> Path:
    """Build a wheel without isolation: the backend is installed, so nothing is downloaded."""
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    run(sys.executable, "-m", "pip", "wheel", *options, "-w", folder, source, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(repo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(repo_root, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Interpreter of a new environment that holds the wheel.

    Its dependencies are lent by a path file: installing torch again would take minutes. Path files
    of the lending environment are not read, so its editable installation stays invisible.
    """
    folder = tmp_path_factory.mktemp("environment")
    builder = venv.EnvBuilder(symlinks=os.name != "nt")
    builder.create(folder)
    python = Path(builder.ensure_directories(folder).env_exe)
    options = ["--no-deps", "--no-index", "--quiet"]
    pip = [sys.executable, "-m", "pip", "--python", python]
    run(*pip, "install", *options, wheel, cwd=folder)
    site = run(python, "-c", "import site; print(site.getsitepackages()[-1])", cwd=folder)
    lent = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (Path(site.strip()) / "lent.pth").write_text("\n".join(sorted(lent)) + "\n", encoding="utf-8")
    return python


def test_the_wheel_is_small_and_pure_python(wheel: Path, names: set[str]) -> None:
    assert wheel.name == "ucip_adapt-0.1.0-py3-none-any.whl"
    assert wheel.stat().st_size < LIMIT_BYTES
    assert not [name for name in names if name.endswith((".so", ".pyd", ".dll", ".dylib"))]


def test_the_wheel_holds_every_file_of_its_folders_and_no_other(
    repo_root: Path, names: set[str]
) -> None:
    expected = set()
    for folder, place in PLACES.items():
        for path in (repo_root / folder).rglob("*"):
            relative = path.relative_to(repo_root / folder)
            unwanted = {"__pycache__", "runs", "ucip-tiny-noprompt-v1"}
            unwanted |= {"ucip-tiny-v2", "ucip-tiny-noprompt-v2", "ucip-tiny-v3-long-stage"}
            unwanted |= {"before_after.png"} if folder == "adapters" else set()
            left_out = unwanted & set(relative.parts)
            if path.is_file() and not left_out:
                expected.add(f"{place}/{relative.as_posix()}")
    assert {name for name in names if ".dist-info/" not in name} == expected


def test_the_wheel_holds_what_the_documentation_promises(names: set[str]) -> None:
    assert "ucip_adapt/py.typed" in names
    assert "ucip_adapt/_recipes/tune_prompts.py" in names
    assert "ucip_adapt-0.1.0.dist-info/licenses/LICENSE" in names
    assert "ucip_adapt-0.1.0.dist-info/licenses/NOTICE" in names
    assets = [name for name in names if name.startswith("ucip_adapt/assets/")]
    assert [name for name in assets if name.endswith("/model.safetensors")]
    assert [name for name in assets if name.endswith((".png", ".webp"))]


def test_a_wheel_built_from_the_source_archive_is_the_same(
    repo_root: Path, names: set[str], tmp_path: Path
) -> None:
    options = ["--no-isolation", "--sdist", "--outdir", tmp_path]
    run(sys.executable, "-m", "build", *options, repo_root, cwd=tmp_path)
    (archive,) = tmp_path.glob("*.tar.gz")
    (tmp_path / "again").mkdir()
    with zipfile.ZipFile(build(archive, tmp_path / "again")) as again:
        assert set(again.namelist()) == names


def test_it_tunes_two_steps_in_an_empty_environment(
    python: Path, repo_root: Path, tmp_path: Path
) -> None:
    where = run(python, "-c", "import ucip_adapt; print(ucip_adapt.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(python.parent.parent)
    assert not Path(where.strip()).is_relative_to(repo_root)

    command = python.parent / "ucip-adapt"
    assert run(command, "--version", cwd=tmp_path) == "ucip-adapt 0.1.0\n"
    run(command, "recipes", "copy", "mine", cwd=tmp_path)
    options = ["--codec", "webp", "--max_train_steps", "2", "--output_dir", "out"]
    output = run(python, "mine/tune_prompts.py", *options, cwd=tmp_path, timeout_seconds=900)
    assert "out" in output.splitlines()[-1]

    weights = tmp_path / "out" / "adapter_model.safetensors"
    assert 0 < weights.stat().st_size < 1_000_000
    assert (weights.parent / "adapter_config.json").is_file()
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert results["config"]["max_train_steps"] == 2
    assert results["environment"]["versions"]["ucip-adapt"] == "0.1.0"
