"""docs/examples/onnx_windows.py, against the network's own windows."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from ucip_adapt.models import UCIP


@pytest.fixture(scope="module")
def example() -> ModuleType:
    path = Path(__file__).parents[2] / "docs" / "examples" / "onnx_windows.py"
    spec = importlib.util.spec_from_file_location("onnx_windows", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("window", "stride"), [(12, 9), (12, 12), (0, 0)])
@pytest.mark.parametrize("size", [(29, 17), (12, 40), (3, 5)])
def test_windows_in_numpy(
    size: tuple[int, int], window: int, stride: int, example: ModuleType, network: UCIP
) -> None:
    network.config = network.config.replace(window=window or None, window_stride=stride or None)
    lq = torch.rand(1, 3, *size)
    expected = network.upscale(lq)[0].numpy()
    sr = example.upscale(
        lambda x: network(torch.from_numpy(x)).numpy(), lq[0].numpy(), window, stride
    )
    assert sr.shape == expected.shape
    np.testing.assert_allclose(sr, expected, rtol=0, atol=5e-5)
