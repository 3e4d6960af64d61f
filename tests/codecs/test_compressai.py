"""The bridge to CompressAI: with a stand-in for the library, and with the library where it is."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ucip_adapt.codecs import compressai as bridge
from ucip_adapt.codecs.base import fingerprint_digest
from ucip_adapt.codecs.compressai import CHENG2020_MSE, CHENG2020_MSSSIM, ELIC, CompressAICodec
from ucip_adapt.codecs.weights import find_weights
from ucip_adapt.errors import CodecError

CODECS = (CHENG2020_MSE, CHENG2020_MSSSIM, ELIC)


class FakeNetwork(torch.nn.Module):
    """Adds a constant, and asserts what the real networks need; its strings are nested lists."""

    last_seen: torch.Tensor

    def __init__(self, gain: torch.Tensor) -> None:
        super().__init__()
        self.gain, self.updated = gain, False

    @classmethod
    def from_state_dict(cls, state: dict[str, torch.Tensor]) -> FakeNetwork:
        return cls(state["gain"])

    def update(self) -> None:
        self.updated = True

    def compress(self, x: torch.Tensor) -> dict[str, object]:
        assert self.updated
        assert not self.training
        assert torch.get_float32_matmul_precision() == "highest"
        assert not torch.is_autocast_enabled("cpu")
        assert x.shape[2] % 64 == x.shape[3] % 64 == 0
        self.seen = FakeNetwork.last_seen = x
        return {"strings": [[[b"12345"], [b"67"]], [b"8"]], "shape": x.shape[2:]}

    def decompress(self, strings: object, shape: tuple[int, int]) -> dict[str, torch.Tensor]:
        assert (strings, shape) == ([[[b"12345"], [b"67"]], [b"8"]], self.seen.shape[2:])
        return {"x_hat": self.seen + self.gain}

    def forward(self, x: torch.Tensor) -> dict[str, object]:
        likelihoods = {"y": torch.full((9,), 0.25), "z": torch.full((2,), 0.5)}
        return {"x_hat": x - self.gain, "likelihoods": likelihoods}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A library `compressai` whose Cheng2020Attention is :class:`FakeNetwork`."""
    models = ModuleType("compressai.models")
    models.Cheng2020Attention = models.Cheng2020Anchor = FakeNetwork
    zoo = ModuleType("compressai.zoo")
    zoo.load_state_dict = dict
    image = ModuleType("compressai.zoo.image")
    image.model_urls = {
        "cheng2020-attn": {"mse": {q: f"https://x.test/net-{q}-0123abcd.pth.tar" for q in range(7)}}
    }
    for module in (ModuleType("compressai"), models, zoo, image):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    version = metadata.version
    monkeypatch.setattr(
        metadata, "version", lambda name: "1.2.8" if name == "compressai" else version(name)
    )
    for cached in (bridge._library, bridge._network):
        cached.cache_clear()
    yield
    for cached in (bridge._library, bridge._network):
        cached.cache_clear()


@pytest.fixture
def codec(fake: None, tmp_path: Path) -> CompressAICodec:
    for quality in range(1, 5):
        save_file({"gain": torch.tensor(quality / 255)}, tmp_path / f"{quality}.safetensors")
    return dataclasses.replace(CHENG2020_MSE, weights=str(tmp_path))


def test_images_are_padded_coded_and_cropped(codec: CompressAICodec) -> None:
    rgb = np.random.default_rng(0).integers(0, 250, (57, 86, 3), dtype=np.uint8)
    for quality in (1, 4):
        coded = codec.roundtrip(rgb, quality)
        np.testing.assert_array_equal(coded.pixels, rgb + np.uint8(quality))
        assert coded.num_bytes == 8
    before = torch.get_float32_matmul_precision()
    try:  # FakeNetwork.compress looks at what is set meanwhile
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            np.testing.assert_array_equal(codec.roundtrip(rgb, 4).pixels, coded.pixels)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    padded = np.pad(rgb, ((0, 7), (0, 42), (0, 0)), mode="edge")
    seen = FakeNetwork.last_seen[0].mul(255).round().byte().permute(1, 2, 0)
    np.testing.assert_array_equal(seen.numpy(), padded)


def test_forward_is_used_only_when_asked_for_and_has_a_fingerprint_of_its_own(
    codec: CompressAICodec,
) -> None:
    rgb = np.full((3, 5, 3), 100, np.uint8)
    fast = dataclasses.replace(codec, fast=True)
    coded = fast.roundtrip(rgb, 2)
    np.testing.assert_array_equal(coded.pixels, rgb - np.uint8(2))
    assert coded.num_bytes == 3  # 9 x 2 bits and 2 x 1 bit
    assert fingerprint_digest(fast.fingerprint()) != fingerprint_digest(codec.fingerprint())


def test_other_weights_give_another_fingerprint_and_other_pixels(
    codec: CompressAICodec, tmp_path: Path
) -> None:
    rgb = np.full((3, 5, 3), 100, np.uint8)
    before = codec.fingerprint()
    assert set(before["weights"]) == {"1", "2", "3", "4"}
    assert codec.roundtrip(rgb, 1).pixels[0, 0, 0] == 101
    save_file({"gain": torch.tensor(9 / 255)}, tmp_path / "1.safetensors")
    assert codec.fingerprint()["weights"]["1"] != before["weights"]["1"]
    assert codec.roundtrip(rgb, 1).pixels[0, 0, 0] == 109


def test_released_weights_count_only_once_they_are_here(
    fake: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.delenv("UCIP_CHENG2020_MSE", raising=False)
    answer = CHENG2020_MSE.available()
    assert answer.reason == (
        "no weights: net-1-0123abcd.pth.tar is not in PyTorch's folder of downloads"
    )
    assert "Set UCIP_CHENG2020_MSE to a folder" in answer.install
    fetched = []

    def download(url: str, file: str, start: str, progress: bool) -> None:
        fetched.append((url, start))
        torch.save({"gain": torch.tensor(0.0)}, file)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    monkeypatch.setenv("UCIP_CHENG2020_MSE", "zoo")
    assert CHENG2020_MSE.available().ok
    assert fetched[0] == ("https://x.test/net-1-0123abcd.pth.tar", "0123abcd")
    assert len(fetched) == 4
    monkeypatch.delenv("UCIP_CHENG2020_MSE")
    assert CHENG2020_MSE.available().ok  # they are here now, and not fetched again
    assert len(fetched) == 4


def test_elic_has_no_released_weights(fake: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UCIP_ELIC", raising=False)
    answer = ELIC.available()
    assert answer.reason == "no weights: UCIP_ELIC is not set, and there are no released ones"
    assert "zoo" not in answer.install


@pytest.mark.parametrize("library", ["compressai", "einops"])
def test_a_missing_library_is_named_with_the_line_that_harms_nothing(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(module: str) -> ModuleType:
        raise ModuleNotFoundError(f"No module named '{library}'", name=library)

    monkeypatch.setattr(bridge, "_compressai", missing)
    bridge._library.cache_clear()
    try:
        for codec in CODECS:
            answer = codec.available()
            assert answer.reason == f"{library} is not installed"
            assert answer.install == "pip install --no-deps compressai einops pytorch-msssim"
            with pytest.raises(CodecError, match=f"{codec.spec.name} is not available: {library}"):
                codec.roundtrip(np.zeros((8, 8, 3), np.uint8), 1)
    finally:
        bridge._library.cache_clear()


def test_broken_libraries_are_replaced_only_for_as_long_as_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchvision raises as beside a CPU build of PyTorch; torch_geometric works and stays."""
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision/part.py").touch()
    (tmp_path / "torchvision/__init__.py").write_text(
        "import torchvision.part\nraise RuntimeError('operator torchvision::nms does not exist')"
    )
    (tmp_path / "torch_geometric").mkdir()
    (tmp_path / "torch_geometric/__init__.py").write_text("mark = 7")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("torchvision", "torch_geometric"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    importlib.invalidate_caches()
    try:
        with bridge._stand_ins():
            import torch_geometric
            import torchvision.transforms

            assert vars(torchvision.transforms).get("Compose") is None
            assert importlib.util.find_spec("torchvision") is not None
            assert torch_geometric.mark == 7
        assert not [name for name in sys.modules if name.startswith("torchvision")]
        assert "torch_geometric" in sys.modules
    finally:
        sys.modules.pop("torch_geometric", None)


def test_point_clouds_get_what_they_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge, "_works", lambda library: False)
    with bridge._stand_ins():
        from torch_geometric.data import Data
        from torch_geometric.data.datapipes import functional_transform
        from torch_geometric.transforms import BaseTransform, Center

        assert functional_transform("name")(Data) is Data
        assert isinstance(BaseTransform, type)
        assert isinstance(Center, type)
    assert "torch_geometric" not in sys.modules


def test_weights_are_found_by_quality_and_a_gap_is_named(tmp_path: Path) -> None:
    for name in ("1.pth", "1.safetensors", "2.pth.tar"):
        (tmp_path / name).touch()
    stems = {1: ("1",), 2: ("2",)}
    found = find_weights(str(tmp_path), stems)
    assert [file.name for file in found.values()] == ["1.safetensors", "2.pth.tar"]
    with pytest.raises(CodecError, match=r"lacks weights for quality 3 \(3\)"):
        find_weights(str(tmp_path), {**stems, 3: ("3",)})
    with pytest.raises(CodecError, match="there is no folder"):
        find_weights(str(tmp_path / "none"), stems)
    with pytest.raises(CodecError, match="no folder, and no Hub repository that can be reached"):
        find_weights("nobody-at-all/no-such-network", stems)


# -- with the real library -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def models() -> ModuleType:
    """``compressai.models``; it is no dependency, so most machines skip what follows."""
    bridge._library.cache_clear()
    answer = bridge._library()
    if not answer.ok:
        pytest.skip(f"{answer.reason}: {answer.install}")
    return bridge._compressai("compressai.models")


@pytest.mark.parametrize(
    ("codec", "name", "width"),
    [
        (CHENG2020_MSE, "Cheng2020Attention", 16),
        (CHENG2020_MSSSIM, "Cheng2020Anchor", 16),
        (ELIC, "Elic2022Official", 32),
    ],
    ids=["attention", "anchor", "elic"],
)
def test_the_pixels_are_those_of_compress_and_decompress(
    codec: CompressAICodec,
    name: str,
    width: int,
    models: ModuleType,
    tmp_path: Path,
    lr: np.ndarray,
) -> None:
    torch.manual_seed(0)
    network = getattr(models, name)(width).eval()
    for quality in range(1, 5):
        torch.save({"state_dict": network.state_dict()}, tmp_path / f"{quality}.pth.tar")
    ours = dataclasses.replace(codec, weights=str(tmp_path))
    rgb = lr[:70, :50]
    got = ours.roundtrip(rgb, 1)
    network.update()
    image = torch.from_numpy(rgb.copy()).permute(2, 0, 1)[None] / 255
    padded = torch.nn.functional.pad(image, (0, 14, 0, 58), mode="replicate")
    with torch.no_grad():
        coded = network.compress(padded)
        decoded = network.decompress(coded["strings"], coded["shape"])["x_hat"]
    want = decoded[0, :, :70, :50].clamp(0, 1).mul(255).round().permute(1, 2, 0).byte().numpy()
    np.testing.assert_array_equal(got.pixels, want)
    np.testing.assert_array_equal(ours.roundtrip(rgb, 1).pixels, got.pixels)
    estimated = dataclasses.replace(ours, fast=True).roundtrip(rgb, 1).num_bytes
    # The coder ends each of its strings with some bytes.
    assert 0.8 * estimated < got.num_bytes < 1.2 * estimated + 24


def test_weights_of_another_kind_are_refused(models: ModuleType, tmp_path: Path) -> None:
    for quality in range(1, 5):
        torch.save({"g_a.0.weight": torch.zeros(4)}, tmp_path / f"{quality}.pth")
    wrong = dataclasses.replace(CHENG2020_MSE, weights=str(tmp_path))
    with pytest.raises(CodecError, match=r"1\.pth holds no network of these kinds: Cheng2020Att"):
        wrong.roundtrip(np.zeros((8, 8, 3), np.uint8), 1)
