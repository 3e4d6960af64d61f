"""Counts, full tuning, LoRA and DoRA on the same base, and the protocols of Table 3."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from ucip_adapt.errors import ConfigError, UnknownNameError
from ucip_adapt.models import UCIP, UCIPConfig
from ucip_adapt.tuning import (
    PROTOCOLS,
    TRAINABLE_SETS,
    DynamicPromptConfig,
    add_prompt_adapter,
    count_adapter,
    count_parameters,
    full_tuning,
    lora_config,
    norms_and_biases,
    protocol_for,
    trainable_parameters,
)
from ucip_adapt.tuning.protocols import base_kind

MakeBase = Callable[..., UCIP]

# The numbers that the model page and the cards state.
DOCUMENTED = {
    "tiny": {"dpm": 1_312, "dpm+offset": 15_904, "dpm+offset+spade": 120_448},
    "full": {"basis": 3_072, "dpm": 9_696, "dpm+offset": 461_280, "dpm+offset+spade": 3_789_408},
}


@pytest.mark.parametrize("preset", DOCUMENTED)
def test_documented_counts(preset: str) -> None:
    config = UCIPConfig.preset(preset)
    for name, expected in DOCUMENTED[preset].items():
        assert count_adapter(config, DynamicPromptConfig(trainable_set=name)) == expected
        if preset == "tiny":
            model = add_prompt_adapter(UCIP(config), DynamicPromptConfig(trainable_set=name))
            counts = count_parameters(model)
            assert counts == (expected, 335_131 + expected, 4 * expected)


def test_six_slots_do_not_enlarge_an_adapter() -> None:
    for name in TRAINABLE_SETS:
        config = DynamicPromptConfig(trainable_set=name, trainable_blocks="last:1")
        sizes = {count_adapter(UCIPConfig.preset("nano", num_slots=n), config) for n in (1, 6)}
        assert len(sizes) == 1


@pytest.mark.parametrize("kind", ["prompted", "prompt-free"])
def test_full_tuning_trains_everything(kind: str, make_base: MakeBase, lq: Tensor) -> None:
    base = make_base(kind)
    with torch.no_grad():
        before = base(lq)
    parameters = full_tuning(base)
    assert base.config.prompt == "dynamic"
    assert len(parameters) == len(list(base.parameters()))
    with torch.no_grad():
        difference = (base(lq) - before).abs().max()
    if kind == "prompted":
        assert difference == 0
    else:
        assert 0 < difference < 0.1 * before.std()
    base(lq).square().mean().backward()
    # Under DDP a parameter without a gradient stops the training.
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for _, p in parameters)


def test_full_tuning_wants_a_plain_base(make_base: MakeBase) -> None:
    base = make_base()
    add_prompt_adapter(base)
    with pytest.raises(ConfigError, match="unload"):
        full_tuning(base)


def test_norms_and_biases_and_nothing_else(make_base: MakeBase, lq: Tensor) -> None:
    base = make_base()
    named = dict(norms_and_biases(base))
    # Told by their names here, by the kinds of their modules there.
    assert set(named) == {
        name
        for name, _ in base.named_parameters()
        if name.endswith(".bias") or name.split(".")[-2].startswith("norm")
    }
    assert {name for name, p in base.named_parameters() if p.requires_grad} == set(named)
    base(lq).square().mean().backward()
    # Under DDP a parameter without a gradient stops the training.
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in named.values())


def test_norms_and_biases_want_a_plain_prompted_base(make_base: MakeBase) -> None:
    with pytest.raises(ConfigError, match="compared with prompts, and this base has none"):
        norms_and_biases(make_base("prompt-free"))
    base = make_base()
    add_prompt_adapter(base)
    with pytest.raises(ConfigError, match="unload"):
        norms_and_biases(base)


# -- other PEFT methods ----------------------------------------------------------------------------

COEFFICIENTS = r"blocks\.\d+\.prompt\.coefficient\.fc[12]"


def _lora(base: UCIP, method: str) -> LoraConfig:
    if method == "coefficients":
        return LoraConfig(r=2, target_modules=COEFFICIENTS)
    return lora_config(base, budget=6_000, dora=method == "dora")


@pytest.mark.parametrize("method", ["lora", "dora", "coefficients"])
def test_lora_on_the_same_base(
    method: str, make_base: MakeBase, lq: Tensor, tmp_path: Path
) -> None:
    base = make_base()
    with torch.no_grad():
        before = base(lq)
    fingerprint = base.fingerprint
    model = get_peft_model(base, _lora(base, method))
    trainable = trainable_parameters(model)
    assert trainable
    assert all("lora_" in name for name, _ in trainable)
    start = [p.detach().clone() for _, p in trainable]
    optimizer = torch.optim.Adam([p for _, p in trainable], lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        model(lq).square().mean().backward()
        optimizer.step()
    assert all(not torch.equal(p, s) for (_, p), s in zip(trainable, start, strict=True))
    model.eval()
    with torch.no_grad():
        out = model(lq)
        assert (out - before).abs().max() > 1e-4
        with model.disable_adapter():
            assert torch.equal(model(lq), before)
    assert base.fingerprint == fingerprint
    model.save_pretrained(str(tmp_path), save_embedding_layers=False)
    loaded = PeftModel.from_pretrained(make_base(), str(tmp_path))
    with torch.no_grad():
        assert torch.equal(loaded(lq), out)


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("budget", [250, 1_312, 15_904, 120_448])
def test_lora_comes_nearest_to_a_budget(budget: int, dora: bool) -> None:
    base = UCIP(UCIPConfig.preset("tiny" if budget > 250 else "nano"))
    config = lora_config(base, budget=budget, dora=dora)
    assert config.r == config.lora_alpha
    assert config.use_dora is dora

    def distance(rank: int) -> int:
        copy = UCIP(base.config)
        changed = LoraConfig(r=rank, target_modules=config.target_modules, use_dora=dora)
        return abs(count_parameters(get_peft_model(copy, changed)).trainable - budget)

    ranks = [rank for rank in (config.r - 1, config.r, config.r + 1) if rank >= 1]
    assert min(ranks, key=distance) == config.r


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("blocks", ["all", "last:1"])
@pytest.mark.parametrize("name", ["dpm", "dpm+offset"])
def test_tiny_has_a_lora_for_every_budget_of_the_comparison(
    name: str, blocks: str, dora: bool
) -> None:
    base = UCIP(UCIPConfig.preset("tiny"))
    own = DynamicPromptConfig(trainable_set=name, trainable_blocks=blocks)
    budget = count_adapter(base.config, own)
    config = lora_config(base, budget=budget, dora=dora, trainable_blocks=blocks)
    trained = trainable_parameters(get_peft_model(base, config))
    assert 0.85 < sum(p.numel() for _, p in trained) / budget < 1.2
    seen = {path.split("blocks.")[1][0] for path, _ in trained}
    assert seen == ({"0", "1"} if blocks == "all" else {"1"})


def test_lora_below_every_budget(make_base: MakeBase) -> None:
    with pytest.raises(ConfigError, match="the smallest LoRA of this base has 192 parameters"):
        lora_config(make_base(), budget=100)


# -- protocols -------------------------------------------------------------------------------------


def test_table_of_protocols() -> None:
    rows = {name: (p.base, p.trained) for name, p in PROTOCOLS.items()}
    assert rows == {
        "i": ("prompted", "nothing"),
        "ii": ("prompt-free", "prompts"),
        "iii": ("prompt-free", "everything"),
        "iv": ("prompted", "prompts"),
        "v": ("prompted", "everything"),
    }
    assert all(p.name == name and p.text for name, p in PROTOCOLS.items())


@pytest.mark.parametrize(
    ("prompt", "everything", "default"),
    [
        ("dynamic", False, "iv"),
        ("none", False, "ii"),
        ("dynamic", True, "v"),
        ("none", True, "iii"),
    ],
)
def test_default_protocol(prompt: str, everything: bool, default: str) -> None:
    config = UCIPConfig.preset("nano", prompt=prompt)
    assert protocol_for(config, None, everything).name == default
    assert protocol_for(UCIP(config), default, everything) is PROTOCOLS[default]
    assert base_kind(config) == PROTOCOLS[default].base
    for name, protocol in PROTOCOLS.items():
        if name != default:
            with pytest.raises(ConfigError, match=f"protocol {name} ") as caught:
                protocol_for(config, name, everything)
            assert protocol.base in str(caught.value) or "use recipes/" in str(caught.value)


def test_unknown_protocol() -> None:
    with pytest.raises(UnknownNameError, match="Known: i, ii, iii, iv, v"):
        protocol_for(UCIPConfig.preset("nano"), "vi")


def test_trainable_parameters_is_a_list() -> None:
    assert isinstance(trainable_parameters(nn.Linear(1, 1)), list)
