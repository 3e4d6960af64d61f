"""R27b, R28: what a stranger's adapter says is text; two writers of one folder are never mixed."""

from __future__ import annotations

import json
import re
import shutil
import sys
import threading
from pathlib import Path

import pytest

from ucip_adapt.assets import adapters_folder
from ucip_adapt.cli import main
from ucip_adapt.cli.adapters import _copy_whole
from ucip_adapt.data.degrade import parse_settings
from ucip_adapt.errors import CommandRefusedError, DataError
from ucip_adapt.hub.fetch import ADAPTER_FILES
from ucip_adapt.models import UCIP, UCIPConfig

WEBP = adapters_folder() / "webp"


@pytest.fixture
def opened():
    """Every path that Python opens while the test runs."""
    paths, listening = [], [True]

    def hook(event, arguments):
        if listening and event == "open" and isinstance(arguments[0], str):
            paths.append(arguments[0])

    sys.addaudithook(hook)  # it stays for the life of the process, and then listens no more
    yield paths
    listening.clear()


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """Make the shipped adapter with other words in its files, beside a secret and a trap."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("trap.py").write_text("open('sprung', 'w').close()\nUCIP = None\n")
    Path("secret.txt").write_text("secret")
    UCIP(UCIPConfig.preset("nano")).save_pretrained(tmp_path / "secret")
    folder = tmp_path / "adapter"
    shutil.copytree(WEBP, folder)

    def make(**values):
        config = folder / "adapter_config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | values))
        return folder

    return make


CASES = {
    "a command, and a module to import": {
        "codec": "command:touch sprung {in} {out}",
        "auto_mapping": {"base_model_class": "UCIP", "parent_library": "trap"},
    },
    "a folder as base": {"base_model_name_or_path": "secret"},
    "a path as base": {"base_model_name_or_path": "/no/such/secret"},
    "a trap in every text": dict.fromkeys(
        ("revision", "task_type", "codec", "trainable_blocks", "peft_version"), "trap:sprung"
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_run_imported_or_opened(hostile, opened, case, tmp_path, capsys):
    hostile(**CASES[case])
    (tmp_path / "a.png").write_bytes((WEBP / "before_after.png").read_bytes())
    for words in (
        ["adapters", "show", "adapter"],
        ["adapters", "verify", "adapter"],
        ["upscale", "a.png", "-o", "out", "--adapter", "adapter", "--max-pixels=1"],
        ["adapters", "publish", "adapter", "--repo-id", "user/x", "--dry-run"],
    ):
        assert main(words) in {0, 1, 2, 3}, words
    capsys.readouterr()
    assert not Path("sprung").exists()
    assert "trap" not in sys.modules
    assert [path for path in opened if "secret" in path] == []


def test_the_recorded_sums_name_only_files_of_the_folder(hostile, opened, capsys):
    folder = hostile()
    results = json.loads((folder / "results.json").read_text())
    results["files"] |= {"../secret.txt": "0" * 64, "/etc/hostname": "0" * 64, "..": "0" * 64}
    (folder / "results.json").write_text(json.dumps(results))
    main(["adapters", "verify", str(folder)])
    capsys.readouterr()
    assert [path for path in opened if "secret" in path or path.startswith("/etc/host")] == []


def test_a_list_too_deep_or_a_name_too_long_is_no_crash(hostile, capsys):
    folder = hostile()
    (folder / "results.json").write_text('{"files":' + 200_000 * "[" + 200_000 * "]" + "}")
    assert main(["adapters", "verify", str(folder)]) == 1
    assert "cannot be read" in capsys.readouterr().out
    (folder / "results.json").write_text(json.dumps({"files": {300 * "a": "0" * 64}}))
    assert main(["adapters", "verify", str(folder)]) == 1
    assert "the file is missing" in capsys.readouterr().out


@pytest.mark.parametrize("value", [10**400, float("nan"), float("inf"), "much", None])
def test_gains_that_are_no_numbers_are_left_out(hostile, value, capsys):
    folder = hostile()
    config = json.loads((folder / "adapter_config.json").read_text())
    config["metrics"] = {"psnr_db": {"a": {"adapter": value, "base": 1.5}, "b": {"base": 1}}}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    assert main(["adapters", "show", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gains"] == {}
    assert main(["adapters", "show", str(folder)]) == 0
    assert "none recorded" in capsys.readouterr().out


@pytest.mark.parametrize("files", [["a"], "a", 3])
def test_sums_of_another_form_are_no_crash(hostile, files, capsys):
    folder = hostile()
    (folder / "results.json").write_text(json.dumps({"files": files}))
    assert main(["adapters", "verify", str(folder)]) == 1
    assert "cannot be read" in capsys.readouterr().out


def test_a_codec_that_an_adapter_names_is_not_used_unless_the_user_names_it(hostile):
    folder = hostile(codec="command:touch sprung {in} {out}")
    named = json.loads((folder / "adapter_config.json").read_text())["codec"]
    with pytest.raises(CommandRefusedError, match="add --allow-command"):
        parse_settings(named)
    assert not Path("sprung").exists()


def test_two_copies_into_one_folder_are_never_mixed(tmp_path):
    """Each of many rounds ends with all files of one source; the other copy is told."""
    sources = []
    for name in "ab":
        folder = tmp_path / name
        folder.mkdir()
        for file in ADAPTER_FILES:
            (folder / file).write_text(f"{file} of {name}")
        sources.append(folder)
    for number in range(20):
        target, gate, errors = tmp_path / f"out{number}", threading.Barrier(2), []

        def copy(source, target=target, gate=gate, errors=errors):
            gate.wait()
            try:
                _copy_whole(source, target)
            except DataError as error:
                errors.append(str(error))

        threads = [threading.Thread(target=copy, args=(source,)) for source in sources]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        owners = {path.read_text()[-1] for path in target.iterdir()}
        assert len(owners) == 1
        assert {path.name for path in target.iterdir()} == set(ADAPTER_FILES)
        assert len(errors) == 1
        assert "cannot write" in errors[0]
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".tmp-")] == []


def test_a_folder_with_files_is_not_pulled_into(tmp_path, capsys):
    (tmp_path / "mine").write_text("mine")
    assert main(["adapters", "pull", "webp", "-o", str(tmp_path)]) == 2
    assert "is not an empty folder; give a new one" in capsys.readouterr().err
    assert main(["adapters", "pull", "webp", "-o", str(tmp_path / "new")]) == 0
    assert {p.name for p in (tmp_path / "new").iterdir()} == {p.name for p in WEBP.iterdir()}


def test_where_an_adapter_is_pulled_to(tmp_path, capsys, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert main(["adapters", "pull", "webp", "-o", str(tmp_path / "link")]) == 0
    assert {p.name for p in (tmp_path / "real").iterdir()} == {p.name for p in WEBP.iterdir()}
    assert (tmp_path / "link").is_symlink()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main(["adapters", "pull", "webp", "-o", "."]) == 2
    assert "is the folder you are in" in capsys.readouterr().err
    (tmp_path / "none").mkdir()
    assert main(["adapters", "pull", str(tmp_path / "none"), "-o", str(tmp_path / "new")]) == 2
    assert "none holds no adapter" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_nothing_unpacks_archives_or_pickles(repo_root):
    """R27: there is no code that could; ``torch.load`` is only called for plain data."""
    sources = {
        path: path.read_text(encoding="utf-8")
        for folder in ("ucip_adapt", "recipes")
        for path in (repo_root / folder).rglob("*.py")
    }
    assert len(sources) > 100
    opening = re.compile(
        r"tarfile|zipfile|unpack_archive|pickle\.loads?\(|joblib|allow_pickle=True"
    )
    assert [path for path, text in sources.items() if opening.search(text)] == []
    calls = [
        call for text in sources.values() for call in re.findall(r" torch\.load\([^`]*?\)", text)
    ]
    assert calls
    assert [call for call in calls if "weights_only=True" not in call] == []
