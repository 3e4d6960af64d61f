"""A base on disk and on the Hub: round trips, and an error for every kind of damage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ucip_adapt import UCIP, UCIPConfig
from ucip_adapt import download as download_module
from ucip_adapt.errors import BaseFormatError, ConfigError
from ucip_adapt.models import pretrained
from ucip_adapt.models.fingerprint import fingerprint_of

State = dict[str, Tensor]


@pytest.fixture
def saved(lively, tmp_path) -> Path:
    """A base folder as ``save_pretrained`` writes it."""
    folder = tmp_path / "base"
    lively("nano", window=16).save_pretrained(folder)
    return folder


def rewrite(folder: Path, change: Callable[[State], None]) -> None:
    """Change the tensors of a base, as a tool that knows nothing of fingerprints does."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def test_round_trip(saved, lively):
    model = lively("nano", window=16)
    loaded = UCIP.from_pretrained(saved)
    assert loaded.config == model.config
    assert not loaded.training
    assert loaded.name_or_path == str(saved)
    assert loaded.fingerprint == model.fingerprint
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    lq = torch.rand(1, 3, 9, 20)
    assert torch.equal(loaded.upscale(lq), model.upscale(lq))
    assert sorted(path.name for path in saved.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]


def test_saving_a_loaded_base_writes_it_again(saved, tmp_path):
    again = tmp_path / "again"
    UCIP.from_pretrained(saved).save_pretrained(again)
    assert (again / "config.json").read_bytes() == (saved / "config.json").read_bytes()
    (a, a_metadata), (b, b_metadata) = (
        pretrained.read_safetensors(folder / "model.safetensors") for folder in (saved, again)
    )
    assert a_metadata == b_metadata
    assert set(a_metadata) == {"format", "format_version", "fingerprint"}
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("prompt", ["none", "fixed", "promptir"])
def test_round_trip_of_other_designs(prompt, lively, tmp_path):
    model = lively("nano", prompt=prompt, prompt_size=4, local=False)
    model.save_pretrained(tmp_path)
    loaded = UCIP.from_pretrained(tmp_path)
    assert torch.equal(loaded(torch.ones(1, 3, 4, 5)), model(torch.ones(1, 3, 4, 5)))
    if prompt == "none":
        assert not any(p.requires_grad for p in loaded.blocks[0].prompt.parameters())


def test_a_base_saved_in_half_precision_loads_and_is_another_base(lively, tmp_path):
    model = lively("nano")
    before = model.fingerprint
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    loaded = UCIP.from_pretrained(tmp_path)
    assert loaded.embed.weight.dtype == torch.float32
    assert torch.equal(loaded.embed.weight, model.embed.weight.float())
    assert loaded.fingerprint != before


def test_the_same_values_in_another_dtype_are_the_same_base(lively, tmp_path):
    model = lively("nano").to(torch.bfloat16).float()
    model.save_pretrained(tmp_path)
    rewrite(tmp_path, lambda t: t.update({k: v.bfloat16() for k, v in t.items()}))
    assert load_file(tmp_path / "model.safetensors")["embed.weight"].dtype == torch.bfloat16
    rounded = fingerprint_of(model.base_tensors(), model.config)
    assert UCIP.from_pretrained(tmp_path).fingerprint == rounded != model.fingerprint


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_file(saved, name):
    (saved / name).unlink()
    with pytest.raises(BaseFormatError, match=f"cannot read .*{name}"):
        UCIP.from_pretrained(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("norm.bias"), r"1 tensors missing \['norm.bias'\], 0 unknown"),
        (lambda t: t.update(extra=torch.ones(1)), r"0 tensors missing \[\], 1 unknown \['extra'\]"),
        (
            lambda t: t.update({"norm.weights": t.pop("norm.weight")}),
            r"missing \['norm.weight'\], 1 unknown \['norm.weights'\]",
        ),
        (
            lambda t: t.update({"norm.bias": torch.zeros(15)}),
            r"norm.bias has shape \(15,\), config.json asks for \(16,\)",
        ),
        (lambda t: t["norm.bias"].fill_(float("nan")), "norm.bias holds NaN or infinite values"),
        (lambda t: t["embed.bias"].fill_(float("inf")), "embed.bias holds NaN or infinite values"),
    ],
    ids=["missing", "extra", "renamed", "shape", "nan", "inf"],
)
def test_wrong_tensors(saved, change, message):
    rewrite(saved, change)
    with pytest.raises(BaseFormatError, match=message):
        UCIP.from_pretrained(saved)


def test_one_flipped_bit_of_a_value(saved):
    path = saved / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(BaseFormatError, match=r"was altered .*: it says fingerprint"):
        UCIP.from_pretrained(saved)


@pytest.mark.parametrize("size", [0, 5, 200, -1])
def test_truncated_file(saved, size):
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(BaseFormatError, match="cannot read"):
        UCIP.from_pretrained(saved)


def test_altered_configuration(saved):
    """Another function with the same tensors: only the fingerprint can tell."""
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "global_skip": "none"}))
    with pytest.raises(BaseFormatError, match=r"was altered or its config\.json was"):
        UCIP.from_pretrained(saved)
    (saved / "config.json").write_text(json.dumps({**config, "embed_dim": 32}))
    with pytest.raises(BaseFormatError, match=r"config\.json asks for"):
        UCIP.from_pretrained(saved)
    (saved / "config.json").write_text(json.dumps({**config, "window": None}))
    assert UCIP.from_pretrained(saved).config.window is None


def test_an_error_leaves_the_network_as_it_was(saved, lively):
    model = lively("nano", seed=3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    path = saved / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(BaseFormatError):
        pretrained.load_weights(model, path)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


def test_newer_formats_are_refused_by_either_file(saved):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "format_version": "2.0"}))
    with pytest.raises(BaseFormatError, match=r"format_version 2.0; .*update the package"):
        UCIP.from_pretrained(saved)
    (saved / "config.json").write_text(json.dumps(config))
    tensors = load_file(saved / "model.safetensors")
    save_file(tensors, saved / "model.safetensors", metadata={"format_version": "2.0"})
    with pytest.raises(BaseFormatError, match=r"format_version 2.0; .*update the package"):
        UCIP.from_pretrained(saved)


def test_unknown_keys_warn(saved):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "later": True}))
    with pytest.warns(UserWarning, match="unknown keys ignored: later"):
        UCIP.from_pretrained(saved)


def test_a_failed_save_keeps_the_old_base(saved, lively, monkeypatch):
    before = UCIP.from_pretrained(saved).fingerprint

    def full_disk(_: object, path: str, **__: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pretrained, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        lively("nano", seed=1, window=16).save_pretrained(saved)
    assert UCIP.from_pretrained(saved).fingerprint == before
    assert not list(saved.glob("*.tmp"))


def test_unknown_names_are_answered_with_the_ways_to_name_a_base():
    with pytest.raises(ConfigError, match=r"no base 'ucip-teeny': it is not a folder, not of the"):
        UCIP.from_pretrained("ucip-teeny")


def test_local_folders_come_before_the_hub(saved, monkeypatch):
    monkeypatch.chdir(saved.parent.parent)
    name = f"{saved.parent.name}/{saved.name}"
    assert UCIP.from_pretrained(name).name_or_path == name


def test_hub_names_reach_the_hub_with_their_options(saved, monkeypatch):
    asked = {}

    def download(name: str, **options: object) -> str:
        asked.update(options, name=name)
        return str(saved)

    monkeypatch.setattr(download_module, "snapshot_download", download)
    model = UCIP.from_pretrained("someone/base", revision="v1", local_files_only=True)
    assert model.name_or_path == "someone/base"
    assert (asked["name"], asked["revision"], asked["local_files_only"]) == (
        "someone/base",
        "v1",
        True,
    )
    assert not any("*" in p and "LICENSE" not in p for p in asked["allow_patterns"])


def test_a_hub_that_does_not_answer_is_a_typed_error(monkeypatch):
    def download(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("not in the cache, and the network is off")

    monkeypatch.setattr(download_module, "snapshot_download", download)
    with pytest.raises(BaseFormatError, match="someone/base is not in the cache, and the Hub"):
        UCIP.from_pretrained("someone/base")


def test_card_says_what_the_hub_needs(saved):
    card = ModelCard.load(saved / "README.md")
    assert card.data.library_name == "ucip_adapt"
    assert "model_hub_mixin" in card.data.tags


def test_push_uploads_a_folder_that_loads(lively, monkeypatch, tmp_path):
    """The Hub mixin's own push, with the client replaced: nothing leaves the machine."""
    calls = []

    class Repo:
        repo_id = "someone/base"

    class Client:
        def __init__(self, token: str | None = None) -> None:
            self.token = token

        def create_repo(self, **options: object) -> Repo:
            calls.append(("create", options["repo_id"], options["private"]))
            return Repo()

        def upload_folder(self, *, folder_path: Path, repo_id: str, **_: object) -> str:
            calls.append(("upload", repo_id))
            shutil.copytree(folder_path, tmp_path / "hub")
            return "commit"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Client)
    model = lively("nano")
    assert model.push_to_hub("someone/base", private=True) == "commit"
    assert calls == [("create", "someone/base", True), ("upload", "someone/base")]
    assert UCIP.from_pretrained(tmp_path / "hub").fingerprint == model.fingerprint


def test_default_network_is_the_paper_s():
    """Without a configuration, and with one given by name, as the Hub mixin may call it."""
    assert UCIP(config=UCIPConfig.preset("nano")).config == UCIPConfig.preset("nano")
    assert UCIP.__init__.__annotations__["config"] == UCIPConfig | None
