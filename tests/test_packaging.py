"""pyproject.toml, constraints.txt and the files of .ci: what they promise to each other."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import ucip_adapt


@pytest.fixture
def project(repo_root: Path) -> dict:
    text = (repo_root / "pyproject.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)["project"]


@pytest.fixture
def pins(repo_root: Path) -> dict[str, Version]:
    lines = (repo_root / "constraints.txt").read_text(encoding="utf-8").splitlines()
    entries = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): Version(version) for name, version in entries}


def load(script: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(script.stem, script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def requirements(project: dict) -> list[Requirement]:
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    return [Requirement(line) for group in groups for line in group]


def test_every_requirement_has_a_lower_bound_and_a_pin_that_fits(
    project: dict, pins: dict[str, Version]
) -> None:
    assert len(requirements(project)) > 15
    # Gradio wants an older Pillow than the one whose encoders the results were made with.
    unpinned = {line.name for line in requirements(project)} & {"gradio"}
    assert not unpinned & pins.keys()
    for requirement in requirements(project):
        if requirement.name in unpinned:
            assert [part.operator for part in requirement.specifier] == [">="], requirement
            continue
        assert [part.operator for part in requirement.specifier] == [">="], requirement
        assert pins[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_pins_fit_every_build_and_name_no_place(repo_root: Path, pins: dict[str, Version]) -> None:
    assert all(version.local is None for version in pins.values())
    text = (repo_root / "constraints.txt").read_text(encoding="utf-8")
    assert not re.search(r"://|@|--", re.sub(r"^#.*$", "", text, flags=re.MULTILINE))


def test_the_version_is_the_same_everywhere(repo_root: Path, project: dict) -> None:
    citation = (repo_root / "CITATION.cff").read_text(encoding="utf-8")
    assert project["version"] == ucip_adapt.__version__
    assert f"\nversion: {ucip_adapt.__version__}\n" in citation


REPORT = """<testsuites><testsuite>
<testcase name="a"/><testcase name="b"><failure message="no"/></testcase>
<testcase name="c"><skipped message="no data"/></testcase></testsuite></testsuites>"""


@pytest.mark.parametrize(("minimum", "code"), [("1", 0), ("2", 0), ("3", 1)])
def test_skipped_tests_do_not_count_towards_the_minimum(
    repo_root: Path, tmp_path: Path, minimum: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "fast.xml"
    report.write_text(REPORT, encoding="utf-8")
    assert load(repo_root / ".ci/count_tests.py").main(str(report), minimum) == code
    out = capsys.readouterr().out
    assert out.startswith(f"fast: 2 ran, 1 skipped, minimum {minimum}")
    assert ("TOO FEW" in out) is (code == 1)


def test_both_suites_have_a_minimum(repo_root: Path) -> None:
    text = (repo_root / ".ci/minimum-tests").read_text(encoding="utf-8")
    numbers = {name: int(number) for name, number in (line.split() for line in text.splitlines())}
    assert set(numbers) == {"fast", "slow"}
    assert min(numbers.values()) > 0


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", b"one \ntwo\n", "a.txt:1: blanks at the end of the line"),
        ("a.txt", b"one", "a.txt: the last line has no end"),
        ("a.txt", b"one\n\n", "a.txt: empty lines at the end"),
        ("a.txt", b"one\n" + b"<" * 7 + b" HEAD\n", "a.txt:2: a conflict marker"),
        ("a.bin", b"\xff" * 1_000_001, "a.bin: 1000001 bytes; large files live in"),
    ],
)
def test_stray_blanks_and_large_files_are_found(
    repo_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    name: str,
    data: bytes,
    message: str,
) -> None:
    check = load(repo_root / ".ci/check_files.py")
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(data)
    (found,) = check.problems(Path(name))
    assert found.startswith(message)
    assert check.main([name, "deleted.txt"]) == 1
    Path(name).write_bytes(b"one\n")
    assert check.main([name]) == 0
