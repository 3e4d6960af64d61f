"""Exact strips against the whole image: every design, every strip size, adapters, far offsets."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from ucip_adapt import UCIP, DynamicPromptConfig, add_prompt_adapter, load_eval_set
from ucip_adapt.errors import ConfigError
from ucip_adapt.models import LargePlan
from ucip_adapt.models.bounded.lines import RowConvolution
from ucip_adapt.models.bounded.moments import Moments
from ucip_adapt.models.large import exact_rows

STRIPS = [(1, 1, 1), (2, 3, 1), (5, 4, 3), (16, 7, 2), (99, 99, 99)]
"""Rows, columns, rows in the head: single lines, odd ones, more than the image has."""

VARIANTS = [
    {},
    {"prompt": "none"},
    {"prompt": "fixed"},
    {"prompt": "promptir", "prompt_size": 5},
    {"local": False},
    {"global_skip": "none"},
    {"num_slots": 3},
    {"share": 1, "num_layers": 3},
    {"sampler": "gather", "num_layers": 1},
]


def in_strips(network, lq, strips, folder, *, memory=0):
    rows, columns, tail_rows = strips
    _, _, height, width = lq.shape
    plan = LargePlan(
        "exact",
        height,
        width,
        rows=rows,
        columns=columns,
        tail_rows=tail_rows,
        memory_map_bytes=memory,
    )

    def read(first, last):
        assert 0 <= first < last <= height
        return lq[:, :, first:last]

    with torch.no_grad():
        found = list(exact_rows(network, read, plan, folder, lambda _: None))
    return torch.cat(found, dim=2)


def image(*size, dtype=torch.float64):
    return torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1), dtype=dtype)


def assert_exact(network, lq, strips, folder, *, atol=1e-9, memory=0):
    with torch.no_grad():
        whole = network(lq)
    assert whole.std() > 1e-3
    found = in_strips(network, lq, strips, folder, memory=memory)
    assert found.shape == whole.shape
    assert (found - whole).abs().max() <= atol


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
@pytest.mark.parametrize("strips", STRIPS, ids=str)
def test_strips_are_the_whole_image(lively, tmp_path, changes, strips):
    network = lively("nano", **{"num_blocks": 2, "num_layers": 2, **changes}).double()
    assert_exact(network, image(17, 11), strips, tmp_path)


@pytest.mark.parametrize("size", [(1, 30), (30, 1), (2, 9), (8, 8)])
@pytest.mark.parametrize("strips", [(1, 1, 1), (2, 3, 1), (99, 99, 99)], ids=str)
def test_thin_images(lively, tmp_path, size, strips):
    assert_exact(lively("nano").double(), image(*size), strips, tmp_path)


@pytest.mark.parametrize("strips", STRIPS, ids=str)
def test_offsets_that_reach_along_the_whole_line(lively, tmp_path, strips):
    network = lively("nano", num_layers=4).double()
    reach = []
    for layer in network.blocks[0].layers:
        if layer.offset is not None:
            with torch.no_grad():
                layer.offset.linear.weight.mul_(12)
            layer.offset.register_forward_hook(lambda *args: reach.append(args[2].abs().mean()))
    assert_exact(network, image(19, 23), strips, tmp_path)
    assert min(reach) > 5


@pytest.mark.parametrize("memory", [0, 17 * 11 * 16 * 8 * 2, 10**9])
def test_maps_in_files_and_in_memory_alike(lively, tmp_path, memory):
    network = lively("nano", num_blocks=2, num_layers=4).double()
    assert_exact(network, image(17, 11), (4, 5, 2), tmp_path, memory=memory)


@pytest.mark.parametrize("trainable_set", ["dpm", "dpm+offset+spade"])
@pytest.mark.parametrize("prompt", ["dynamic", "none"])
def test_prompt_adapters_count_while_they_are_active(lively, tmp_path, trainable_set, prompt):
    network = lively("nano", num_blocks=2, prompt=prompt).double()
    lq = image(9, 12)
    before = in_strips(network, lq, (3, 4, 2), tmp_path)
    model = add_prompt_adapter(network, DynamicPromptConfig(trainable_set=trainable_set))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "dynprompt" in name:
                nn.init.normal_(value, std=0.3)
    assert_exact(network, lq, (3, 4, 2), tmp_path)
    assert (in_strips(network, lq, (3, 4, 2), tmp_path) - before).abs().max() > 1e-3
    with model.disable_adapter():
        assert (in_strips(network, lq, (3, 4, 2), tmp_path) - before).abs().max() <= 1e-12


def test_lora_anywhere_counts(lively, tmp_path):
    network = lively("nano").double()
    lq = image(9, 12)
    before = in_strips(network, lq, (3, 4, 2), tmp_path)
    names = [n for n, m in network.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    # PEFT takes only ranks that are multiples of the groups of a depth-wise convolution.
    names = [n for n in names if not n.endswith((".local", "peg"))]
    config = LoraConfig(r=2, target_modules=names, init_lora_weights=False)
    model = get_peft_model(network, config).double().eval()
    assert_exact(model.get_base_model(), lq, (3, 4, 2), tmp_path)
    assert (in_strips(network, lq, (3, 4, 2), tmp_path) - before).abs().max() > 1e-3


@pytest.mark.parametrize("saved", ["prompt", "spade", "offset"])
@pytest.mark.parametrize("design", ["dynamic", "none", "fixed", "promptir"])
def test_modules_that_peft_saves_whole_count(lively, tmp_path, design, saved):
    network = lively("nano", prompt=design, prompt_size=5).double()
    lq = image(9, 12)
    before = in_strips(network, lq, (3, 4, 2), tmp_path)
    config = LoraConfig(r=2, target_modules=["proj"], modules_to_save=[saved])
    model = get_peft_model(network, config, "one").double().eval()
    model.add_adapter("none of it", LoraConfig(r=2, target_modules=["proj"]))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if f"{saved}.modules_to_save.one" in name:
                value.add_(0.3 * torch.randn_like(value))
    assert_exact(network, lq, (3, 4, 2), tmp_path)
    if (design, saved) != ("none", "prompt"):  # where the prompt is 0 whatever its parameters
        assert (in_strips(network, lq, (3, 4, 2), tmp_path) - before).abs().max() > 1e-3
    with model.disable_adapter():
        assert_exact(network, lq, (3, 4, 2), tmp_path)
        assert (in_strips(network, lq, (3, 4, 2), tmp_path) - before).abs().max() <= 1e-12
    model.set_adapter("none of it")
    assert_exact(network.double(), lq, (3, 4, 2), tmp_path)


def test_a_prompt_that_is_no_known_design_is_refused(lively, tmp_path):
    class Average(nn.Module):
        def forward(self, features, slot=None):
            return features.mean(dim=(1, 2), keepdim=True).expand_as(features)[..., :8]

    network = lively("nano").double()
    network.blocks[0].prompt = Average()
    with pytest.raises(ConfigError, match="not of Average: take the image whole, mode 'whole'"):
        in_strips(network, image(9, 12), (3, 4, 2), tmp_path)


@pytest.fixture(scope="module")
def picture():
    lr = load_eval_set("GB82-val", limit=1).images[0].lr
    return torch.from_numpy(lr[:48, :44].copy()).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize("strips", STRIPS[1:], ids=str)
def test_the_trained_base_in_float32(picture, tmp_path, strips):
    assert_exact(UCIP.from_pretrained("ucip-tiny-v1"), picture, strips, tmp_path, atol=1e-4)


@pytest.mark.slow
def test_the_trained_base_in_single_lines(picture, tmp_path):
    network = UCIP.from_pretrained("ucip-tiny-v1")
    assert_exact(network, picture, (1, 1, 1), tmp_path, atol=1e-4)
    assert_exact(network.double(), picture.double(), (1, 1, 1), tmp_path, atol=1e-9)


def test_moments_keep_their_digits_beside_a_large_mean():
    values = np.random.default_rng(0).normal(1000, 1e-3, (37, 5, 2))
    moments = Moments()
    for first, last in ((0, 1), (1, 20), (20, 37)):
        moments.add(torch.from_numpy(values[None, first:last]))
    pixels = values.reshape(-1, 2)
    np.testing.assert_allclose(moments.mean, pixels.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(moments.variance, pixels.var(axis=0), rtol=1e-6)


@pytest.mark.parametrize("cuts", [[1] * 9, [9], [2, 1, 4, 2], [8, 1]])
def test_a_convolution_row_by_row_is_the_convolution(cuts):
    conv = nn.Conv2d(2, 3, 5, padding=2).double()
    rows = torch.rand(1, 2, 9, 4, dtype=torch.float64)
    stream = RowConvolution(conv, halo=2)
    found, first = [], 0
    for cut in cuts:
        found.append(stream.push(rows[:, :, first : first + cut], last=first + cut == 9))
        first += cut
    joined = torch.cat([strip for strip in found if strip is not None], dim=2)
    torch.testing.assert_close(joined, conv(rows), rtol=0, atol=1e-12)
