"""The authors' layout: every name, shape and axis, and what is refused."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from ucip_adapt import UCIP, UCIPConfig
from ucip_adapt.errors import BaseFormatError
from ucip_adapt.models import (
    convert_state_dict,
    load_authors_checkpoint,
    to_authors_state_dict,
)
from ucip_adapt.models.convert import authors_config

State = dict[str, Tensor]


def released_shapes(
    c: int = 128, p: int = 64, blocks: int = 6, layers: int = 6, ratio: int = 4, head: int = 64
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the released network, written out from the published key list."""
    shapes: dict[str, tuple[int, ...]] = {}

    def weight_and_bias(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]

    for i in range(blocks):
        for j in range(layers):
            at = f"blocks.{i}.{j}"
            weight_and_bias(f"{at}.norm1", c)
            weight_and_bias(f"{at}.atm.atm_h", c, c, 1, 1)
            weight_and_bias(f"{at}.atm.atm_w", c, c, 1, 1)
            weight_and_bias(f"{at}.atm.atm_local", c, 1, 5, 5)
            weight_and_bias(f"{at}.atm.fusion.fc1", c // 4, c)
            weight_and_bias(f"{at}.atm.fusion.fc2", 3 * c, c // 4)
            weight_and_bias(f"{at}.atm.proj", c, c)
            weight_and_bias(f"{at}.norm2", c)
            weight_and_bias(f"{at}.mlp.fc1", ratio * c, c)
            weight_and_bias(f"{at}.mlp.fc2", c, ratio * c)
            if j % 2 == 0:
                weight_and_bias(f"{at}.offset_layer.0", c + p)
                weight_and_bias(f"{at}.offset_layer.1", c, c + p)
            weight_and_bias(f"{at}.spade.mlp_shared.0", p // 2, p, 3, 3)
            weight_and_bias(f"{at}.spade.mlp_gamma", c, p // 2, 3, 3)
            weight_and_bias(f"{at}.spade.mlp_beta", c, p // 2, 3, 3)
        shapes[f"prompts.{i}.prompt"] = (6, 8, 1, 1, p)
        weight_and_bias(f"prompts.{i}.basis_mlp.fc1", 8, c)
        weight_and_bias(f"prompts.{i}.basis_mlp.fc2", 8, 8)
        weight_and_bias(f"pos_blocks.{i}.proj", c, 1, 3, 3)
    weight_and_bias("patch_embed.proj", c, 3, 5, 5)
    weight_and_bias("norm", c)
    weight_and_bias("conv_after_body", c, c, 3, 3)
    weight_and_bias("conv_before_up.0", head, c, 3, 3)
    for name in ("conv_up1", "conv_up2", "conv_hr"):
        weight_and_bias(name, head, head, 3, 3)
    weight_and_bias("conv_last", 3, head, 3, 3)
    return shapes


def random_state(shapes: dict[str, tuple[int, ...]]) -> State:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.fixture
def small() -> State:
    """A state dict in the authors' layout with the sizes of ``nano``."""
    return random_state(released_shapes(c=16, p=8, blocks=1, layers=2, ratio=2, head=16))


def test_the_released_layout_converts_and_comes_back():
    shapes = released_shapes()
    assert len(shapes) == 1_066
    authors = random_state(shapes)
    assert sum(value.numel() for value in authors.values()) == 11_424_291
    assert authors_config(authors) == UCIPConfig.preset("full", num_slots=6)

    ours = convert_state_dict(authors)
    expected = UCIP(UCIPConfig.preset("full", num_slots=6)).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in expected.items()}
    back = to_authors_state_dict(ours)
    assert {name: tuple(value.shape) for name, value in back.items()} == shapes
    assert all(torch.equal(back[name], value) for name, value in authors.items())


def test_every_tensor_goes_to_the_part_it_belongs_to(small):
    """Spelt out once for a whole layer and block; the loops above would share a mistake."""
    ours = convert_state_dict(small)
    for theirs, name in {
        "blocks.0.0.norm1": "blocks.0.layers.0.norm1",
        "blocks.0.0.atm.atm_w": "blocks.0.layers.0.mixer.horizontal",
        "blocks.0.1.atm.atm_h": "blocks.0.layers.1.mixer.vertical",
        "blocks.0.1.atm.atm_local": "blocks.0.layers.1.mixer.local",
        "blocks.0.0.atm.fusion.fc1": "blocks.0.layers.0.mixer.fusion.fc1",
        "blocks.0.0.atm.fusion.fc2": "blocks.0.layers.0.mixer.fusion.fc2",
        "blocks.0.0.atm.proj": "blocks.0.layers.0.mixer.proj",
        "blocks.0.0.norm2": "blocks.0.layers.0.norm2",
        "blocks.0.0.mlp.fc1": "blocks.0.layers.0.mlp.fc1",
        "blocks.0.0.mlp.fc2": "blocks.0.layers.0.mlp.fc2",
        "blocks.0.0.offset_layer.0": "blocks.0.layers.0.offset.norm",
        "blocks.0.0.offset_layer.1": "blocks.0.layers.0.offset.linear",
        "blocks.0.0.spade.mlp_shared.0": "blocks.0.layers.0.spade.shared",
        "blocks.0.0.spade.mlp_gamma": "blocks.0.layers.0.spade.gamma",
        "blocks.0.0.spade.mlp_beta": "blocks.0.layers.0.spade.beta",
        "prompts.0.basis_mlp.fc1": "blocks.0.prompt.coefficient.fc1",
        "prompts.0.basis_mlp.fc2": "blocks.0.prompt.coefficient.fc2",
        "pos_blocks.0.proj": "blocks.0.peg",
        "patch_embed.proj": "embed",
        "norm": "norm",
        "conv_after_body": "conv_after_body",
        "conv_before_up.0": "head.conv_before_up",
        "conv_up1": "head.conv_up1",
        "conv_up2": "head.conv_up2",
        "conv_hr": "head.conv_hr",
        "conv_last": "head.conv_last",
    }.items():
        for part in ("weight", "bias"):
            assert torch.equal(
                ours[f"{name}.{part}"].flatten(), small[f"{theirs}.{part}"].flatten()
            )
    assert torch.equal(ours["blocks.0.prompt.basis"], small["prompts.0.prompt"][:, :, 0, 0])


@pytest.mark.parametrize(("op", "half", "moved"), [("atm_w", 0, (3, 2)), ("atm_h", 1, (2, 3))])
def test_axes_of_the_authors_operators(small, op, half, moved):
    """``atm_w`` reads the first half of the offsets and looks along W; ``atm_h`` along H.

    A single bright pixel, all offsets 1, only one of the two operators alive: the token one step
    to the left of (or above) the pixel fetches it.
    """
    for name in small:
        if ".atm." in name:
            small[name].zero_()
    for name in ("offset_layer.1.weight", "offset_layer.1.bias"):
        small[f"blocks.0.0.{name}"].zero_()
    eye = torch.eye(16)
    small[f"blocks.0.0.atm.{op}.weight"] = eye[:, :, None, None].clone()
    small["blocks.0.0.atm.proj.weight"] = eye.clone()
    small["blocks.0.0.offset_layer.1.bias"].view(2, 8)[half] = 1.0
    model = UCIP(authors_config(small))
    model.load_state_dict(convert_state_dict(small))
    layer = model.blocks[0].layers[0]
    offset = layer.offset(torch.zeros(1, 6, 6, 16), torch.zeros(1, 6, 6, 8))
    features = torch.zeros(1, 6, 6, 16)
    features[0, 3, 3] = 1.0
    mixed = layer.mixer(features, offset)[0].abs().sum(-1)
    assert mixed.nonzero().tolist() == [list(moved)]


def test_mixer_equals_the_authors_operators_in_torchvision(small):
    """Their two operators are ``deform_conv2d`` with a 1 x 1 kernel; its offsets are (down, right).

    Written from what their layer computes: W from the first half, H from the second, one offset
    for every two channels, fused over the last axis of ``(C, 3)``.
    """
    ops = pytest.importorskip("torchvision.ops")
    model = UCIP(authors_config(small)).double()
    model.load_state_dict(convert_state_dict(small))
    state = {name.removeprefix("blocks.0.0.atm."): t.double() for name, t in small.items()}
    z = torch.randn(2, 16, 5, 7, dtype=torch.float64)
    offset = 2 * torch.randn(2, 16, 5, 7, dtype=torch.float64)

    branches = []
    for place, half, op in ((1, 0, "atm_w"), (0, 1, "atm_h")):
        pairs = torch.zeros(2, 32, 5, 7, dtype=torch.float64)
        pairs[:, place::2] = offset.chunk(2, dim=1)[half].repeat_interleave(2, dim=1)
        branches.append(ops.deform_conv2d(z, pairs, state[f"{op}.weight"], state[f"{op}.bias"]))
    local = torch.nn.functional.conv2d(
        z, state["atm_local.weight"], state["atm_local.bias"], padding=2, groups=16
    )
    branches.append(local)
    pooled = sum(branches).mean((2, 3))
    hidden = torch.nn.functional.gelu(
        pooled @ state["fusion.fc1.weight"].T + state["fusion.fc1.bias"]
    )
    units = (hidden @ state["fusion.fc2.weight"].T + state["fusion.fc2.bias"]).view(2, 16, 3)
    amounts = units.softmax(-1)[..., None, None]
    mixed = sum(amounts[:, :, k] * branches[k] for k in range(3))
    expected = mixed.permute(0, 2, 3, 1) @ state["proj.weight"].T + state["proj.bias"]

    found = model.blocks[0].layers[0].mixer(z.permute(0, 2, 3, 1), offset)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_fusion_weights_are_in_the_order_w_h_local(small):
    """Row 3 c + k of the fusion is branch k of channel c; 0 is W, 1 is H, 2 is local."""
    for k, branch in enumerate(("atm_w", "atm_h", "atm_local")):
        state = {name: value.clone() for name, value in small.items()}
        for name in state:
            if "blocks.0.0.atm." in name:
                state[name].zero_()
        state["blocks.0.0.atm.proj.weight"] = torch.eye(16)
        state[f"blocks.0.0.atm.{branch}.bias"].fill_(1)
        state["blocks.0.0.atm.fusion.fc2.bias"].view(16, 3)[:, k] = 50
        model = UCIP(authors_config(state))
        model.load_state_dict(convert_state_dict(state))
        mixed = model.blocks[0].layers[0].mixer(torch.randn(1, 4, 4, 16), torch.zeros(1, 16, 4, 4))
        torch.testing.assert_close(mixed, torch.ones_like(mixed))


def test_two_and_four_axes_are_both_accepted(small):
    expected = convert_state_dict(small)
    for name in ("blocks.0.0.atm.atm_w.weight", "blocks.0.1.atm.atm_h.weight"):
        small[name] = small[name][:, :, 0, 0]
    found = convert_state_dict(small)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("wrapper", [None, "params", "params_ema", "state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_load_unwraps_what_training_scripts_write(small, wrapper, prefix, tmp_path):
    expected = convert_state_dict(small)
    content: object = {prefix + name: value for name, value in small.items()}
    if wrapper:
        content = {wrapper: content, "iter": 5}
    torch.save(content, tmp_path / "model.pt")
    model = load_authors_checkpoint(tmp_path / "model.pt")
    assert not model.training
    assert all(torch.equal(model.state_dict()[name], value) for name, value in expected.items())
    assert model(torch.rand(1, 3, 5, 6)).isfinite().all()


def test_averaged_weights_come_first(small, tmp_path):
    averaged = {name: value + 1 for name, value in small.items()}
    torch.save({"params": small, "params_ema": averaged}, tmp_path / "model.pt")
    model = load_authors_checkpoint(tmp_path / "model.pt")
    assert torch.equal(model.norm.bias, averaged["norm.bias"])


def test_a_converted_network_becomes_a_base(small, tmp_path):
    torch.save(small, tmp_path / "model.pt")
    model = load_authors_checkpoint(tmp_path / "model.pt")
    model.save_pretrained(tmp_path / "base")
    assert UCIP.from_pretrained(tmp_path / "base").fingerprint == model.fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("norm.bias"), "1 are missing ['norm.bias'], and 0 are unknown"),
        (lambda s: s.update(mean=torch.ones(1)), "0 are missing [], and 1 are unknown ['mean']"),
        (
            lambda s: s.update({"norm.bias": torch.zeros(15)}),
            "norm.bias has shape (15,), expected (16,)",
        ),
        (
            lambda s: s.update({"blocks.0.0.atm.atm_w.weight": torch.zeros(16, 16, 3, 3)}),
            "atm_w.weight has shape (16, 16, 3, 3), expected (16, 16) or (16, 16, 1, 1)",
        ),
        (lambda s: s["conv_last.bias"].fill_(float("nan")), "conv_last.bias holds NaN"),
        (lambda s: s.pop("prompts.0.prompt"), "cannot read 'prompts.0.prompt'"),
        (lambda s: s.clear(), "not the authors' UCIP checkpoint: 0 tensors"),
        (
            lambda s: s.update({"patch_embed.proj.weight": torch.zeros(18, 3, 5, 5)}),
            "shapes of no UCIP network: ",
        ),
    ],
)
def test_refuses_other_tensors_by_name(small, change, message, tmp_path):
    change(small)
    with pytest.raises(BaseFormatError, match=re.escape(message)):
        convert_state_dict(small)
    torch.save(small, tmp_path / "model.pt")
    with pytest.raises(BaseFormatError, match=r"model\.pt: .*" + re.escape(message)):
        load_authors_checkpoint(tmp_path / "model.pt")


def test_refuses_files_that_are_no_checkpoint(tmp_path):
    path = tmp_path / "model.pt"
    with pytest.raises(BaseFormatError, match="cannot read"):
        load_authors_checkpoint(path)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(BaseFormatError, match="cannot read"):
        load_authors_checkpoint(path)
    for content in ([1, 2], {"iter": 5}, torch.zeros(3)):
        torch.save(content, path)
        with pytest.raises(BaseFormatError, match="holds no state dict"):
            load_authors_checkpoint(path)


class Harmful:
    """Would write a file if unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return (open, ("harmed", "w"))


def test_code_in_a_file_is_not_run(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"params": small, "other": Harmful()}, "model.pt")
    with pytest.raises(BaseFormatError, match="cannot read"):
        load_authors_checkpoint("model.pt")
    assert not (tmp_path / "harmed").exists()
