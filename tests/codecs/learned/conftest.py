"""An untrained network of each architecture with its coder, and small pictures to code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ucip_adapt.codecs.learned.network import NetworkConfig, TinyNetwork, build_network
from ucip_adapt.codecs.learned.weights import StoredCodec, save_codec
from ucip_adapt.data.paired import to_tensor

ARCHITECTURES = ("hyperprior", "groups")


def make_network(architecture: str, seed: int = 0) -> TinyNetwork:
    """Two rates; every value matters, which zero initial weights would hide."""
    torch.manual_seed(seed)
    sizes = {"luma": 40, "chroma": 12, "width": 48, "hyper_width": 16, "hyper_latents": 8}
    network = build_network(NetworkConfig(architecture, 2, **sizes))
    network.calibrate(torch.rand(8, 3, 32, 32) * 0.5 + 0.25, [0.4, 0.15])
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if not name.startswith(("log_", "index_")):
                parameter.add_(0.01 * torch.randn(parameter.shape))
    return network


@pytest.fixture(scope="session", params=ARCHITECTURES)
def stored(request, tmp_path_factory) -> StoredCodec:
    path: Path = tmp_path_factory.mktemp("codec") / "codec.safetensors"
    return save_codec(path, "tiny-mse", make_network(request.param), {"steps": 0})


@pytest.fixture(scope="session")
def picture(lr) -> np.ndarray:
    """64 x 72 pixels of a photograph."""
    return lr[40:104, 30:102].copy()


@pytest.fixture(scope="session")
def as_batch():
    return lambda rgb: to_tensor(rgb)[None]
