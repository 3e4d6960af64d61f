"""Parameters, multiplications and structure of the presets, against the published numbers."""

from __future__ import annotations

from collections import Counter
from functools import cache

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ucip_adapt import UCIP, UCIPConfig
from ucip_adapt.models import DPM, PRESETS, SPADE, OffsetLayer
from ucip_adapt.models.token_mixer import PTMM


@cache
def build(preset: str, num_slots: int = 1) -> UCIP:
    """One network for all tests that only count; nobody changes it."""
    return UCIP(UCIPConfig.preset(preset, num_slots=num_slots))


def gmac_of(model: nn.Module, *inputs: Tensor) -> float:
    """Multiply-adds of a call, in 10^9.

    Of the parts as they are: hooks turn off the forms that need fewer, and a graph those with
    products in place, which the counter does not know.
    """
    handles = [part.register_forward_hook(lambda *_: None) for part in model.modules()]
    with torch.enable_grad(), FlopCounterMode(display=False) as counter:
        model(*inputs)
    for handle in handles:
        handle.remove()
    return counter.get_total_flops() / 2e9


def values(*modules: nn.Module | Tensor | None) -> int:
    """Parameter values of modules, and of single parameters."""
    total = 0
    for module in modules:
        parameters = [module] if isinstance(module, Tensor) else module.parameters()
        total += sum(parameter.numel() for parameter in parameters)
    return total


@pytest.mark.parametrize(
    ("preset", "changes", "expected"),
    [
        ("full", {}, 11_408_931),
        ("full", {"num_slots": 6}, 11_424_291),
        ("small", {}, 2_015_443),
        ("tiny", {}, 335_131),
        ("nano", {}, 22_467),
    ],
)
def test_parameter_counts(preset, changes, expected):
    model = build(preset, **changes)
    assert model.num_parameters() == values(model) == expected


def test_every_preset_is_counted():
    assert set(PRESETS) == {"full", "small", "tiny", "nano"}


def test_parts_of_the_full_network_sum_to_the_published_total():
    model = build("full")
    layers = [layer for block in model.blocks for layer in block.layers]
    parts = {
        "embed": (values(model.embed), 9_728),
        "norms": (values(*(m for layer in layers for m in (layer.norm1, layer.norm2))), 18_432),
        "horizontal and vertical": (
            values(*(m for la in layers for m in (la.mixer.horizontal, la.mixer.vertical))),
            1_188_864,
        ),
        "local": (values(*(layer.mixer.local for layer in layers)), 119_808),
        "fusion": (values(*(layer.mixer.fusion for layer in layers)), 604_800),
        "proj": (values(*(layer.mixer.proj for layer in layers)), 594_432),
        "mlp": (values(*(layer.mlp for layer in layers)), 4_741_632),
        "offsets": (values(*(layer.offset for layer in layers if layer.offset)), 451_584),
        "spade": (values(*(layer.spade for layer in layers)), 3_328_128),
        "peg": (values(*(block.peg for block in model.blocks)), 7_680),
        "final norm": (values(model.norm), 256),
        "tail": (values(model.conv_after_body, model.head), 333_891),
        "dpm": (values(*(block.prompt for block in model.blocks)), 9_696),
    }
    for name, (found, expected) in parts.items():
        assert found == expected, name
    assert sum(found for found, _ in parts.values()) == 11_408_931
    dpm = model.blocks[0].prompt
    assert values(dpm.basis) == 512
    assert values(dpm.coefficient) == 1_104


@pytest.mark.parametrize(
    ("preset", "dpm", "with_offsets", "with_spades"),
    [("full", 9_696, 461_280, 3_789_408), ("tiny", 1_312, 15_904, 120_448)],
)
def test_sizes_of_the_trainable_sets(preset, dpm, with_offsets, with_spades):
    """Table 4's 0.46M parameters are the prompt modules and the offset layers that read them."""
    kinds = {
        kind: values(*(m for m in build(preset).modules() if isinstance(m, kind)))
        for kind in (DPM, OffsetLayer, SPADE)
    }
    assert kinds[DPM] == dpm
    assert kinds[DPM] + kinds[OffsetLayer] == with_offsets
    assert sum(kinds.values()) == with_spades


GMAC = {"full": (49.07, 0.005), "small": (10.6, 0.05), "tiny": (2.0, 0.05), "nano": (0.43, 0.005)}
"""Of one image of 64 x 64 pixels, with the digits that are published or noted."""


@pytest.mark.parametrize("preset", GMAC)
def test_multiplications(preset):
    """All but the fusion's pooled part grows with the pixels, so two small images tell it all."""
    small, large = (gmac_of(build(preset), torch.zeros(1, 3, 8, width)) for width in (8, 16))
    expected, half_digit = GMAC[preset]
    assert small + (large - small) * (64 * 64 / 64 - 1) == pytest.approx(expected, abs=half_digit)


@pytest.mark.slow
@pytest.mark.parametrize("preset", GMAC)
def test_multiplications_at_64_pixels(preset):
    expected, half_digit = GMAC[preset]
    found = gmac_of(build(preset), torch.zeros(1, 3, 64, 64))
    assert found == pytest.approx(expected, abs=half_digit)


def test_multiplications_of_the_coefficient_networks():
    """Six coefficient networks at 64 x 64; the paper's Table 4 has 0.024 G for its prompts."""
    features = torch.zeros(1, 64, 64, 128)
    found = sum(gmac_of(block.prompt.coefficient, features) for block in build("full").blocks)
    assert found == pytest.approx(0.0267, abs=5e-5)


def test_offset_layers_sit_at_every_second_layer():
    model = build("full")
    places = [
        (i, j)
        for i, block in enumerate(model.blocks)
        for j, layer in enumerate(block.layers)
        if layer.offset is not None
    ]
    assert places == [(i, j) for i in range(6) for j in (0, 2, 4)]


def test_each_part_runs_as_often_as_the_paper_says():
    model = UCIP(UCIPConfig.preset("nano", num_blocks=6, num_layers=6))
    calls: Counter[str] = Counter()
    kinds = {PTMM: "layer", DPM: "dpm", OffsetLayer: "offset", SPADE: "spade"}
    pegs = {block.peg for block in model.blocks}
    for module in model.modules():
        name = "peg" if module in pegs else kinds.get(type(module))
        if name:
            module.register_forward_hook(lambda *_, name=name: calls.update([name]))
    model(torch.zeros(1, 3, 8, 8))
    assert calls == {"dpm": 6, "peg": 18, "offset": 18, "layer": 36, "spade": 36}


def test_layers_share_the_prompt_of_their_block_and_reuse_offsets():
    model = UCIP(UCIPConfig.preset("nano", num_blocks=2, num_layers=4))
    seen: dict[str, list[Tensor]] = {"dpm": [], "spade": [], "offset": [], "used": []}
    for block in model.blocks:
        block.prompt.register_forward_hook(lambda _, args, out: seen["dpm"].append(out))
        for layer in block.layers:
            layer.spade.register_forward_hook(lambda _, args, out: seen["spade"].append(args[1]))
            layer.mixer.register_forward_hook(lambda _, args, out: seen["used"].append(args[1]))
            if layer.offset is not None:
                layer.offset.register_forward_hook(lambda _, args, out: seen["offset"].append(out))
    model(torch.rand(1, 3, 6, 5))
    for i, prompt in enumerate(seen["spade"]):
        assert prompt is seen["dpm"][i // 4]
    for i, offset in enumerate(seen["used"]):
        assert offset is seen["offset"][i // 2]


def test_initial_weights():
    """Linear and axis maps: truncated normal 0.02; convolutions by fan-out; bases uniform."""
    torch.manual_seed(0)
    model = UCIP(UCIPConfig.preset("small", last_conv_scale=1.0))
    layer = model.blocks[0].layers[0]
    for linear in (layer.mlp.fc1, layer.mixer.horizontal, layer.offset.linear):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.1)
        assert linear.bias.abs().max() == 0
    for conv, fan_out in (
        (model.conv_after_body, 9 * 64),
        (model.head.conv_last, 9 * 3),
        (layer.mixer.local, 25),
        (layer.spade.gamma, 9 * 64),
    ):
        assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)
        assert conv.bias.abs().max() == 0
    basis = torch.cat([block.prompt.basis.flatten() for block in model.blocks])
    assert 0 <= basis.min() < 0.02
    assert 0.98 < basis.max() < 1
    assert basis.mean().item() == pytest.approx(0.5, abs=0.05)


def test_last_conv_scale_is_a_factor_on_the_initial_output():
    lq = torch.rand(1, 3, 12, 12)
    torch.manual_seed(0)
    plain = UCIP(UCIPConfig.preset("tiny", last_conv_scale=1.0, global_skip="none"))
    torch.manual_seed(0)
    scaled = UCIP(UCIPConfig.preset("tiny", last_conv_scale=0.01, global_skip="none"))
    torch.testing.assert_close(scaled(lq), plain(lq) * 0.01)
