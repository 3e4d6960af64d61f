"""torch.export with sizes left open, in the forms that exporters see."""

from __future__ import annotations

import pytest
import torch
from torch.export import Dim, export

from ucip_adapt import UCIP, UCIPConfig


@pytest.mark.slow
def test_exported_network_takes_any_size():
    torch.manual_seed(0)
    model = UCIP(UCIPConfig.preset("nano", last_conv_scale=1.0)).eval().requires_grad_(False)
    sides = {2: Dim("height", min=2), 3: Dim("width", min=2)}
    program = export(model, (torch.rand(1, 3, 16, 20),), dynamic_shapes={"lq": sides})
    lq = torch.rand(1, 3, 24, 13)
    with torch.no_grad():
        expected = model(lq)
    difference = (program.module()(lq) - expected).abs().max() / expected.abs().max()
    assert difference < 1e-5
