"""ONNX files, against PyTorch; what needs the optional packages is skipped by name."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from ucip_adapt.errors import BaseFormatError, ConfigError
from ucip_adapt.interop import onnx as ours
from ucip_adapt.models import UCIP

NEEDED = ("onnx", "onnxscript", "onnxruntime")


@pytest.fixture(scope="module")
def packages() -> None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(
            f"not installed: {', '.join(missing)} (pip install onnx onnxscript onnxruntime)"
        )


@pytest.mark.slow
@pytest.mark.usefixtures("packages")
def test_a_file_for_any_size(network: UCIP, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    with torch.no_grad():
        scale = float(network(torch.rand(1, 3, 16, 16)).abs().max())  # random weights: not 1
    size = ours.export_onnx(network, path, metadata={"base": "mine", "window": "12"})
    assert size == path.stat().st_size
    differences = ours.check_onnx(path, network)
    assert [(d.batch, d.height, d.width) for d in differences] == list(ours.CHECK_SIZES)
    assert max(d.maximum for d in differences) < 1e-5 * scale
    assert ours.check_onnx(path, network, sizes=[(3, 2, 7)])[0].maximum < 1e-5 * scale
    onnx = importlib.import_module("onnx")
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert {item.key: item.value for item in model.metadata_props} == {
        "base": "mine",
        "window": "12",
    }
    axes = [
        [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (model.graph.input[0], model.graph.output[0])
    ]
    assert axes == [["batch", 3, "height", "width"], ["batch", 3, "4*height", "4*width"]]
    assert str(Path(ours.__file__).parents[2]).encode() not in path.read_bytes()
    # A check that cannot fail shows nothing: another network is told apart.
    with torch.no_grad():
        network.norm.bias.add_(0.05)
    assert ours.check_onnx(path, network)[0].maximum > 1e-3 * scale
    with torch.no_grad():
        network.norm.bias.sub_(0.05)
    half = tmp_path / "half.onnx"
    ours._store_as_half(model)
    half.write_bytes(model.SerializeToString())
    assert half.stat().st_size < 0.8 * size
    worst = max(d.maximum for d in ours.check_onnx(half, network))
    assert 1e-5 * scale < worst < 2e-2 * scale


@pytest.mark.parametrize(
    ("purpose", "missing"), [("export", "onnxscript"), ("check", "onnxruntime")]
)
def test_missing_packages_are_named(
    purpose: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec

    def find_spec(name: str, *rest: object) -> object:
        return None if name == missing else found("sys") if name in NEEDED else found(name)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    with pytest.raises(ConfigError, match=rf'{missing}.*pip install "ucip-adapt\[onnx\]"'):
        ours.require_onnx(purpose)
    monkeypatch.setattr(importlib.util, "find_spec", found)


def test_unknown_options_stop_before_the_export(
    network: UCIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ours, "require_onnx", lambda purpose: None)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigError, match="opset=7: known are 18, 19"):
        ours.export_onnx(network, tmp_path / "net.onnx", opset=7)
    with pytest.raises(ConfigError, match="dtype 'bfloat16': ONNX files are stored in"):
        ours.export_onnx(network, tmp_path / "net.onnx", dtype="bfloat16")
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(BaseFormatError, match="cannot write"):
        ours.write_bytes(tmp_path / "no" / "net.onnx", b"")
