from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ucip_adapt
from ucip_adapt.cli import COMMANDS, main
from ucip_adapt.cli import codecs as codecs_command
from ucip_adapt.codecs import CODECS, Availability, list_codecs

HEAVY = {
    "torch",
    "peft",
    "accelerate",
    "evaluate",
    "datasets",
    "gradio",
    "transformers",
    "numpy",
    "PIL",
}


def imported_by(code: str) -> set[str]:
    """Which heavy modules a fresh interpreter holds after running the code."""
    code += f"\nimport sys; print('HEAVY', *sorted({HEAVY!r} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_every_command(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    text = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert f"  {name} " in text
        assert command.summary in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"ucip-adapt {ucip_adapt.__version__}\n"


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["recipes", "list"]])
def test_light_commands_import_nothing_heavy(argv: list[str]) -> None:
    assert imported_by(f"from ucip_adapt.cli import main; main({argv!r})") == set()


def test_the_list_of_codecs_needs_no_torch() -> None:
    assert "torch" not in imported_by("from ucip_adapt.cli import main; main(['codecs'])")


def test_the_options_of_every_command_need_no_torch() -> None:
    code = """
from ucip_adapt.cli import COMMANDS, main
for name in COMMANDS:
    try:
        main([name, "--help"])
    except SystemExit:
        pass
"""
    assert not {"torch", "peft", "gradio", "datasets", "evaluate"} & imported_by(code)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_of_its_own(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    assert capsys.readouterr().out.startswith(f"usage: ucip-adapt {name}")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["codes"], "error: unknown command 'codes'; did you mean 'codecs'? Known: "),
        (
            ["codecs", "--jsn"],
            "error: unknown flag '--jsn'; did you mean '--json'? Known: --allow-command, --check, ",
        ),
        (["codecs", "webp"], "error: unexpected argument 'webp'\n"),
        (["recipes", "copy"], "error: the following arguments are required: DIR\n"),
        (["recipes", "copy", "x", "--over_write"], "error: unknown flag '--over-write'; did you "),
        (["recipes", "drop"], "error: list|copy: invalid choice: 'drop'"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(message)
    assert captured.err.count("\n") == 1


def test_the_exit_code_reaches_the_shell() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "ucip_adapt", "no-such"], capture_output=True, text=True
    )
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("error: unknown command 'no-such'")


def test_codecs_as_table_and_json_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["codecs"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert main(["codecs", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)
    assert [line.split()[0] for line in lines] == list(CODECS)
    assert [entry["name"] for entry in entries] == list(CODECS)
    webp = entries[list(CODECS).index("webp")]
    assert {key: value for key, value in webp.items() if key != "version"} == {
        "name": "webp",
        "family": "webp",
        "parameter": "quality",
        "qualities": [10, 20, 30, 40],
        "available": True,
        "reason": "",
        "install": "",
        "faithful": True,
    }
    assert webp["version"].startswith("Pillow ")


def test_a_missing_codec_is_a_row_that_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, _ = list_codecs()[0]
    gone = Availability(ok=False, reason="no library", install="pip install it")
    monkeypatch.setattr(codecs_command, "list_codecs", lambda: [(spec, gone)])
    assert main(["codecs"]) == 0
    assert capsys.readouterr().out.endswith("no: no library; pip install it\n")


def test_env_as_table_and_json_say_the_same(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["env", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert main(["env"]) == 0
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    python = ".".join(map(str, sys.version_info[:3]))
    assert rows["python"] == found["versions"]["python"] == python
    assert rows["torch"] == found["versions"]["torch"]
    assert rows["cpu_cores"] == str(found["cpu_cores"])
    assert set(rows) - {"item"} == (set(found) - {"versions"}) | set(found["versions"])


def test_env_names_a_gpu_that_a_run_could_use(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"a GPU as {device}")
    assert main(["env", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gpu"] == "a GPU as cuda"


@pytest.mark.parametrize(
    ("command", "flag", "rest"),
    [
        ("codecs", "check", []),
        ("rd", "codecs", ["--images", "i", "--out", "o"]),
        ("leaks", "train", ["--test", "t"]),
        ("leaks", "test", ["--train", "t"]),
        ("report", "adapters", ["results", "--out", "o"]),
    ],
)
def test_a_list_in_two_flags_is_both(command: str, flag: str, rest: list[str]) -> None:
    parser = argparse.ArgumentParser()
    importlib.import_module(f"ucip_adapt.cli.{command}").add_arguments(parser)
    given, _ = parser.parse_known_args([*rest, f"--{flag}", "a", f"--{flag}", "b"])
    assert getattr(given, flag) == ["a", "b"]
