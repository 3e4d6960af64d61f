"""HiFiC's networks against a second way of writing them, and its loader on files of that layout."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from ucip_adapt.codecs.base import fingerprint_digest
from ucip_adapt.codecs.hific import HIFIC, RATES, HificCodec
from ucip_adapt.codecs.hific_network import Density, HiFiC
from ucip_adapt.errors import CodecError

SMALL = {"filters": (6, 7, 8, 9, 10), "latent_channels": 5, "hyper_channels": 4}


def small(num_blocks: int = 2, seed: int = 0, **options: bool) -> HiFiC:
    """A narrow network with random weights, latents large enough to differ after rounding."""
    torch.manual_seed(seed)
    network = HiFiC(num_blocks, **SMALL, **options).eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    network.Encoder.conv_block_out[1].weight.mul_(8)
    return network


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of three rates: safetensors, a training checkpoint, and a plain state dict."""
    path = tmp_path_factory.mktemp("hific")
    save_file(small(seed=1).state_dict(), path / "low.safetensors")
    state = OrderedDict(small(num_blocks=1, seed=2).state_dict())
    state["Hyperprior.hyperprior_entropy_model.CDF"] = torch.zeros(3)
    state["Discriminator.conv1.weight"] = torch.zeros(3)
    checkpoint = {
        "model_state_dict": state,
        "discriminator_state_dict": {"conv1.weight": torch.zeros(3)},
        "steps": 7,
        "args": {"regime": "med", "image_dims": (3, 256, 256), "likelihood_type": "logistic"},
    }
    torch.save(checkpoint, path / "2.pt")
    high = {f"module.{name}": value for name, value in small(seed=3).state_dict().items()}
    torch.save(high, path / "high.pth")
    return path


def test_the_sizes_are_the_papers() -> None:
    with torch.device("meta"):
        network = HiFiC()
    encoder, generator = (
        sum(p.numel() for p in part.parameters()) for part in (network.Encoder, network.Generator)
    )
    assert round(encoder / 1e6, 1) == 7.4
    assert round(generator / 1e6, 1) == 156.8


def test_the_names_are_those_of_the_checkpoints() -> None:
    names = {name.rpartition(".")[0] for name in small(num_blocks=1).state_dict()}
    blocks = [f"Encoder.conv_block{i}.{part}" for i in range(1, 6) for part in (1, 2)]
    ups = [f"Generator.upconv_block{i}.{part}" for i in range(1, 5) for part in (0, 1)]
    inner = [f"Generator.resblock_0.{part}" for part in ("conv1", "conv2", "norm1", "norm2")]
    nets = [
        f"Hyperprior.{net}.conv{i}"
        for net in ("analysis_net", "synthesis_mu", "synthesis_std")
        for i in (1, 2, 3)
    ]
    ends = ["Encoder.conv_block_out.1", "Generator.conv_block_out.1"]
    start = [f"Generator.conv_block_init.{part}" for part in (0, 2, 3)]
    density = ["Hyperprior.hyperlatent_likelihood"]
    assert names == {*blocks, *ups, *inner, *nets, *ends, *start, *density}


def norm(x: np.ndarray, state: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    values = np.asarray(x, np.float64)
    values = (values - values.mean(1, keepdims=True)) / np.sqrt(
        values.var(1, ddof=1, keepdims=True) + 1e-3
    )
    return torch.tensor(values) * state[f"{name}.gamma"] + state[f"{name}.beta"]


@pytest.mark.parametrize("logistic", [False, True])
def test_the_whole_network_equals_its_equations(logistic: bool) -> None:
    """Written a second time with functions, in float64, from the names of the tensors."""
    network = small(num_blocks=1, normalised=True, logistic=logistic).double()
    s = network.state_dict()
    image = torch.rand(1, 3, 128, 144, dtype=torch.float64)
    got, bits = network(image)

    x = F.relu(norm(conv(F.pad(2 * image - 1, (3,) * 4, "reflect"), s, "Encoder.conv_block1.1"), s,
                    "Encoder.conv_block1.2"))  # fmt: skip
    for i in range(2, 6):
        x = conv(F.pad(x, (0, 1, 1, 0), "reflect"), s, f"Encoder.conv_block{i}.1", stride=2)
        x = F.relu(norm(x, s, f"Encoder.conv_block{i}.2"))
    y = conv(F.pad(x, (1,) * 4, "reflect"), s, "Encoder.conv_block_out.1")
    y = F.pad(y, (0, 3, 0, 0), "reflect")  # 9 columns to 12
    z = F.relu(conv(y, s, "Hyperprior.analysis_net.conv1", padding=1))
    z = F.relu(conv(F.pad(z, (2,) * 4, "reflect"), s, "Hyperprior.analysis_net.conv2", stride=2))
    z = conv(F.pad(z, (2,) * 4, "reflect"), s, "Hyperprior.analysis_net.conv3", stride=2)
    z = (z + 0.5).floor()
    mean, scale = (synthesis(z, s, f"Hyperprior.synthesis_{part}") for part in ("mu", "std"))
    symbols = (y - mean + 0.5).floor()
    assert symbols.abs().max() > 1
    head = norm(symbols + mean, s, "Generator.conv_block_init.0")
    head = conv(F.pad(head, (1,) * 4, "reflect"), s, "Generator.conv_block_init.2")
    head = norm(head, s, "Generator.conv_block_init.3")
    r = conv(F.pad(head, (1,) * 4, "reflect"), s, "Generator.resblock_0.conv1")
    r = F.relu(norm(r, s, "Generator.resblock_0.norm1"))
    r = conv(F.pad(r, (1,) * 4, "reflect"), s, "Generator.resblock_0.conv2")
    x = 2 * head + norm(r, s, "Generator.resblock_0.norm2")
    for i in range(1, 5):
        name = f"Generator.upconv_block{i}"
        x = F.conv_transpose2d(x, s[f"{name}.0.weight"], s[f"{name}.0.bias"], 2, 1, 1)
        x = F.relu(norm(x, s, f"{name}.1"))
    x = conv(F.pad(x, (3,) * 4, "reflect"), s, "Generator.conv_block_out.1")
    want = ((x.tanh() + 1) / 2)[..., :144]
    torch.testing.assert_close(got, want, rtol=0, atol=1e-9)

    scale = scale.clamp_min(0.11)
    kind = torch.distributions.Normal(0.0, 1.0).cdf if not logistic else torch.sigmoid
    mass = kind((symbols + 0.5) / scale) - kind((symbols - 0.5) / scale)
    side = network.Hyperprior.hyperlatent_likelihood.likelihood(z)
    expected = -sum((part.clamp_min(1e-9) + 1e-9).log2().sum() for part in (mass, side))
    assert bits.item() == pytest.approx(expected.item(), rel=1e-5)


def conv(x: torch.Tensor, state: dict[str, torch.Tensor], name: str, **options) -> torch.Tensor:
    return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], **options)


def synthesis(z: torch.Tensor, s: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    for i in (1, 2):
        z = F.conv_transpose2d(z, s[f"{name}.conv{i}.weight"], s[f"{name}.conv{i}.bias"], 2, 2, 1)
        z = F.relu(z)
    return F.conv_transpose2d(z, s[f"{name}.conv3.weight"], s[f"{name}.conv3.bias"], 1, 1)


def test_the_density_is_one_over_all_whole_numbers() -> None:
    torch.manual_seed(0)
    density = Density(3).double().requires_grad_(False)
    for parameter in density.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    numbers = torch.arange(-4000.0, 4001.0, dtype=torch.float64)
    total = density.likelihood(numbers.expand(1, 3, 1, -1)).sum(dim=-1)
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-6)


def test_the_rates_are_those_of_the_released_training_commands() -> None:
    """``-norm`` for low and high, ``--likelihood_type logistic`` for med."""
    found = {rate.name: (rate.normalised, rate.logistic) for rate in RATES.values()}
    assert found == {"low": (True, False), "med": (False, True), "high": (True, False)}
    assert [RATES[quality].name for quality in HIFIC.spec.qualities] == ["low", "med", "high"]


@pytest.mark.parametrize("quality", [1, 2, 3])
def test_each_rate_codes_with_its_own_weights_and_range(
    quality: int, folder: Path, lr: np.ndarray
) -> None:
    codec = HificCodec(HIFIC.spec, weights=str(folder))
    assert codec.available().ok
    coded, again = codec.roundtrip(lr, quality), codec.roundtrip(lr, quality)
    np.testing.assert_array_equal(coded.pixels, again.pixels)
    rate = RATES[quality]
    network = small(
        1 if quality == 2 else 2, seed=quality, normalised=rate.normalised, logistic=rate.logistic
    )
    image = torch.from_numpy(lr.copy()).permute(2, 0, 1)[None] / 255
    decoded, bits = network(image)
    want = decoded[0].mul(255).round().permute(1, 2, 0).numpy().astype(np.uint8)
    np.testing.assert_array_equal(coded.pixels, want)
    assert coded.num_bytes == -(-int(bits.ceil()) // 8)


@pytest.mark.parametrize("size", [(1, 1), (57, 86), (113, 40), (130, 200)])
def test_any_size_comes_back_in_its_size(size: tuple[int, int], folder: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    coded = HificCodec(HIFIC.spec, weights=str(folder)).roundtrip(rgb, 1)
    assert coded.pixels.shape == rgb.shape


def test_a_training_does_not_change_what_is_coded(folder: Path) -> None:
    """Rounded to bfloat16, the same network gives other pixels: the cache would mix them."""
    codec = HificCodec(HIFIC.spec, weights=str(folder))
    rgb = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    expected = codec.roundtrip(rgb, 1)
    with torch.autocast("cpu", torch.bfloat16):
        coded = codec.roundtrip(rgb, 1)
    np.testing.assert_array_equal(coded.pixels, expected.pixels)
    assert coded.num_bytes == expected.num_bytes
    assert codec.fingerprint()["options"]["matmul_precision"] == "highest"


def test_the_fingerprint_follows_the_weights(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    codec = HificCodec(HIFIC.spec, weights=str(tmp_path))
    before = codec.fingerprint()
    assert set(before["weights"]) == {"1", "2", "3"}
    assert before == HificCodec(HIFIC.spec, weights=str(folder)).fingerprint()
    save_file(small(seed=9).state_dict(), tmp_path / "low.safetensors")
    assert fingerprint_digest(codec.fingerprint()) != fingerprint_digest(before)


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UCIP_HIFIC", raising=False)
    assert HIFIC.available().reason == "no weights: UCIP_HIFIC is not set"
    monkeypatch.setenv("UCIP_HIFIC", str(tmp_path))
    assert "lacks weights for quality 1 (low or 1), 2 (med or 2)" in HIFIC.available().reason
    with pytest.raises(CodecError, match=r"codec hific is not available: no weights.*UCIP_HIFIC"):
        HIFIC.roundtrip(np.zeros((8, 8, 3), np.uint8), 1)


def test_weights_of_another_network_and_hostile_files_are_refused(
    folder: Path, tmp_path: Path
) -> None:
    bad = small(seed=1).state_dict()
    lacking = {name: value for name, value in bad.items() if name != "Encoder.conv_block3.1.bias"}
    nan = {**bad, "Encoder.conv_block3.1.bias": torch.full((8,), float("nan"))}
    codec = dataclasses.replace(HIFIC, weights=str(tmp_path))
    for name in ("2.pt", "high.pth"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    for state, message in (
        (lacking, "holds no HiFiC network.*conv_block3.1.bias"),
        (nan, "conv_block3.1.bias holds NaN"),
        ({"a": torch.zeros(1)}, "holds no HiFiC network"),
    ):
        save_file(state, tmp_path / "low.safetensors")
        with pytest.raises(CodecError, match=message):
            codec.roundtrip(np.zeros((8, 8, 3), np.uint8), 1)
    (tmp_path / "low.safetensors").unlink()
    torch.save({"state_dict": bad, "path": Path("x")}, tmp_path / "low.pth")
    with pytest.raises(CodecError, match="more than tensors and was not opened"):
        codec.roundtrip(np.zeros((8, 8, 3), np.uint8), 1)
