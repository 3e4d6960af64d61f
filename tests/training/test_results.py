"""The results file: what it says of the machine, and what it keeps to itself."""

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState

from ucip_adapt import atomic
from ucip_adapt.errors import ConfigError, UnknownNameError
from ucip_adapt.training import results
from ucip_adapt.training.options import TrainingOptions
from ucip_adapt.training.run import hardware_line


def test_environment_names_versions_and_hides_the_machine(repo_root):
    found = results.environment()
    assert found["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["versions"]["python"] == platform.python_version()
    assert {"numpy", "pillow", "peft", "accelerate", "huggingface_hub"} <= found["versions"].keys()
    text = json.dumps(found)
    for secret in (platform.node(), str(repo_root), str(Path.home())):
        assert secret not in text or len(secret) < 3


@pytest.fixture
def visible_gpu(monkeypatch):
    """torch sees a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: f"a GPU as {device}")
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_a_gpu_that_is_only_visible_is_not_recorded(visible_gpu, monkeypatch):
    assert results.environment()["gpu"] is None, "nothing was set up to compute on it"
    assert results.environment("cpu")["gpu"] is None
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    assert Accelerator().device.type == "cpu"
    assert results.environment()["gpu"] is None
    record = results.run_record("x", TrainingOptions(), seconds={}, parameters={}, scores={})
    assert record["environment"]["gpu"] is None
    assert "a GPU" not in hardware_line()


def test_a_gpu_that_is_computed_on_is_recorded(visible_gpu, monkeypatch):
    assert results.environment("cuda:1")["gpu"] == "a GPU as cuda:1"
    Accelerator(cpu=True)
    monkeypatch.setattr(PartialState(), "device", torch.device("cuda", 0))
    assert results.environment()["gpu"] == "a GPU as cuda:0"
    assert hardware_line().startswith("a GPU as cuda:0; torch ")


def git(folder, *words):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main"]
    subprocess.run(
        [shutil.which("git"), "-C", folder, *identity, *words], check=True, capture_output=True
    )


def test_commit_is_that_of_the_source_and_marked_when_changed(tmp_path):
    source = tmp_path / "a.py"
    source.write_text("1")
    assert results._commit(source) is None
    git(tmp_path, "init")
    assert results._commit(source) is None, "an untracked file belongs to no commit"
    git(tmp_path, "add", "a.py")
    git(tmp_path, "commit", "-m", "x")
    commit = results._commit(source)
    assert len(commit) == 40
    (tmp_path / "untracked").write_text("1")
    assert results._commit(source) == commit
    source.write_text("2")
    assert results._commit(source) == f"{commit}+dirty"


def test_peak_memory_counts_an_allocation():
    before = results.peak_memory_mib()
    kept = torch.ones(64 * 2**20 // 4)
    assert 20 < before <= results.peak_memory_mib() < 100_000
    assert kept.numel() > 0


def test_peak_memory_is_none_without_the_module(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    assert results.peak_memory_mib() is None


def test_round_trip_without_machine_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["r.py", "--out", str(tmp_path / "runs" / "x"), "--n=3"])
    path = tmp_path / "results.json"
    given = {
        "scores": {"set5": {"10": {"y-c4": 28.5}}},
        "kind": "evaluate",
        "command": results.command_line(),
        "config": {
            "output_dir": tmp_path / "runs",
            "milestones": (1, 2),
            "data": "/somewhere/else",
        },
    }
    results.write_results(path, given)
    assert str(tmp_path) not in path.read_text()
    got = results.read_results(path)
    assert list(got) == ["format_version", "kind", "command", "config", "scores"]
    assert got["command"] == "python r.py --out runs/x --n=3"
    assert got["config"] == {"output_dir": "runs", "milestones": [1, 2], "data": ".../else"}
    assert got["scores"] == given["scores"]


def test_paths_behind_names_are_paths(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for text, expected in [
        (f"mine={tmp_path}/runs/a", "mine=runs/a"),
        ("dpm+offset=/mnt/me/runs/dpm", "dpm+offset=.../dpm"),
        ("folder:/mnt/me/decoded", "folder:.../decoded"),
        (
            'command:/mnt/me/enc -c=/mnt/me/x.cfg {in} {out} => py "/mnt/me/d.py" {in} {out}',
            'command:.../enc -c=.../x.cfg {in} {out} => py ".../d.py" {in} {out}',
        ),
        (
            "command:'/mnt/my codec/enc' \"-c=/mnt/a b/x.cfg\" '/mnt/d' {in} {out}",
            "command:'.../enc' \"-c=.../x.cfg\" '.../d' {in} {out}",
        ),
        (f"command:'{tmp_path}/my enc' {{in}} {{out}}", "command:'my enc' {in} {out}"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("you/ucip-webp", "you/ucip-webp"),
        ("webp", "webp"),
        ("1/2=3", "1/2=3"),
    ]:
        assert results.portable(text) == expected
        assert "/mnt" not in results.command_line(
            ["recipes/x.py", "--codec", text, f"--adapter={text}"]
        )


def test_non_finite_numbers_become_null_with_a_warning(tmp_path):
    with pytest.warns(UserWarning, match=r"scores\.set5\[1\] is inf; written as null"):
        results.write_results(
            tmp_path / "r.json", {"kind": "x", "scores": {"set5": [1.0, float("inf")]}}
        )
    assert results.read_results(tmp_path / "r.json")["scores"] == {"set5": [1.0, None]}


def test_wrong_content_is_refused_before_anything_is_written(tmp_path):
    path = tmp_path / "r.json"
    with pytest.raises(
        UnknownNameError, match=r"unknown key of a results file 'score'; did you mean 'scores'\?"
    ):
        results.write_results(path, {"kind": "x", "score": 1})
    with pytest.raises(ConfigError, match="needs 'kind'"):
        results.write_results(path, {"scores": {}})
    with pytest.raises(ConfigError, match="not JSON"):
        results.write_results(path, {"kind": "x", "scores": object()})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a readable results file"),
        ("[]", "holds no JSON object"),
        ("{}", "format_version None"),
        ('{"format_version": "1.0", "scores": [NaN]}', "r.json is not .* file: NaN is no number"),
        ('{"format_version": "1.0", "scores": [-Infinity]}', "-Infinity is no number of JSON"),
        ('{"format_version": "1.0", "scores": [-1e999]}', "-1e999 is no number of JSON"),
        ('{"format_version": "2.0"}', r"reads 1\.x; update the package"),
        ('{"format_version": 1}', "format_version 1, expected one like"),
    ],
)
def test_unreadable_files_are_typed_errors(tmp_path, content, message):
    path = tmp_path / "r.json"
    path.write_text(content)
    with pytest.raises(results.ResultsError, match=message):
        results.read_results(path)


def test_missing_file_and_newer_minor_version(tmp_path):
    path = tmp_path / "r.json"
    with pytest.raises(results.ResultsError, match="there is no results file"):
        results.read_results(path)
    path.write_text('{"format_version": "1.9", "kind": "x", "colour": 1}')
    with pytest.warns(UserWarning, match="unknown to this version: colour"):
        assert results.read_results(path)["colour"] == 1


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "r.json"
    results.write_results(path, {"kind": "old"})

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", full)
    message = r"cannot write the results .*r\.json: No space left"
    with pytest.raises(results.ResultsError, match=message):
        results.write_results(path, {"kind": "new"})
    assert results.read_results(path)["kind"] == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]
