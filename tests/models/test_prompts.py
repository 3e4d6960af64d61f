"""The dynamic prompt and the designs that Tables 4 to 6 compare it with."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ucip_adapt import UCIP, UCIPConfig
from ucip_adapt.models import DPM
from ucip_adapt.models.prompts import FixedPrompt, PromptIRPrompt, mix_prompts
from ucip_adapt.tuning import DynamicPromptLayer, add_prompt_adapter


def make_dpm(**changes: object) -> DPM:
    torch.manual_seed(0)
    dpm = DPM(**{"dim": 6, "prompt_dim": 4, "num_prompts": 5, **changes})
    for parameter in dpm.coefficient.parameters():
        nn.init.normal_(parameter)
    return dpm.double()


def test_coefficients_lie_on_the_simplex():
    weights = make_dpm().coefficient(10 * torch.randn(2, 3, 7, 6, dtype=torch.float64))
    assert weights.shape == (2, 3, 7, 5)
    assert weights.min() > 0
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 7, dtype=torch.float64))
    assert weights.std(dim=(0, 1, 2)).min() > 0.01


def test_prompt_is_the_weighted_sum_of_the_bases():
    dpm, features = make_dpm(), torch.randn(2, 3, 4, 6, dtype=torch.float64)
    prompt, weights = dpm(features), dpm.coefficient(features)
    for b, h, w in ((0, 0, 0), (1, 2, 3)):
        expected = sum(weights[b, h, w, d] * dpm.basis[0, d] for d in range(5))
        torch.testing.assert_close(prompt[b, h, w], expected, rtol=0, atol=1e-14)


def test_prompt_of_a_pixel_depends_on_that_pixel_alone():
    dpm, features = make_dpm(), torch.randn(1, 4, 5, 6, dtype=torch.float64)
    before = dpm(features)
    features[0, 2, 3] += 1
    moved = (dpm(features) != before).any(-1)[0]
    assert moved.nonzero().tolist() == [[2, 3]]


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (16, 2)])
def test_prompt_follows_the_image(size):
    assert make_dpm()(torch.zeros(2, *size, 6, dtype=torch.float64)).shape == (2, *size, 4)


def test_order_of_the_bases_does_not_matter(lively):
    model = lively("nano", num_slots=2).double()
    lq, slot = torch.rand(1, 3, 5, 6, dtype=torch.float64), torch.tensor([1])
    before = model(lq, slot)
    order = torch.tensor([3, 1, 7, 0, 2, 6, 4, 5])
    with torch.no_grad():
        for block in model.blocks:
            prompt = block.prompt
            for value in (prompt.coefficient.fc2.weight, prompt.coefficient.fc2.bias):
                value.copy_(value[order].clone())
            prompt.basis.copy_(prompt.basis[:, order].clone())
    torch.testing.assert_close(model(lq, slot), before, rtol=0, atol=1e-12)
    with torch.no_grad():
        model.blocks[0].prompt.basis.copy_(model.blocks[0].prompt.basis[:, order].clone())
    assert (model(lq, slot) - before).abs().max() > 1e-4


def test_no_prompts_equals_prompts_of_zero_exactly(lively):
    """So prompts can be added to a network trained without them (Table 3, rows ii and iii)."""
    without = lively("nano", prompt="none")
    with_zeros = lively("nano", prompt="dynamic")
    state = without.state_dict()
    state["blocks.0.prompt.basis"] = torch.zeros_like(state["blocks.0.prompt.basis"])
    with_zeros.load_state_dict(state)
    lq = torch.rand(2, 3, 9, 6)
    assert torch.equal(without(lq), with_zeros(lq))
    with torch.no_grad():
        with_zeros.blocks[0].prompt.basis.fill_(0.1)
    assert not torch.equal(without(lq), with_zeros(lq))


def test_no_prompts_leaves_no_parameter_waiting_for_a_gradient():
    model = UCIP(UCIPConfig.preset("nano", prompt="none"))
    model(torch.rand(1, 3, 6, 6)).mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (".prompt." not in name)
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_each_image_takes_its_own_slot(lively):
    model = lively("nano", num_slots=3).double()
    lq = torch.rand(3, 3, 6, 7, dtype=torch.float64)
    mixed = model(lq, torch.tensor([2, 0, 1]))
    for index, slot in enumerate((2, 0, 1)):
        alone = model(lq[index : index + 1], torch.tensor([slot]))[0]
        torch.testing.assert_close(mixed[index], alone, rtol=0, atol=1e-12)
    torch.testing.assert_close(model(lq)[1], mixed[1], rtol=0, atol=1e-12)
    assert (model(lq)[0] - mixed[0]).abs().max() > 1e-4


def test_one_slot_of_six_is_the_one_slot_network(lively):
    """Slot 0 of the released layout, cut out, is the paper's blind network."""
    six, one = lively("nano", num_slots=6), lively("nano", num_slots=1)
    state = six.state_dict()
    state["blocks.0.prompt.basis"] = state["blocks.0.prompt.basis"][:1]
    one.load_state_dict(state)
    lq = torch.rand(1, 3, 6, 5)
    assert torch.equal(six(lq), one(lq))


@pytest.mark.parametrize("num_prompts", [1, 2, 4, 16])
def test_number_of_prompts(num_prompts):
    """Table 6. With one basis the prompt is a constant, whatever the coefficients say."""
    model = UCIP(UCIPConfig.preset("nano", num_prompts=num_prompts))
    prompt = model.blocks[0].prompt(torch.randn(1, 4, 5, 16))
    assert model.blocks[0].prompt.basis.shape == (1, num_prompts, 8)
    assert (prompt.std(dim=(1, 2)).max() < 1e-6) == (num_prompts == 1)


def test_fixed_prompt_is_one_vector_per_block():
    prompt = FixedPrompt(dim=6, prompt_dim=4)
    out = prompt(torch.randn(2, 3, 5, 6))
    assert out.shape == (2, 3, 5, 4)
    assert torch.equal(out, prompt.prompt.expand(2, 3, 5, 4))
    assert sum(p.numel() for p in prompt.parameters()) == 4


def test_promptir_blends_its_maps_with_one_weight_per_image():
    torch.manual_seed(0)
    prompt = PromptIRPrompt(dim=6, prompt_dim=4, num_prompts=3, prompt_size=5)
    features = torch.randn(2, 5, 5, 6)
    weights = prompt.weight(features.mean((1, 2))).softmax(-1)
    for b in range(2):
        blend = sum(weights[b, d] * prompt.components[d] for d in range(3))
        expected = prompt.conv(blend[None])[0].permute(1, 2, 0)
        torch.testing.assert_close(prompt(features)[b], expected, rtol=1e-5, atol=1e-5)


def test_promptir_has_the_parameters_of_table_4():
    """9.66M of its own in the ``full`` network, with six components of 64 x 64."""
    per_block = PromptIRPrompt(dim=128, prompt_dim=64, num_prompts=6, prompt_size=64)
    assert 6 * sum(p.numel() for p in per_block.parameters()) == 9_663_012


@pytest.mark.parametrize("prompt", ["dynamic", "none", "fixed", "promptir"])
@pytest.mark.parametrize("local", [True, False])
def test_every_design_trains(prompt, local):
    """Tables 4 and 5: each design, with and without the local branch."""
    torch.manual_seed(0)
    model = UCIP(UCIPConfig.preset("nano", prompt=prompt, local=local, prompt_size=4))
    sr = model(torch.rand(2, 3, 5, 6))
    assert sr.shape == (2, 3, 20, 24)
    sr.square().mean().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


def test_without_the_local_branch_two_are_fused():
    model = UCIP(UCIPConfig.preset("nano", local=False))
    mixer = model.blocks[0].layers[0].mixer
    assert mixer.local is None
    assert mixer.fusion.fc2.out_features == 2 * 16


def test_mix_prompts_with_one_set_of_bases_per_image():
    weights = torch.rand(3, 2, 4, 5)
    bases = torch.rand(3, 5, 6)
    for index, prompt in enumerate(mix_prompts(weights, bases)):
        torch.testing.assert_close(prompt, mix_prompts(weights[index : index + 1], bases[index])[0])


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [("dynamic", DPM), ("fixed", FixedPrompt), ("promptir", PromptIRPrompt), ("none", None)],
)
def test_the_prompts_of_a_network_are_those_of_its_blocks_in_order(prompt, kind):
    network = UCIP(UCIPConfig.preset("nano", prompt=prompt, num_blocks=3))
    found = network.prompt_modules()
    assert len(found) == 3
    named = dict(network.named_modules())
    for number, module in enumerate(found):
        assert module is named[f"blocks.{number}.prompt"]
        assert kind is None or type(module) is kind


def test_of_adapters_the_wrappers_are_the_prompts():
    network = UCIP(UCIPConfig.preset("nano", num_blocks=2))
    add_prompt_adapter(network)
    assert [type(module) for module in network.prompt_modules()] == 2 * [DynamicPromptLayer]
