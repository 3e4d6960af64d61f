from __future__ import annotations

import ast
from pathlib import Path

import pytest

import ucip_adapt
from ucip_adapt.cli import main, recipes


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small folder of recipes with what a clone may hold beside them."""
    folder = tmp_path / "source"
    for name, text in {
        "tune.py": '"""Tune prompts.\n\nAt length.\n"""\n',
        "README.md": "# Recipes\n",
        "configs/tune/webp.toml": "seed = 0\n",
        "runs/tune/notes.md": "a result\n",
        "__pycache__/tune.pyc": "",
        "picture.png": "",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(recipes, "recipes_folder", lambda: folder)
    return folder


def files_in(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_list_shows_first_lines(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "list"]) == 0
    assert "tune.py  Tune prompts.\n" in capsys.readouterr().out


def test_copy_writes_scripts_and_configurations_only(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "new" / "mine"
    assert main(["recipes", "copy", str(target)]) == 0
    assert files_in(target) == {"tune.py", "README.md", "configs/tune/webp.toml"}
    assert (target / "tune.py").read_bytes() == (source / "tune.py").read_bytes()
    assert capsys.readouterr().out == f"3 files in {target}\n"


def test_copy_overwrites_nothing_unless_told(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "mine"
    target.mkdir()
    (target / "tune.py").write_text("my own", encoding="utf-8")
    (target / "other.py").write_text("untouched", encoding="utf-8")
    assert main(["recipes", "copy", str(target)]) == 2
    assert "already holds tune.py; nothing was copied." in capsys.readouterr().err
    assert files_in(target) == {"tune.py", "other.py"}
    assert (target / "tune.py").read_text(encoding="utf-8") == "my own"

    assert main(["recipes", "copy", str(target), "--overwrite"]) == 0
    assert (target / "tune.py").read_bytes() == (source / "tune.py").read_bytes()
    assert (target / "other.py").read_text(encoding="utf-8") == "untouched"


def test_a_file_in_the_place_of_the_folder_is_a_known_error(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").write_text("a file", encoding="utf-8")
    assert main(["recipes", "copy", str(tmp_path / "mine")]) == 2
    assert capsys.readouterr().err.startswith(f"error: cannot write {tmp_path / 'mine'}")


def test_a_full_disk_is_said_of_the_file_that_is_written(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(read: Path, written: Path) -> None:
        raise OSError(28, "No space left on device", str(read))  # as the kernel's copy says it

    monkeypatch.setattr("shutil.copyfile", full)
    target = tmp_path / "mine"
    assert main(["recipes", "copy", str(target)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: cannot write {target}/")
    assert str(source) not in said


def test_an_installation_without_recipes_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        ucip_adapt, "__file__", str(tmp_path / "lib" / "ucip_adapt" / "__init__.py")
    )
    assert main(["recipes", "list"]) == 2
    assert capsys.readouterr().err.startswith("error: there are no recipes in or beside ")


def test_the_recipes_in_the_wheel_come_before_a_folder_beside_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "ucip_adapt"
    for folder in (tmp_path / "recipes", package / "_recipes"):
        folder.mkdir(parents=True)
        (folder / "a.py").write_text("", encoding="utf-8")
    monkeypatch.setattr(ucip_adapt, "__file__", str(package / "__init__.py"))
    assert recipes.recipes_folder() == (package / "_recipes").resolve()


def test_the_clones_recipes_all_have_a_first_line(repo_root: Path) -> None:
    scripts = [path for path in recipes.recipe_files(repo_root / "recipes") if path.suffix == ".py"]
    assert scripts
    for script in scripts:
        tree = ast.parse((repo_root / "recipes" / script).read_text(encoding="utf-8"))
        assert (ast.get_docstring(tree) or "").partition("\n")[0], f"{script} has no docstring"
