"""Networks recognised from their tensors, and told from everything else."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ucip_adapt.assets import shipped_bases
from ucip_adapt.errors import BaseFormatError, ConfigError
from ucip_adapt.models import PRESETS, UCIP, UCIPConfig, to_authors_state_dict
from ucip_adapt.models.pretrained import locate_base
from ucip_adapt.models.recognise import (
    CONFIG_TENSOR,
    from_state_dict,
    load_single_file,
    read_architecture,
    save_single_file,
)

DESIGNS = ("dynamic", "none", "fixed", "promptir")
UNUSUAL = {
    "embed_dim": 24,
    "prompt_dim": 10,
    "num_blocks": 3,
    "num_layers": 5,
    "mlp_ratio": 3,
    "head_dim": 8,
    "share": 8,
    "local": False,
    "prompt_size": 7,
    "num_prompts": 5,
    "num_slots": 4,
    "global_skip": "none",
    "window": 40,
    "window_stride": 30,
}


def make(preset: str = "nano", **changes: object) -> UCIP:
    """A network that looks trained: its biases are not zero, unless its prompts are off."""
    torch.manual_seed(0)
    model = UCIP(UCIPConfig.preset(preset, **changes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if model.config.prompt != "none" or ".coefficient." not in name:
                parameter.add_(0.02 * torch.randn(parameter.shape))
    return model


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_and_design_from_bare_tensors(preset: str, design: str) -> None:
    model = UCIP(UCIPConfig.preset(preset, prompt=design))
    told = {"prompt": design} if design in ("dynamic", "none") else {}
    assert read_architecture(model.state_dict(), **told) == model.config.replace(
        last_conv_scale=UCIPConfig().last_conv_scale
    )


@pytest.mark.parametrize("design", DESIGNS)
def test_single_files_bring_every_field_back(design: str, tmp_path: Path) -> None:
    model = make(**UNUSUAL, prompt=design)
    save_single_file(model, tmp_path / "net.safetensors", metadata={"by": "me"})
    loaded = load_single_file(tmp_path / "net.safetensors")
    assert loaded.config == model.config
    assert loaded.fingerprint == model.fingerprint
    # Without the metadata too: other programs hand on tensors only.
    alone = from_state_dict(load_file(tmp_path / "net.safetensors"))
    lq = torch.rand(2, 3, 11, 9)
    with torch.no_grad():
        assert torch.equal(alone(lq), model(lq))
        assert torch.equal(alone.upscale(lq[:, :, :, :8]), model.upscale(lq[:, :, :, :8]))


@pytest.mark.parametrize("design", ["dynamic", "none"])
@pytest.mark.parametrize("skip", ["none", "bicubic"])
def test_the_fingerprint_of_a_base_tells_what_no_tensor_tells(
    design: str, skip: str, tmp_path: Path
) -> None:
    model = make(prompt=design, global_skip=skip, num_slots=2)
    model.save_pretrained(tmp_path)
    loaded = load_single_file(tmp_path / "model.safetensors")
    assert (loaded.config.prompt, loaded.config.global_skip) == (design, skip)
    lq = torch.rand(1, 3, 9, 13)
    with torch.no_grad():
        assert torch.equal(loaded(lq), model(lq))


UNKNOWN = "nothing tells the window that the network was measured in"


@pytest.mark.parametrize("name", shipped_bases())
def test_a_shipped_file_gives_the_bases_own_window(name: str) -> None:
    base, lq = UCIP.from_pretrained(name), torch.rand(1, 3, 50, 20)
    folder = locate_base(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_single_file(folder / "model.safetensors")
    # Written down here: all of these were measured in windows of 48 pixels.
    assert loaded.config.window == 48
    assert loaded.config == base.config
    assert torch.equal(loaded.upscale(lq), base.upscale(lq))


@pytest.mark.parametrize("window", [None, 12])
@pytest.mark.parametrize("recorded", [True, False])
def test_the_config_beside_a_file_counts_if_it_is_its_own(
    window: int | None, recorded: bool, tmp_path: Path
) -> None:
    model = make(window=window, window_stride=window and 7, num_blocks=2)
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    if not recorded:  # as other programs write it
        save_file(load_file(path), path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_single_file(path).config == model.config
        # What is given counts more.
        assert load_single_file(path, window=20).config.window == 20
        assert load_single_file(path, window="whole").config.window is None
        assert load_single_file(path, global_skip="none").config.global_skip == "none"
    moved = tmp_path / "moved.safetensors"
    shutil.copy(path, moved)
    if recorded:
        assert load_single_file(moved).config == model.config
    else:  # it may lie beside the configuration of another
        with pytest.warns(UserWarning, match=UNKNOWN):
            assert load_single_file(moved, global_skip="bicubic").config.window is None


@pytest.mark.parametrize(
    "beside",
    [
        None,
        '{"model_type": "llama"}',
        "<html>",
        json.dumps(UCIPConfig.preset("tiny", window=48).to_dict()),
        json.dumps(UCIPConfig.preset("nano", window=48, prompt="none").to_dict()),
        json.dumps(UCIPConfig.preset("nano").to_dict() | {"window": "wide"}),
    ],
)
def test_a_config_of_another_network_is_none(beside: str | None, tmp_path: Path) -> None:
    model = make(window=12)
    model.save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    if beside is not None:
        (tmp_path / "config.json").write_text(beside)
    path = tmp_path / "model.safetensors"
    with pytest.warns(
        UserWarning, match=rf"{UNKNOWN}.*does not lie beside .*model\.safe"
    ) as caught:
        loaded = load_single_file(path)
    assert caught[0].filename == __file__
    assert loaded.config.replace(last_conv_scale=0.01) == model.config.replace(window=None)
    told = load_single_file(path, window=12)
    lq = torch.rand(1, 3, 30, 15)
    assert torch.equal(told.upscale(lq), model.upscale(lq))


def test_bare_tensors_say_that_the_window_is_not_known() -> None:
    model, lq = make(window=12), torch.rand(1, 3, 30, 15)
    with pytest.warns(UserWarning, match=rf"{UNKNOWN}.*Give window=48, .*'whole'") as caught:
        assert from_state_dict(model.state_dict()).config.window is None
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        told = from_state_dict(model.state_dict(), window=12)
        assert from_state_dict(model.state_dict(), window="whole").config.window is None
    assert torch.equal(told.upscale(lq), model.upscale(lq))
    with pytest.raises(ConfigError, match="window=3: window must be None or at least 8"):
        from_state_dict(model.state_dict(), window=3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_values_stored_in_half_precision(dtype: torch.dtype, tmp_path: Path) -> None:
    model = make()
    save_single_file(model, tmp_path / "net.safetensors", dtype=dtype)
    expected = make().to(dtype).float()
    loaded = load_single_file(tmp_path / "net.safetensors")
    assert loaded.state_dict().keys() == expected.state_dict().keys()
    for name, value in expected.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_trained_prompts_are_on_and_untrained_ones_have_to_be_told() -> None:
    assert from_state_dict(make().state_dict(), window="whole").config.prompt == "dynamic"
    tensors = make(prompt="none").state_dict()
    with pytest.raises(ConfigError, match=r"give prompt='none' for a prompt-free network"):
        from_state_dict(tensors)
    loaded = from_state_dict(tensors, prompt="none", window="whole")
    assert loaded.config == make(prompt="none").config.replace(last_conv_scale=1.0)


def test_sizes_of_no_preset_need_the_skip() -> None:
    model = make(num_blocks=2)
    with pytest.raises(ConfigError, match=r"num_blocks=2.*give global_skip='bicubic' or"):
        from_state_dict(model.state_dict())
    loaded = from_state_dict(model.state_dict(), global_skip="bicubic", window="whole")
    lq = torch.rand(1, 3, 9, 13)
    with torch.no_grad():
        assert torch.equal(loaded(lq), model(lq))


def test_foreign_files(tmp_path: Path) -> None:
    swin = {f"layers.{i}.weight": torch.ones(3, 3) for i in range(7)}
    with pytest.raises(BaseFormatError, match=r"not a UCIP network: of 7 tensors none.*layers\.0"):
        from_state_dict(swin)
    with pytest.raises(BaseFormatError, match="load_authors_checkpoint"):
        from_state_dict(to_authors_state_dict(make().state_dict()))
    adapter = {"base_model.model.blocks.0.prompt.dynprompt_basis": torch.ones(1)}
    with pytest.raises(BaseFormatError, match=r"prompt adapter.*export --format safetensors"):
        from_state_dict(adapter)
    with pytest.raises(BaseFormatError, match="of 0 tensors"):
        from_state_dict({})
    (tmp_path / "page.safetensors").write_text("<html>404</html>")
    with pytest.raises(BaseFormatError, match=r"cannot read .*page\.safetensors"):
        load_single_file(tmp_path / "page.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("norm.weight"), r"1 tensors missing \['norm.weight'\]"),
        (lambda t: t.update(extra=torch.ones(1)), r"1 unknown \['extra'\]"),
        (lambda t: t.update({"norm.bias": torch.ones(3)}), r"norm.bias has shape \(3,\)"),
        (lambda t: t["norm.bias"].fill_(torch.nan), "norm.bias holds NaN"),
        (lambda t: t.update({"embed.weight": torch.ones(())}), "not a UCIP network"),
        (
            lambda t: t.update({"blocks.0.layers.0.offset.linear.weight": torch.ones(0, 3)}),
            "not a UCIP network",
        ),
        (lambda t: t.update({"embed.weight": torch.ones(18, 3, 5, 5)}), "shapes of no UCIP"),
        (lambda t: t.pop("blocks.0.prompt.basis"), "no blocks.0.prompt.basis"),
        (lambda t: t.update({CONFIG_TENSOR: torch.ones(3)}), "must be a row of at most"),
        (
            lambda t: t.update({CONFIG_TENSOR: torch.tensor(list(b"[1]"), dtype=torch.uint8)}),
            "holds no JSON object",
        ),
        (
            lambda t: t.update({CONFIG_TENSOR: torch.tensor([255, 1], dtype=torch.uint8)}),
            "is not JSON",
        ),
    ],
)
def test_damaged_tensors(change, message: str) -> None:
    tensors = {name: value.clone() for name, value in make().state_dict().items()}
    change(tensors)
    with pytest.raises(BaseFormatError, match=message):
        from_state_dict(tensors)


def test_an_altered_file_is_refused_and_a_failed_save_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_single_file(make(), path)
    before = path.read_bytes()
    with pytest.raises(BaseFormatError, match=r"cannot write .*folder\.safetensors"):
        save_single_file(make(), tmp_path / "no" / "folder.safetensors")
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["net.safetensors"]
    tensors = load_file(path)
    tensors["norm.bias"] += 1
    save_file(tensors, path, metadata={"fingerprint": make().fingerprint})
    with pytest.raises(BaseFormatError, match="was altered: it says fingerprint"):
        load_single_file(path)
