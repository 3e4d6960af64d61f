"""What every trainable set must do on every kind of base."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn

from ucip_adapt.errors import ConfigError
from ucip_adapt.models import UCIP
from ucip_adapt.tuning import (
    TRAINABLE_SETS,
    DynamicPromptConfig,
    add_prompt_adapter,
    count_parameters,
    trainable_parameters,
)

pytestmark = [
    pytest.mark.parametrize("trainable_set", list(TRAINABLE_SETS)),
    pytest.mark.parametrize("kind", ["prompted", "prompt-free", "six-slot"]),
]

MakeBase = Callable[..., UCIP]


def _forward(model: nn.Module, lq: Tensor, **options: Any) -> Tensor:
    with torch.no_grad():
        return model(lq, **options)


def _train(model: nn.Module, lq: Tensor, steps: int) -> torch.optim.Optimizer:
    optimizer = torch.optim.Adam([p for _, p in trainable_parameters(model)], lr=1e-2)
    target = torch.full((*lq.shape[:2], 4 * lq.shape[2], 4 * lq.shape[3]), 0.25)
    for _ in range(steps):
        optimizer.zero_grad()
        (model(lq) - target).abs().mean().backward()
        optimizer.step()
    return optimizer


def test_start_is_the_base(kind: str, trainable_set: str, make_base: MakeBase, lq: Tensor) -> None:
    before = _forward(make_base(kind), lq)
    model = add_prompt_adapter(make_base(kind), DynamicPromptConfig(trainable_set=trainable_set))
    after = _forward(model, lq)
    if kind == "prompt-free":
        # Prompts of N(0, 0.02) are near zero prompts, not equal to them.
        assert 0 < (after - before).abs().max() < 0.1 * before.std()
    else:
        assert torch.equal(after, before)
    with model.disable_adapter():
        assert torch.equal(_forward(model, lq), before)


def _check_training(
    kind: str, trainable_set: str, make_base: MakeBase, lq: Tensor, steps: int
) -> None:
    base = make_base(kind)
    expected = {name: value.clone() for name, value in base.state_dict().items()}
    fingerprint = base.fingerprint
    model = add_prompt_adapter(base, DynamicPromptConfig(trainable_set=trainable_set))
    start = {name: p.detach().clone() for name, p in trainable_parameters(model)}
    # The set's own kinds and nothing else, by the names in the model.
    places = {name.split(".dynprompt_")[0].rsplit(".", 1)[1] for name in start}
    assert places == {"prompt", "offset", "spade"} & {
        {"dpm": "prompt"}.get(part, part) for part in TRAINABLE_SETS[trainable_set]
    }
    optimizer = _train(model, lq, steps)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for _, p in trainable_parameters(model)}
    assert all("dynprompt_" in name for name in start)
    frozen = base.base_tensors()
    assert frozen.keys() == expected.keys()
    assert all(torch.equal(frozen[name], expected[name]) for name in expected)
    assert base.fingerprint == fingerprint
    still = [name for name, p in trainable_parameters(model) if torch.equal(p, start[name])]
    assert not still, "trained parameters that did not move"


def test_training_moves_the_set_and_nothing_else(
    kind: str, trainable_set: str, make_base: MakeBase, lq: Tensor
) -> None:
    """R11, short."""
    _check_training(kind, trainable_set, make_base, lq, steps=3)


@pytest.mark.slow
def test_training_moves_the_set_and_nothing_else_in_50_steps(
    kind: str, trainable_set: str, make_base: MakeBase, lq: Tensor
) -> None:
    """R11, in full."""
    _check_training(kind, trainable_set, make_base, lq, steps=50)


def test_counts(kind: str, trainable_set: str, make_base: MakeBase) -> None:
    model = add_prompt_adapter(make_base(kind), DynamicPromptConfig(trainable_set=trainable_set))
    # nano with 2 blocks of 3 layers: C = 16, C_p = 8, D = 8, S = 2; by hand.
    basis = 2 * 8 * 8
    coefficient = 2 * ((16 * 8 + 8) + (8 * 8 + 8))
    offset = 4 * (2 * 24 + (24 * 16 + 16))
    spade = 6 * ((8 * 9 * 4 + 4) + 2 * (4 * 9 * 16 + 16))
    expected = {
        "basis": basis,
        "dpm": basis + coefficient,
        "dpm+offset": basis + coefficient + offset,
        "dpm+offset+spade": basis + coefficient + offset + spade,
    }
    assert count_parameters(model).trainable == expected[trainable_set]


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_save_and_load_under_another_name(
    kind: str,
    trainable_set: str,
    low_cpu_mem_usage: bool,
    make_base: MakeBase,
    perturb: Callable[..., None],
    lq: Tensor,
    tmp_path: Path,
) -> None:
    model = get_peft_model(
        make_base(kind), DynamicPromptConfig(codec="webp", trainable_set=trainable_set)
    )
    perturb(model)
    out = _forward(model, lq)
    model.save_pretrained(str(tmp_path))
    assert not any("default" in key for key in load_file(tmp_path / "adapter_model.safetensors"))
    base = make_base(kind)
    base_out = _forward(base, lq)
    loaded = PeftModel.from_pretrained(
        base, str(tmp_path), adapter_name="webp", low_cpu_mem_usage=low_cpu_mem_usage
    )
    assert torch.equal(_forward(loaded, lq), out)
    assert not torch.equal(out, base_out)
    assert not trainable_parameters(loaded)
    assert not any(p.is_meta for p in loaded.parameters())
    with loaded.disable_adapter():
        assert torch.equal(_forward(loaded, lq), base_out)
    assert not trainable_parameters(loaded), "disabling made an adapter trainable"
    loaded.load_adapter(str(tmp_path), "second", low_cpu_mem_usage=low_cpu_mem_usage)
    loaded.set_adapter("second", inference_mode=True)
    assert torch.equal(_forward(loaded, lq), out)
    assert not trainable_parameters(loaded)


def test_a_loaded_adapter_can_be_trained_on(
    kind: str,
    trainable_set: str,
    make_base: MakeBase,
    make_adapter: Callable[..., Path],
    lq: Tensor,
) -> None:
    folder = make_adapter(kind, trainable_set)
    model = PeftModel.from_pretrained(make_base(kind), str(folder), is_trainable=True)
    start = {name: p.detach().clone() for name, p in trainable_parameters(model)}
    assert start
    _train(model, lq, steps=1)
    assert all(not torch.equal(p, start[name]) for name, p in trainable_parameters(model))


@pytest.mark.parametrize(
    ("dtype", "scale", "tolerance"), [(torch.float32, 0.01, 1e-6), (torch.float64, 1.0, 1e-12)]
)
def test_each_image_with_its_own_adapter(
    kind: str,
    trainable_set: str,
    dtype: torch.dtype,
    scale: float,
    tolerance: float,
    make_base: MakeBase,
    perturb: Callable[..., None],
    lq: Tensor,
) -> None:
    """R16: in one batch as one by one."""
    config = DynamicPromptConfig(trainable_set=trainable_set)
    base = make_base(kind, last_conv_scale=scale).to(dtype)
    model = add_prompt_adapter(base, config)
    model.add_adapter("second", DynamicPromptConfig(trainable_set="dpm", trainable_blocks="last:1"))
    model.eval()
    perturb(model)
    perturb(model, "second", seed=2)
    images = torch.cat([lq, lq.flip(0)]).to(dtype)
    names = ["default", "__base__", "second", "second", "default", "__base__"]
    together = _forward(model, images, adapter_names=names)
    for i, name in enumerate(names):
        if name == "__base__":
            with model.disable_adapter():
                alone = _forward(model, images[i : i + 1])
        else:
            model.set_adapter(name)
            alone = _forward(model, images[i : i + 1])
        assert (together[i] - alone[0]).abs().max() <= tolerance, name
        # Another adapter makes a difference far beyond the tolerance.
        model.set_adapter("second" if name == "default" else "default")
        other = _forward(model, images[i : i + 1])
        assert (together[i] - other[0]).abs().max() > 100 * tolerance


def test_gradients_reach_mixed_batches(
    kind: str, trainable_set: str, make_base: MakeBase, perturb: Callable[..., None], lq: Tensor
) -> None:
    model = add_prompt_adapter(make_base(kind), DynamicPromptConfig(trainable_set=trainable_set))
    perturb(model)
    model.eval()
    model(lq, adapter_names=["default", "__base__", "default"]).sum().backward()
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0 for _, p in trainable_parameters(model)
    )


def test_merging(
    kind: str,
    trainable_set: str,
    make_base: MakeBase,
    make_adapter: Callable[..., Path],
    lq: Tensor,
    tmp_path: Path,
) -> None:
    """The merged base equals base and adapter bit for bit, also when saved and loaded again."""
    folder = make_adapter(kind, trainable_set)
    base = make_base(kind)
    fingerprint, keys = base.fingerprint, set(base.state_dict())
    model = PeftModel.from_pretrained(base, str(folder))
    out = _forward(model, lq)
    merged = model.merge_and_unload()
    assert type(merged) is UCIP
    assert set(merged.state_dict()) == keys
    assert merged.config.prompt == "dynamic"
    assert torch.equal(_forward(merged, lq), out)
    assert merged.fingerprint != fingerprint
    merged.save_pretrained(tmp_path / "merged")
    again = UCIP.from_pretrained(tmp_path / "merged")
    assert torch.equal(_forward(again, lq), out)
    assert again.fingerprint == merged.fingerprint
    again_adapted = add_prompt_adapter(again, DynamicPromptConfig(trainable_set=trainable_set))
    assert torch.equal(_forward(again_adapted, lq), out)


def test_unmerging_restores_the_base(
    kind: str,
    trainable_set: str,
    make_base: MakeBase,
    make_adapter: Callable[..., Path],
    lq: Tensor,
    snapshot: Callable[[nn.Module], dict[str, Any]],
) -> None:
    folder = make_adapter(kind, trainable_set)
    model = PeftModel.from_pretrained(make_base(kind), str(folder))
    before, out = snapshot(model), _forward(model, lq)
    fingerprint = model.fingerprint
    model.merge_adapter()
    assert torch.equal(_forward(model, lq), out)
    assert model.fingerprint != fingerprint
    with pytest.raises(ConfigError, match="merged"):
        model.load_adapter(str(folder), "second")
    model.unmerge_adapter()
    assert snapshot(model) == before
    assert model.fingerprint == fingerprint
    assert torch.equal(_forward(model, lq), out)
    model.merge_adapter()
    plain = model.unload()
    assert plain.fingerprint == fingerprint
    assert torch.equal(_forward(plain, lq), _forward(make_base(kind), lq))


def test_linear_combination(
    kind: str, trainable_set: str, make_base: MakeBase, perturb: Callable[..., None], lq: Tensor
) -> None:
    config = DynamicPromptConfig(codec="webp", trainable_set=trainable_set)
    model = add_prompt_adapter(make_base(kind), config)
    model.add_adapter("second", DynamicPromptConfig(codec="jpeg", trainable_set=trainable_set))
    perturb(model)
    perturb(model, "second", seed=2)
    model.add_weighted_adapter(["default", "second"], [0.25, 0.75], "mixture")
    parameters = dict(model.named_parameters())
    for name, value in parameters.items():
        if ".mixture" in name:
            first = parameters[name.replace(".mixture", ".default")]
            second = parameters[name.replace(".mixture", ".second")]
            torch.testing.assert_close(value, 0.25 * first + 0.75 * second, rtol=0, atol=1e-6)
    assert model.peft_config["mixture"].codec == "webp+jpeg"
    assert model.active_adapters == ["default"]
    model.add_weighted_adapter(["default", "second"], [1.0, 0.0], "same")
    out = _forward(model, lq)
    model.set_adapter("same")
    assert torch.equal(_forward(model, lq), out)


def test_last_block_only(
    kind: str, trainable_set: str, make_base: MakeBase, perturb: Callable[..., None], lq: Tensor
) -> None:
    config = DynamicPromptConfig(trainable_set=trainable_set, trainable_blocks="last:1")
    base = make_base(kind)
    before = _forward(base, lq)
    model = add_prompt_adapter(base, config)
    names = [name for name, _ in trainable_parameters(model)]
    assert names
    assert all(name.startswith("base_model.model.blocks.1.") for name in names)
    perturb(model)
    out = _forward(model, lq)
    assert not torch.equal(out, before)
    merged = model.merge_and_unload()
    assert torch.equal(_forward(merged, lq), out)


def test_slots_are_the_bases_own(
    kind: str, trainable_set: str, make_base: MakeBase, perturb: Callable[..., None], lq: Tensor
) -> None:
    """An adapter has one slot: it ignores ``slot``, and without it the base still follows."""
    if kind != "six-slot":
        pytest.skip("only a base with several slots")
    base = make_base(kind)
    slot = torch.tensor([0, 3, 5])
    before = _forward(base, lq, slot=slot)
    model = add_prompt_adapter(base, DynamicPromptConfig(trainable_set=trainable_set))
    perturb(model)
    assert torch.equal(_forward(model, lq, slot=slot), _forward(model, lq))
    with model.disable_adapter():
        assert torch.equal(_forward(model, lq, slot=slot), before)
    model.eval()
    mixed = _forward(model, lq, slot=slot, adapter_names=["default", "__base__", "__base__"])
    torch.testing.assert_close(mixed[1:], before[1:], rtol=0, atol=1e-5)
