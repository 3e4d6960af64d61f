"""Adapters made of others: mixtures of prompts, against a slow sum."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from ucip_adapt.errors import ConfigError, UnknownNameError
from ucip_adapt.models import UCIP
from ucip_adapt.tuning import DynamicPromptConfig, add_prompt_adapter, save_prompt_adapter
from ucip_adapt.tuning.layer import DynamicPromptLayer

MakeBase = Callable[..., UCIP]
Perturb = Callable[..., None]


@pytest.fixture
def make_pair(make_base: MakeBase, perturb: Perturb) -> Callable[..., PeftModel]:
    """A base with two different adapters, ``default`` and ``second``."""

    def make(first: str, second: str, kind: str = "prompted") -> PeftModel:
        model = add_prompt_adapter(make_base(kind), DynamicPromptConfig(trainable_set=first))
        model.add_adapter("second", DynamicPromptConfig(trainable_set=second))
        perturb(model)
        perturb(model, "second", seed=2)
        return model.double().eval()

    return make


def _dpm(model: PeftModel) -> DynamicPromptLayer:
    layer = model.get_base_model().blocks[1].prompt
    assert isinstance(layer, DynamicPromptLayer)
    return layer


def _logits(layer: DynamicPromptLayer, name: str, pixel: Tensor) -> tuple[list[float], Tensor]:
    """One pixel's logits and the bases of an adapter, number by number (Eq. 1)."""
    own = name in layer.dynprompt_coefficient_fc1
    fc1 = layer.dynprompt_coefficient_fc1[name] if own else layer.base_layer.coefficient.fc1
    fc2 = layer.dynprompt_coefficient_fc2[name] if own else layer.base_layer.coefficient.fc2

    def linear(fc: torch.nn.Module, values: list[float]) -> list[float]:
        rows = zip(fc.weight.tolist(), fc.bias.tolist(), strict=True)
        return [bias + sum(w * v for w, v in zip(row, values, strict=True)) for row, bias in rows]

    hidden = [0.5 * h * (1 + math.erf(h / math.sqrt(2))) for h in linear(fc1, pixel.tolist())]
    return linear(fc2, hidden), layer.dynprompt_basis[name].detach()


@pytest.mark.parametrize("sets", [("basis", "basis"), ("dpm", "dpm"), ("basis", "dpm")])
@pytest.mark.parametrize("kind", ["prompted", "prompt-free"])
@torch.no_grad()
def test_cat_is_the_mixture(
    sets: tuple[str, str], kind: str, make_pair: Callable[..., PeftModel]
) -> None:
    model = make_pair(*sets, kind)
    model.add_weighted_adapter(["default", "second"], [0.3, 0.9], "mixture", "cat")
    model.set_adapter("mixture", inference_mode=True)
    layer = _dpm(model)
    features = torch.randn(1, 2, 3, 16, dtype=torch.float64)
    prompts = layer(features)
    for h, w in [(0, 0), (1, 2)]:
        total, expected = 0.0, torch.zeros(8, dtype=torch.float64)
        for name, weight in [("default", 0.3), ("second", 0.9)]:
            logits, bases = _logits(layer, name, features[0, h, w])
            for logit, basis in zip(logits, bases, strict=True):
                total += weight * math.exp(logit)
                expected += weight * math.exp(logit) * basis
        torch.testing.assert_close(prompts[0, h, w], expected / total, rtol=0, atol=1e-12)


@torch.no_grad()
def test_cat_of_bases_is_in_proportion_to_the_weights(make_pair: Callable[..., PeftModel]) -> None:
    model = make_pair("basis", "basis")
    model.add_weighted_adapter(["default", "second"], [0.3, 0.9], "mixture", "cat")
    layer, prompts = _dpm(model), {}
    features = torch.randn(2, 4, 5, 16, dtype=torch.float64)
    for name in ("default", "second", "mixture"):
        model.set_adapter(name, inference_mode=True)
        prompts[name] = layer(features)
    expected = 0.25 * prompts["default"] + 0.75 * prompts["second"]
    torch.testing.assert_close(prompts["mixture"], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("combination_type", ["linear", "cat"])
def test_combinations_are_saved_and_loaded(
    combination_type: str,
    make_base: MakeBase,
    perturb: Perturb,
    lq: Tensor,
    tmp_path: Path,
) -> None:
    model = add_prompt_adapter(make_base(), DynamicPromptConfig(codec="webp"))
    model.add_adapter("second", DynamicPromptConfig(codec="jpeg"))
    perturb(model)
    perturb(model, "second", seed=2)
    model.add_weighted_adapter(["default", "second"], [1.0, 2.0], "mixture", combination_type)
    model.set_adapter("mixture")
    folder = save_prompt_adapter(model, tmp_path, adapter_name="mixture")
    loaded = PeftModel.from_pretrained(make_base(), str(folder))
    assert loaded.peft_config["default"].num_prompts == (16 if combination_type == "cat" else 8)
    with torch.no_grad():
        assert torch.equal(loaded(lq), model(lq))


@pytest.mark.parametrize(
    ("sets", "weights", "kind", "error", "message"),
    [
        (("dpm", "dpm+offset"), [1, 1], "cat", ConfigError, "'second' .* use 'linear'"),
        (("dpm", "dpm+offset"), [1, 1], "linear", ConfigError, "same trainable_set"),
        (("basis", "dpm"), [1, 1], "linear", ConfigError, "replace different parameters"),
        (("dpm", "dpm"), [1, -1], "cat", ConfigError, "'cat' needs positive ones"),
        (("dpm", "dpm"), [1], "linear", ConfigError, "2 adapters and 1 weights"),
        (("dpm", "dpm"), [1, math.nan], "linear", ConfigError, "finite"),
        (("dpm", "dpm"), [1, 1], "svd", UnknownNameError, "Known: cat, linear"),
    ],
)
def test_refused_combinations(
    sets: tuple[str, str],
    weights: list[float],
    kind: str,
    error: type[Exception],
    message: str,
    make_pair: Callable[..., PeftModel],
) -> None:
    model = make_pair(*sets)
    keys = set(model.state_dict())
    with pytest.raises(error, match=message):
        model.add_weighted_adapter(["default", "second"], weights, "mixture", kind)
    assert set(model.state_dict()) == keys
    assert set(model.peft_config) == {"default", "second"}


def test_unknown_and_taken_names(make_pair: Callable[..., PeftModel]) -> None:
    model = make_pair("dpm", "dpm")
    with pytest.raises(ConfigError, match=r"unknown adapter 'third'\. Known: default, second"):
        model.add_weighted_adapter(["default", "third"], [1, 1], "mixture")
    with pytest.raises(ConfigError, match="there is an adapter 'second' already"):
        model.add_weighted_adapter(["default"], [1], "second")
    with pytest.raises(ConfigError, match="is also the name of a part"):
        model.add_weighted_adapter(["default"], [1], "spade")
    with pytest.raises(ConfigError, match="name one"):
        model.merge_adapter(["default", "second"])
    assert set(model.peft_config) == {"default", "second"}
