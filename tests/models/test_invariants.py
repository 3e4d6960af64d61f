"""What must hold of the network whatever its weights are."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from ucip_adapt import UCIP, UCIPConfig
from ucip_adapt.errors import ConfigError, UnknownNameError
from ucip_adapt.models import upscale_windows
from ucip_adapt.models.token_mixer import OffsetLayer, TokenMixer


def test_transposed_weights_give_the_transposed_image(lively):
    """Swap the axes in every weight: the output transposes. Catches any mixed-up axis."""
    model = lively("nano", num_blocks=2, num_layers=4).double()
    twin = lively("nano", num_blocks=2, num_layers=4, seed=1).double()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for name, value in state.items():
        if value.dim() == 4:
            state[name] = value.transpose(2, 3)
        elif "mixer.horizontal" in name:
            other = name.replace("horizontal", "vertical")
            state[name], state[other] = state[other], state[name]
        elif "offset.linear" in name:
            state[name] = torch.cat(value.chunk(2)[::-1])
        elif "fusion.fc2" in name:
            units = value.view(16, 3, -1)
            state[name] = units[:, [1, 0, 2]].reshape(value.shape)
    twin.load_state_dict(state)
    lq = torch.rand(2, 3, 6, 9, dtype=torch.float64)
    expected = model(lq).transpose(2, 3)
    torch.testing.assert_close(twin(lq.transpose(2, 3)), expected, rtol=0, atol=1e-12)
    assert (model(lq.transpose(2, 3)) - expected).abs().max() > 0.01


def test_images_of_a_batch_do_not_meet(lively):
    model = lively("nano").double()
    lq = torch.rand(3, 3, 7, 8, dtype=torch.float64)
    together = model(lq)
    for index in range(3):
        alone = model(lq[index : index + 1])[0]
        torch.testing.assert_close(together[index], alone, rtol=0, atol=1e-12)


def test_training_and_evaluation_mode_are_one_function(lively):
    model = lively("nano")
    lq = torch.rand(1, 3, 7, 8)
    assert torch.equal(model.train()(lq), model.eval()(lq))


def test_a_network_changes_its_sampler(lively):
    """The function stays, what is called and in which layout does not; nor is it saved."""
    model, lq = lively("nano").double(), torch.rand(1, 3, 12, 17, dtype=torch.float64)
    before, config = model(lq).detach(), model.config
    model.use_sampler("gather")
    mixers = [module for module in model.modules() if isinstance(module, TokenMixer)]
    offsets = [module for module in model.modules() if isinstance(module, OffsetLayer)]
    assert {mixer.sampler for mixer in mixers} == {"gather"}
    assert {layer.planar for layer in offsets} == {True}
    torch.testing.assert_close(model(lq), before, rtol=0, atol=1e-9)
    model.use_sampler("fused")
    assert {mixer.sampler for mixer in mixers} == {"fused"}
    assert {layer.planar for layer in offsets} == {False}
    assert model.config is config
    with pytest.raises(UnknownNameError, match=r"unknown sampler 'fusd'; did you mean 'fused'"):
        model.use_sampler("fusd")
    assert mixers[0].sampler == "fused"


def test_both_samplers_give_one_function(lively):
    grid, gather = (lively("nano", sampler=sampler).double() for sampler in ("grid", "gather"))
    lq = torch.rand(1, 3, 9, 6, dtype=torch.float64)
    torch.testing.assert_close(grid(lq), gather(lq), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(13, 31), (1, 9), (9, 1), (2, 1)])
def test_any_size_but_a_single_pixel(lively, size):
    sr = lively("nano")(torch.rand(1, 3, *size))
    assert sr.shape == (1, 3, 4 * size[0], 4 * size[1])
    assert sr.isfinite().all()


def test_refuses_a_single_pixel_and_other_shapes(lively):
    model = lively("nano")
    with pytest.raises(ValueError, match=r"lq is 1 x 1 pixels: a single pixel has no statistics"):
        model(torch.rand(1, 3, 1, 1))
    for shape in ((3, 8, 8), (1, 1, 8, 8), (1, 4, 8, 8)):
        with pytest.raises(ValueError, match=r"lq must have shape \(B, 3, H, W\)"):
            model(torch.rand(shape))


@pytest.mark.parametrize("window", ["config", None, 8])
def test_upscale_refuses_other_shapes_and_no_pixels(lively, window):
    model = lively("nano", window=16)
    for shape in ((3, 40, 30), (40, 30), (5,), (), (1, 1, 40, 30), (1, 4, 8, 8), (1, 1, 3, 9, 9)):
        # The shape that was given, not that of a padded image or of a batch of windows.
        told = re.escape(f"lq must have shape (B, 3, H, W), got {shape}")
        with pytest.raises(ValueError, match=f"^{told}$"):
            model.upscale(torch.rand(shape), window=window)
    for shape in ((0, 3, 40, 30), (0, 3, 4, 4), (1, 3, 0, 5), (1, 3, 40, 0), (0, 3, 0, 0)):
        with pytest.raises(ValueError, match=re.escape(f"lq of shape {shape} holds no pixel")):
            model.upscale(torch.rand(shape), window=window)


@pytest.mark.parametrize("size", [(1, 1), (1, 20), (5, 3), (7, 9), (8, 8), (9, 12)])
def test_upscale_repeats_the_edge_of_small_sides_only(lively, size):
    model = lively("nano")
    lq = torch.rand(2, 3, *size)
    rows = torch.arange(max(size[0], 8)).clamp(max=size[0] - 1)
    columns = torch.arange(max(size[1], 8)).clamp(max=size[1] - 1)
    padded = lq[:, :, rows][:, :, :, columns]
    expected = model(padded)[:, :, : 4 * size[0], : 4 * size[1]].clamp(0, 1)
    torch.testing.assert_close(model.upscale(lq), expected)


def test_upscale_takes_the_window_from_the_configuration_or_the_call(lively):
    model, whole = lively("nano", window=8, window_stride=3), lively("nano")
    lq = torch.rand(1, 3, 8, 20)
    with torch.no_grad():
        blend = upscale_windows(whole, lq, window=8, stride=3).clamp(0, 1)
    assert torch.equal(model.upscale(lq), blend)
    assert torch.equal(lively("nano", window=8).upscale(lq), whole.upscale(lq, window=8))
    assert torch.equal(model.upscale(lq, window=None), whole.upscale(lq))
    assert not torch.equal(whole.upscale(lq), whole.upscale(lq, window=8))
    with pytest.raises(ValueError, match=r"window='all': give 'config', None or a number"):
        model.upscale(lq, window="all")


@pytest.mark.parametrize("height_width_colour", [True, False])
def test_blocks_see_pixels_whatever_the_memory_of_the_image(lively, height_width_colour):
    """Of one (H, W, 3) array seen as (1, 3, H, W), a convolution makes planes if it is let."""
    model, layouts = lively("nano"), []
    model.blocks[0].register_forward_pre_hook(
        lambda _, inputs: layouts.append(inputs[0].is_contiguous())
    )
    lq = torch.rand(9, 13, 3).permute(2, 0, 1)[None]
    with torch.no_grad():
        model(lq if height_width_colour else lq.contiguous())
    assert layouts == [True]


def test_gradient_checkpointing_changes_no_gradient(lively):
    lq = torch.rand(1, 3, 6, 7)

    def gradients(*, checkpointing: bool) -> list[Tensor]:
        model = lively("nano", num_blocks=2, num_slots=2).train()
        if checkpointing:
            model.enable_gradient_checkpointing()
        loss = model(lq, torch.tensor([1])).square().mean()
        return list(torch.autograd.grad(loss, list(model.parameters())))

    pairs = zip(gradients(checkpointing=False), gradients(checkpointing=True), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_offsets_stay_in_float32_under_autocast(lively):
    """A bfloat16 offset of 20 pixels has steps of an eighth of a pixel."""
    layer = lively("nano").blocks[0].layers[0].offset
    with torch.no_grad():
        layer.linear.bias.mul_(40)
    x, prompt = torch.randn(1, 4, 5, 16), torch.randn(1, 4, 5, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = layer(x, prompt)
    assert found.dtype == torch.float32
    assert torch.equal(found, layer(x, prompt))


def test_bfloat16_autocast_is_close_to_float32(lively):
    model = lively("nano")
    lq = torch.rand(1, 3, 4, 300)
    with torch.no_grad():
        expected = model(lq)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = model(lq)
    error = (found.float() - expected).std() / expected.std()
    assert error < 0.02


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("window", [None, 8])
def test_weights_of_half_precision_are_refused_with_what_to_do(lively, dtype, window):
    model, lq = lively("nano").eval().to(dtype), torch.rand(1, 3, 9, 12)
    for image in (lq, lq.to(dtype)):
        with pytest.raises(ConfigError, match=rf"{dtype}.*model.float\(\).*torch.autocast\('cpu'"):
            model.upscale(image, window=window)
    assert model.float().upscale(lq, window=window).isfinite().all()


def test_count_of_trainable_parameters():
    model = UCIP(UCIPConfig.preset("nano"))
    model.requires_grad_(False)
    model.blocks[0].prompt.basis.requires_grad_(True)
    assert model.num_parameters(trainable_only=True) == 8 * 8
