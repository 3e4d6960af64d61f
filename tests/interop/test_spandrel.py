"""UCIP in spandrel's registry: found among all its architectures, and computing the same."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from ucip_adapt.errors import ConfigError
from ucip_adapt.interop.spandrel import ARCHITECTURE, install
from ucip_adapt.models import UCIP, UCIPConfig, save_single_file


def test_a_file_is_found_and_computes_what_the_network_does(
    spandrel: ModuleType, network: UCIP, tmp_path: Path
) -> None:
    registry = spandrel.MAIN_REGISTRY.copy()
    install(registry)
    install(registry)
    assert ARCHITECTURE in registry
    assert len(registry) == len(spandrel.MAIN_REGISTRY) + 1
    assert ARCHITECTURE not in spandrel.MAIN_REGISTRY
    save_single_file(network, tmp_path / "net.safetensors")
    found = spandrel.ModelLoader(registry=registry).load_from_file(tmp_path / "net.safetensors")
    assert found.architecture.id == ARCHITECTURE
    assert (found.scale, found.input_channels, found.output_channels) == (4, 3, 3)
    for height, width in [(29, 17), (8, 8), (3, 1)]:
        lq = torch.rand(1, 3, height, width)
        expected = network.upscale(lq)
        assert torch.equal(found(lq), expected)
    whole = network.upscale(torch.rand(1, 3, 29, 17), window=None)
    assert whole.shape[2:] == (116, 68)
    with pytest.raises(spandrel.UnsupportedDtypeError):
        found.half()


@pytest.mark.parametrize("design", ["dynamic", "none", "fixed", "promptir"])
def test_no_other_architecture_takes_our_tensors(spandrel: ModuleType, design: str) -> None:
    registry = spandrel.MAIN_REGISTRY.copy()
    tensors = UCIP(UCIPConfig.preset("nano", prompt=design)).state_dict()
    takers = [item.architecture.id for item in registry if item.detect(tensors)]
    assert takers == []
    install(registry)
    assert [item.architecture.id for item in registry if item.detect(tensors)] == [ARCHITECTURE]


def test_without_spandrel_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)
    with pytest.raises(ConfigError, match="pip install spandrel"):
        install()
