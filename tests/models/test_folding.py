"""The folded mixer: the same function, and only where nobody looks at the parts."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from ucip_adapt import UCIP, UCIPConfig
from ucip_adapt.models import upscale_large
from ucip_adapt.models.folding import FoldedMixer, UnfoldedMixer
from ucip_adapt.models.token_mixer import TokenMixer


def lively_mixer(dim: int = 12, *, local: bool = True) -> TokenMixer:
    """A mixer in which every parameter matters, biases included."""
    torch.manual_seed(1)
    mixer = TokenMixer(dim, local=local)
    for value in mixer.parameters():
        nn.init.normal_(value, std=0.5)
    return mixer


def example(batch: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    z, residual = torch.randn(2, batch, 6, 9, 12, generator=generator)
    return z, 2 * torch.randn(batch, 12, 6, 9, generator=generator), residual


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("local", [True, False])
def test_folded_equals_the_maps_one_after_the_other(local, dtype):
    mixer = lively_mixer(local=local).to(dtype)
    z, offset, residual = (value.to(dtype) for value in example())
    # Written from the equations, with loops over images and channels.
    branches = mixer.branches_of(z, offset)
    mapped = [mixer.horizontal(branches[0]), mixer.vertical(branches[1]), *branches[2:]]
    units = mixer.fusion(sum(mapped).mean(dim=(1, 2)))
    expected = residual.clone()
    for b in range(len(z)):
        mixed = torch.zeros_like(z[b])
        for c in range(12):
            shares = units[b, c * len(mapped) : (c + 1) * len(mapped)].softmax(0)
            mixed[..., c] = sum(
                share * m[b, ..., c] for share, m in zip(shares, mapped, strict=True)
            )
        expected[b] += mixer.proj(mixed)
    with torch.no_grad():
        found = mixer(z, offset, residual)
        assert isinstance(mixer.fold(*(x.mean(dim=(1, 2)) for x in branches)), FoldedMixer)
    difference = (found - expected).abs().max() / expected.abs().max()
    assert difference < (1e-6 if dtype == torch.float32 else 1e-15)
    assert found.is_contiguous()
    torch.testing.assert_close(mixer(z, offset, residual), expected, rtol=1e-5, atol=1e-5)


def test_parts_of_an_image_with_the_averages_of_the_whole():
    mixer = lively_mixer().double()
    z, offset, residual = (value.double() for value in example())
    with torch.no_grad():
        branches = mixer.branches_of(z, offset)
        folded = mixer.fold(*(branch.mean(dim=(1, 2)) for branch in branches))
        rows = [
            folded.apply([branch[:, i : i + 4] for branch in branches], residual[:, i : i + 4])
            for i in (0, 4)
        ]
        whole = mixer(z, offset, residual)
    torch.testing.assert_close(torch.cat(rows, dim=1), whole, rtol=0, atol=1e-13)


def test_bfloat16_stays_near_and_folds_in_float32():
    mixer = lively_mixer()
    z, offset, residual = example()
    with torch.no_grad():
        exact = mixer(z, offset, residual)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = mixer(z, offset, residual)
            folded = mixer.fold(*(x.mean(dim=(1, 2)) for x in mixer.branches_of(z, offset)))
    assert found.dtype == torch.float32
    assert {matrix.dtype for matrix in folded.matrices} == {torch.float32}
    scale = (exact - residual).abs().max()
    assert 1e-5 < (found - exact).abs().max() / scale < 0.02


def test_hooks_see_every_call():
    mixer = lively_mixer()
    z, offset, residual = example()
    seen: list[torch.Size] = []
    mixer.vertical.register_forward_hook(lambda _, args, out: seen.append(out.shape))
    with torch.no_grad():
        found = mixer(z, offset, residual)
    assert seen == [z.shape]
    torch.testing.assert_close(found, mixer(z, offset, residual), rtol=1e-6, atol=1e-6)


def test_lora_is_in_effect_and_may_differ_in_a_batch():
    torch.manual_seed(0)
    base = UCIP(UCIPConfig.preset("nano", last_conv_scale=1.0)).eval()
    lq = torch.rand(3, 3, 9, 11)
    with torch.no_grad():
        plain = base(lq)
    config = LoraConfig(r=2, target_modules=r".*mixer\.(horizontal|proj)")
    model = get_peft_model(base, config, adapter_name="webp")
    model.add_adapter("jpeg", config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.5 if "webp" in name else 1.0)
    model.eval()
    names = ["webp", "__base__", "jpeg"]
    expected = []
    for name, image in zip(names, lq.split(1), strict=True):
        if name == "__base__":
            expected.append(plain[1:2])
            continue
        model.set_adapter(name)
        # With a graph nothing is folded.
        expected.append(model(image).detach())
    with torch.no_grad():
        found = model(lq, adapter_names=names)
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-4, atol=1e-4)
    assert (found - plain).abs().amax(dim=(1, 2, 3))[::2].min() > 1e-2
    mixer = base.blocks[0].layers[0].mixer
    means = [torch.rand(1, 16) for _ in range(3)]
    assert isinstance(mixer.fold(*means), UnfoldedMixer)


@pytest.mark.parametrize(
    "saved",
    ["norm2", "conv_up1", "peg", "local", "mlp", "fc1", "fusion", "horizontal", "offset", "spade"],
)
def test_modules_that_are_saved_whole_can_be_switched_off(saved):
    torch.manual_seed(0)
    base = UCIP(UCIPConfig.preset("nano", last_conv_scale=1.0)).eval()
    # The same values in the base's own modules, with no wrapper around them.
    by_hand = copy.deepcopy(base)
    lq = torch.rand(2, 3, 40, 33)  # large enough for every way of computing it
    with torch.no_grad():
        plain = base(lq)
    config = LoraConfig(r=2, target_modules=["proj"], modules_to_save=[saved])
    model = get_peft_model(base, config).eval()
    wrapped = f".{saved}.modules_to_save.default"
    with torch.no_grad():
        for name, value in model.get_base_model().named_parameters():
            if wrapped in name:
                own = by_hand.get_parameter(name.replace(".modules_to_save.default", ""))
                own.add_(torch.randn_like(own) * 0.3)
                value.copy_(own)
        expected = by_hand(lq)
    assert (expected - plain).abs().max() > 1e-2
    for graph in (False, True):
        lq.requires_grad_(graph)
        with torch.set_grad_enabled(graph):
            torch.testing.assert_close(model(lq), expected, rtol=1e-4, atol=1e-4)
            with model.disable_adapter():
                torch.testing.assert_close(model(lq), plain, rtol=1e-4, atol=1e-4)
    lq.requires_grad_(False)
    bounded = upscale_large(model, lq, mode="exact", max_memory="100MB")
    torch.testing.assert_close(bounded, expected.clamp(0, 1), rtol=1e-4, atol=1e-4)
    with model.disable_adapter():
        bounded = upscale_large(model, lq, mode="exact", max_memory="100MB")
    torch.testing.assert_close(bounded, plain.clamp(0, 1), rtol=1e-4, atol=1e-4)


def test_merged_lora_folds_with_the_merged_weights():
    mixer = lively_mixer()
    z, offset, _ = example()
    with torch.no_grad():
        before = mixer(z, offset)
        mixer.proj.weight.mul_(2)
        mixer.proj.bias.mul_(2)
        torch.testing.assert_close(mixer(z, offset), 2 * before, rtol=1e-5, atol=1e-5)
