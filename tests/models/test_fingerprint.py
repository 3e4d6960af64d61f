"""The identity of a base: what changes it, and what must not."""

from __future__ import annotations

import copy
import hashlib
import json
import pickle

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from ucip_adapt import UCIP
from ucip_adapt.models.fingerprint import fingerprint_of


def test_is_the_documented_hash(lively):
    """sha256 over the function's fields, then name, shape and float32 values by name."""
    model = lively("nano")
    digest = hashlib.sha256(json.dumps(model.config.function_fields(), sort_keys=True).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {list(value.shape)}".encode())
        digest.update(np.asarray(value.numpy(), dtype="<f4").tobytes())
    assert model.fingerprint == digest.hexdigest()


def test_equal_weights_have_one_fingerprint(lively):
    assert lively("nano").fingerprint == lively("nano").fingerprint
    assert lively("nano").fingerprint != lively("nano", seed=1).fingerprint


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_survives_a_cast(lively, dtype):
    model = lively("nano")
    before = model.fingerprint
    assert model.to(dtype).fingerprint == before
    assert model.fingerprint == before
    assert model.float().fingerprint == before


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_loaded_base_that_is_cast_at_once_is_that_base(lively, tmp_path, copied, dtype):
    """Nobody has asked for its identity before the cast."""
    lively("nano").save_pretrained(tmp_path)
    before = UCIP.from_pretrained(tmp_path).fingerprint
    model = UCIP.from_pretrained(tmp_path)
    if copied:
        model = copy.deepcopy(model)
    assert model.to(dtype).fingerprint == before
    assert copy.deepcopy(model).fingerprint == before  # its own values are others by now
    assert copy.deepcopy(model).float().fingerprint == before


def test_a_pickled_copy_of_a_cast_base_is_that_base(lively):
    model = lively("nano")
    before = model.fingerprint
    assert pickle.loads(pickle.dumps(model.half())).fingerprint == before  # noqa: S301 - our own


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("asked", [False, True])
def test_a_merged_base_is_another_base_also_after_a_cast(lively, tmp_path, dtype, asked):
    """PEFT merges through .data, which raises no version counter."""
    lively("nano").save_pretrained(tmp_path)
    model = UCIP.from_pretrained(tmp_path)
    before = UCIP.from_pretrained(tmp_path).fingerprint
    if asked:
        assert model.fingerprint == before
    config = LoraConfig(r=2, target_modules=["proj"], init_lora_weights=False)
    merged = get_peft_model(model, config).merge_and_unload()
    assert merged.to(dtype).fingerprint != before


def test_works_under_inference_mode(lively, tmp_path):
    lively("nano").save_pretrained(tmp_path)
    before = UCIP.from_pretrained(tmp_path).fingerprint
    with torch.inference_mode():
        model = UCIP.from_pretrained(tmp_path)
        assert model.fingerprint == copy.deepcopy(model).half().fingerprint == before


def test_casting_a_part_or_a_wrapper_keeps_or_loses_it_as_documented(lively):
    model = lively("nano")
    before = model.fingerprint
    assert torch.nn.Sequential(model).half()[0].fingerprint == before
    other = lively("nano")
    other.blocks.half()
    assert other.fingerprint != before


def test_networks_without_values_move(lively):
    with torch.device("meta"):
        model = UCIP(lively("nano").config)
    assert model.half().embed.weight.dtype == torch.float16
    filled = model.float().to_empty(device="cpu")
    filled.load_state_dict(lively("nano").state_dict())
    assert filled.fingerprint == lively("nano").fingerprint


def test_a_copy_shares_nothing_and_is_another_base_once_changed(lively):
    model = lively("nano")
    before = model.fingerprint
    copied = copy.deepcopy(model)
    assert not {id(p) for p in model.parameters()} & {id(p) for p in copied.parameters()}
    with torch.no_grad():
        copied.norm.bias.add_(1)
    assert copied.half().fingerprint != before == model.fingerprint


def test_a_copy_of_a_changed_base_is_another_base(lively):
    model = lively("nano")
    before = model.fingerprint
    with torch.no_grad():
        model.norm.bias.add_(1)
    assert copy.deepcopy(model).half().fingerprint != before


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.view(-1)[0:1].mul_(1.0001),
        lambda p: p.data.add_(1e-3),
        lambda p: setattr(p, "data", p.data * 1.01),
    ],
    ids=["in place", "through .data, as PEFT merges", "data replaced"],
)
@pytest.mark.parametrize("cast", [False, True])
def test_one_changed_value_is_another_base(lively, change, cast):
    model = lively("nano")
    before = model.fingerprint
    if cast:
        model.double()
        assert model.fingerprint == before
    with torch.no_grad():
        change(model.blocks[0].layers[1].mlp.fc2.bias)
    assert model.fingerprint != before


def test_loading_other_weights_is_another_base(lively):
    for assign in (False, True):
        model, other = lively("nano"), lively("nano", seed=1)
        before = model.fingerprint
        model.load_state_dict(other.state_dict(), assign=assign)
        assert model.fingerprint == other.fingerprint != before


def test_training_and_restoring_the_weights_gives_the_old_fingerprint(lively):
    model = lively("nano")
    before = model.fingerprint
    saved = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        model.norm.weight.add_(1)
    assert model.fingerprint != before
    model.load_state_dict(saved)
    assert model.fingerprint == before


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"window": 32}, True),
        ({"window": 32, "window_stride": 8}, True),
        ({"sampler": "gather"}, True),
        ({"last_conv_scale": 0.5}, True),
        ({"global_skip": "none"}, False),
        ({"prompt": "none"}, False),
    ],
)
def test_only_fields_that_change_the_function_count(lively, changes, same):
    base, other = lively("nano"), lively("nano")
    other.config = other.config.replace(**changes)
    assert (other.fingerprint == base.fingerprint) == same


def test_names_and_shapes_count(lively):
    config = lively("nano").config
    zeros = {"a": torch.zeros(2, 3)}
    found = {
        fingerprint_of(tensors, config)
        for tensors in (zeros, {"b": torch.zeros(2, 3)}, {"a": torch.zeros(3, 2)})
    }
    assert len(found) == 3


def test_modules_wrapped_around_the_base_do_not_count(lively):
    """Peft keeps a replaced module as ``base_layer`` and adds tensors of its own beside it."""

    class Wrapper(torch.nn.Module):
        def __init__(self, base_layer: torch.nn.Module) -> None:
            super().__init__()
            self.base_layer = base_layer
            self.lora_A = torch.nn.Linear(2, 2)

    model: UCIP = lively("nano")
    before, names = model.fingerprint, set(model.base_tensors())
    model.blocks[0].prompt.coefficient.fc1 = Wrapper(model.blocks[0].prompt.coefficient.fc1)
    assert set(model.base_tensors()) == names
    assert model.fingerprint == before
