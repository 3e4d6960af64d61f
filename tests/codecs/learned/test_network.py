"""The networks: what they start from, and that training and coding see the same thing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open

from ucip_adapt.codecs.learned.network import NetworkConfig, Part, build_network
from ucip_adapt.codecs.learned.presets import PRESETS
from ucip_adapt.codecs.learned.starting import start_from
from ucip_adapt.codecs.learned.transforms import dct_basis
from ucip_adapt.codecs.learned.weights import save_codec
from ucip_adapt.data.paired import to_tensor
from ucip_adapt.errors import CodecError, UnknownNameError

from .conftest import make_network


def test_the_basis_is_scipys_transform():
    from scipy.fft import dctn

    block = np.random.default_rng(0).normal(size=(8, 8))
    grey = torch.from_numpy(np.stack([block] * 3))[None].float() / 3**0.5
    found = F.conv2d(grey, dct_basis(8, 64, 0), stride=8).flatten()
    expected = dctn(block, norm="ortho")
    order = sorted(((v, h) for v in range(8) for h in range(8)), key=lambda f: (sum(f), f[0]))
    np.testing.assert_allclose(found, [expected[f] for f in order], atol=1e-5)


@pytest.mark.parametrize("name", PRESETS)
def test_a_new_network_is_a_block_transform(name):
    config = PRESETS[name].config
    network = build_network(config)
    basis = dct_basis(8, config.luma, config.chroma)
    rate = torch.zeros(2, dtype=torch.long)
    y = F.conv2d(torch.rand(2, 3, 24, 32) - 0.5, basis, stride=8)
    plain = F.conv_transpose2d(y, basis, stride=8)
    with torch.no_grad():
        assert (network.plain(y) - plain - 0.5).abs().max() < 1e-6
        assert (network.synthesis(y, rate) - plain).abs().max() < 0.1
        assert (network.analysis(plain, rate) - y).abs().max() < 0.15
    assert 2 * sum(p.numel() for p in network.parameters()) < 950_000


def test_training_and_coding_agree(stored, picture, as_batch):
    """The coder's fixed point against the float network that was trained, pixel by pixel."""
    coder, network = stored.coder(), stored.network.eval()
    for rate in range(2):
        stream = coder.encode(picture, rate)
        decoded = coder.decode(stream, rate, *picture.shape[:2])
        with torch.no_grad():
            free = network(as_batch(picture), torch.tensor([rate]))
        expected = (free.pixels[0].clamp(0, 1) * 255).permute(1, 2, 0).numpy()
        # Now and then a latent lies between two whole steps and falls to the other side.
        assert np.abs(decoded - expected).mean() < 0.6


def test_groups_are_predicted_from_what_a_decoder_has():
    """Changing a latent changes no prediction of its own part or an earlier one."""
    network = make_network("groups")
    features = torch.randn(1, network.predictor.features, 6, 5)
    y = torch.randn(1, 64, 6, 5)

    def predictions(y: torch.Tensor) -> list[torch.Tensor]:
        seen = []

        def resolve(mean, index, part: Part) -> torch.Tensor:
            seen.append(torch.cat([mean, index])[..., part.mask])
            return y[:, part.channels] * part.mask

        with torch.no_grad():
            network.predictor(features, resolve)
        return seen

    first = predictions(y)
    assert len(first) == 10
    for channel, place, own in ((9, (2, 2), 4), (9, (2, 3), 5), (63, (0, 0), 8)):
        changed = y.clone()
        changed[0, channel, place[0], place[1]] += 1
        differs = [not torch.equal(a, b) for a, b in zip(first, predictions(changed), strict=True)]
        assert not any(differs[: own + 1])
        assert all(differs[own + 1 : own + 2])  # and the next one makes use of it


def test_rates_are_told_apart_by_steps(picture, stored):
    coder = stored.coder()
    assert len(coder.encode(picture, 0)) < 0.8 * len(coder.encode(picture, 1))


def test_a_file_keeps_what_was_measured(tmp_path, picture):
    network = make_network("hyperprior")
    stored = save_codec(tmp_path / "c.safetensors", "tiny-mse", network, {"steps": 3})
    stream = stored.coder().encode(picture, 1)
    again = save_codec(tmp_path / "d.safetensors", "tiny-mse", stored.network, {"steps": 3})
    assert (tmp_path / "c.safetensors").read_bytes() == (tmp_path / "d.safetensors").read_bytes()
    assert again.coder().encode(picture, 1) == stream
    assert again.training == {"steps": 3}
    with safe_open(tmp_path / "c.safetensors", "pt") as file:
        kinds = {str(file.get_tensor(k).dtype) for k in file.keys() if k.startswith("network.")}  # noqa: SIM118
    assert kinds == {"torch.float16"}


def test_a_network_starts_from_a_larger_one(tmp_path):
    source = make_network("hyperprior", seed=1)
    save_codec(tmp_path / "c.safetensors", "tiny-mse", source, {})
    target = build_network(NetworkConfig(**{**vars(source.config), "rates": 1}))
    assert start_from(target, tmp_path / "c.safetensors") == "tiny-mse"
    assert torch.equal(target.log_step[0], source.log_step[0].half().float())
    with pytest.raises(CodecError, match="hyperprior with 2 rates; a network that is groups"):
        start_from(make_network("groups"), tmp_path / "c.safetensors")
    with pytest.raises(CodecError, match="does not fit"):
        start_from(build_network(NetworkConfig("hyperprior", 2)), tmp_path / "c.safetensors")


def test_unknown_codec():
    from ucip_adapt.codecs.learned.presets import get_preset

    with pytest.raises(UnknownNameError, match="did you mean 'tiny-elic'"):
        get_preset("tiny-elik")


def test_a_grey_image_needs_no_chroma(stored, picture):
    grey = np.repeat(picture.mean(2, keepdims=True).astype(np.uint8), 3, axis=2)
    coder = stored.coder()
    assert len(coder.encode(grey, 1)) <= len(coder.encode(picture, 1))
    assert to_tensor(grey).shape == (3, 64, 72)
