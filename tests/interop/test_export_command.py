"""`ucip-adapt export`, and networks that base and adapter were merged into."""

from __future__ import annotations

import importlib.util
import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from ucip_adapt.cli import export, main
from ucip_adapt.interop.merged import merge
from ucip_adapt.models import UCIP, load_single_file, pretrained
from ucip_adapt.upscaler import load

MakeAdapter = Callable[..., Path]


def test_safetensors_of_base_and_adapter(
    make_adapter: MakeAdapter, network: UCIP, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = make_adapter("webp-10")
    base, out = str(tmp_path / "base"), tmp_path / "net.safetensors"
    argv = ["export", "--adapter", str(adapter), "--base", base, "-o", str(out), "--json"]
    assert main(argv) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["max_difference"] == 0
    assert report["metadata"]["adapter"] == "webp-10"
    assert report["metadata"]["base"] == "base"
    assert report["metadata"]["base_fingerprint"] == network.fingerprint
    assert report["metadata"]["window"] == "12"
    assert report["metadata"]["window_stride"] == "9"
    assert str(tmp_path) not in json.dumps(report)
    lq = torch.rand(1, 3, 21, 14)
    loaded = load_single_file(out)
    expected = load(adapter, base=base)
    with torch.no_grad():
        assert not torch.equal(loaded(lq), network(lq))
    torch.testing.assert_close(loaded.upscale(lq), expected.upscale(lq), rtol=0, atol=1e-6)
    with safe_open(out, framework="pt") as file:
        stored = file.metadata()
    assert stored.items() >= report["metadata"].items()
    assert stored["fingerprint"] == loaded.fingerprint != network.fingerprint

    before = out.read_bytes()
    assert main(argv) == 2
    assert "exists: give --overwrite" in capsys.readouterr().err
    assert out.read_bytes() == before
    assert main([*argv, "--overwrite", "--dtype", "bfloat16"]) == 0
    assert json.loads(capsys.readouterr().out)["max_difference"] > 0
    assert out.stat().st_size < 0.7 * len(before)


def test_only_the_file_that_is_asked_for_is_written(tmp_path: Path) -> None:
    notes = tmp_path / "net.tmp"
    notes.write_text("mine")
    (tmp_path / "plain").touch()
    for name in ("net.safetensors", "other.tmp"):
        argv = ["export", "--adapter", "none", "-o", str(tmp_path / name)]
        assert main([*argv, "--format", "safetensors", "--no-check"]) == 0
        assert (tmp_path / name).stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert notes.read_text() == "mine"
    names = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert names == {"net.tmp", "net.safetensors", "other.tmp", "plain"}


def test_the_base_alone_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "base.safetensors"
    assert main(["export", "-o", str(out)]) == 0
    text = capsys.readouterr().out
    merged = merge()
    assert f"base {merged.base}, adapter none, licence cc-by-sa-4.0" in text
    assert "1 x 32 x 48: differs from PyTorch by at most 0\n" in text
    assert load_single_file(out).fingerprint == merged.base_fingerprint


def test_the_licence_is_that_of_the_weights_own_card(
    make_adapter: MakeAdapter, network: UCIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter, base = make_adapter("webp-10"), tmp_path / "base"
    (base / "README.md").write_text("---\nlicense: cc-by-sa-4.0\n---\n")
    assert merge(base=base).licence == "cc-by-sa-4.0"
    (adapter / "README.md").unlink(missing_ok=True)
    assert merge(adapter, base=base).licence == "unknown"
    (adapter / "README.md").write_text("---\nlicense: mit\n---\n")
    assert merge(adapter, base=base).licence == "mit"
    # A base of the Hub is in its cache by now.
    asked = []
    monkeypatch.setattr(
        pretrained, "get_files", lambda *a, **k: asked.append(k["local_files_only"]) or base
    )
    assert merge(base="user/base").licence == "cc-by-sa-4.0"
    assert asked == [False, True]


def test_windows_are_cut_by_who_the_file_says(network: UCIP, tmp_path: Path) -> None:
    network.save_pretrained(tmp_path)
    merged = merge(base=tmp_path)
    assert "the caller cuts the windows" in merged.metadata()["inference"]
    assert "UCIP.upscale cuts them" in merged.metadata(cuts_windows=True)["inference"]


def test_what_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["export", "-o", str(tmp_path / "net.pth")]) == 2
    assert "end it in .onnx or .safetensors" in capsys.readouterr().err
    (tmp_path / "a.safetensors").mkdir()
    for name, message in [
        ("nowhere/net.safetensors", "there is no folder"),
        ("a.safetensors", "is a folder"),
    ]:
        argv = ["export", "-o", str(tmp_path / name), "--overwrite", "--base", "not/loaded"]
        assert main(argv) == 2
        assert message in capsys.readouterr().err
    (tmp_path / "a.safetensors").rmdir()
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "onnx" else found(name, *a)
    )
    assert main(["export", "-o", str(tmp_path / "net.onnx")]) == 2
    assert 'pip install "ucip-adapt[onnx]"' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_stop_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(_arguments: object, path: Path, *_: object) -> None:
        path.write_bytes(b"half of it")
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(export, "_write_safetensors", stopped)
    before = signal.getsignal(signal.SIGTERM)
    assert main(["export", "-o", str(tmp_path / "net.safetensors")]) == 130
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_file_that_is_not_the_network_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = [{"batch": 1, "height": 8, "width": 8, "maximum": float("nan")}]
    monkeypatch.setattr(export, "_write_safetensors", lambda *a: _touch(a[1]) or wrong)
    path = tmp_path / "net.safetensors"
    path.write_bytes(b"a good one")
    for dtype in ("float32", "bfloat16"):
        assert main(["export", "-o", str(path), "--dtype", dtype, "--overwrite"]) == 2
        assert "differs from PyTorch by nan, more than rounding" in capsys.readouterr().err
    assert path.read_bytes() == b"a good one"
    assert list(tmp_path.iterdir()) == [path]


def _touch(path: Path) -> None:
    path.write_bytes(b"")
